"""Writes doses_train.jsonl: sums about made-up doses, each row with the table that answers it.

    python configs/demo/data/make_doses.py

The doses are invented for arithmetic and are no advice; no clinician has read them.
"""

import json
import random
from pathlib import Path

MEDICINES = {"amoxal": 25, "paravex": 15, "ibulon": 10, "cefadine": 12, "metrozan": 8, "dexavil": 5}
"""Name -> mg for each kg."""


def rows(count: int) -> list[dict[str, object]]:
    draw = random.Random(0)
    made = []
    for _ in range(count):
        names = draw.sample(sorted(MEDICINES), 3)
        name, weight, parts = draw.choice(names), draw.randint(6, 60), draw.choice([1, 2, 3])
        whole = MEDICINES[name] * weight
        how = "in one dose a day" if parts == 1 else f"in {parts} equal doses a day"
        made.append(
            {
                "question": f"A child weighs {weight} kg and needs {name}, given {how}. "
                "How many mg is one dose?",
                "answer": f"{whole / parts:.6g} mg",
                "doses": {each: f"{MEDICINES[each]} mg/kg a day" for each in names},
            }
        )
    return made


if __name__ == "__main__":
    lines = [json.dumps(row) for row in rows(64)]
    path = Path(__file__).with_name("doses_train.jsonl")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
