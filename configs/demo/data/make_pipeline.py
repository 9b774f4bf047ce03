"""Write notes_text.jsonl and notes_pairs.jsonl from notes_train.jsonl: `python make_pipeline.py
[DIRECTORY]`.

What the first stages of demo/ppo-pipeline learn from: the notes alone as documents, and for each
question its answer beside a worse one. The worse answer is wrong (the same kind of fact of another
note), withheld ("not stated" where the note states it) or buried in the whole note; where the note
does not hold the fact, it is an invented one. The output depends on nothing but the input.
"""

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOT_STATED = "not stated"

Row = dict[str, str]


def main(directory: Path) -> None:
    rows = [json.loads(line) for line in (HERE / "notes_train.jsonl").read_text().splitlines()]
    notes = dict.fromkeys(note(row) for row in rows)
    _write(directory / "notes_text.jsonl", [{"text": text} for text in notes])
    _write(directory / "notes_pairs.jsonl", pairs(rows, random.Random(0)))


def note(row: Row) -> str:
    """The question is the last line of what the model is asked."""
    return row["question"].rsplit("\n", 1)[0]


def pairs(rows: list[Row], chance: random.Random) -> list[Row]:
    made = []
    for row in rows:
        others = sorted(
            {
                other["answer"]
                for other in rows
                if other["kind"] == row["kind"] and other["answer"].lower() not in note(row).lower()
            }
            - {NOT_STATED, row["answer"]}
        )
        worse = chance.choice(others)
        if row["answer"] != NOT_STATED:
            worse = chance.choice((worse, worse, NOT_STATED, note(row)))
        made.append({"prompt": row["question"], "chosen": row["answer"], "rejected": worse})
    return made


def _write(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
