"""What the first stages of the demo's pipeline learn from: made from the notes, and sound."""

import json
import subprocess
import sys
from pathlib import Path

from medgpt_ray.rewards.text import token_f1

FOLDER = Path(__file__).parents[2] / "configs" / "demo" / "data"


def rows(name: str) -> list[dict[str, str]]:
    text = (FOLDER / f"notes_{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_script_writes_what_is_shipped(tmp_path: Path) -> None:
    script = FOLDER / "make_pipeline.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=300)
    for name in ("notes_text.jsonl", "notes_pairs.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_the_chosen_answer_is_right_and_the_rejected_one_scores_less() -> None:
    gold = {row["question"]: row["answer"] for row in rows("train")}
    pairs = rows("pairs")
    assert len(pairs) == len(gold) == 400
    for pair in pairs:
        row = {"answer": gold[pair["prompt"]]}
        assert pair["chosen"] == row["answer"]
        assert token_f1(pair["prompt"], pair["rejected"], row) < 0.7
    assert len({pair["rejected"] for pair in pairs}) > 100


def test_no_held_out_note_is_among_them() -> None:
    heldout = {row["question"].rsplit("\n", 1)[0] for row in rows("heldout")}
    assert not heldout & {row["text"] for row in rows("text")}
