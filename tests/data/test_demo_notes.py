"""The demo's notes: sound answers, nothing shared with the held-out set, no reward for tricks."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medgpt_ray.rewards.text import token_f1, tokens

FOLDER = Path(__file__).parents[2] / "configs" / "demo" / "data"
NOT_STATED = "not stated"
with (FOLDER / "cases.csv").open(encoding="utf-8", newline="") as file:
    CASES = list(csv.DictReader(file))

Row = dict[str, str]


def rows(name: str) -> list[Row]:
    text = (FOLDER / f"notes_{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def note(row: Row) -> str:
    return row["question"].rsplit("\n", 1)[0]


def sentences(row: Row) -> list[str]:
    return re.split(r"(?<!\b[A-Z])\. ", note(row))  # the initial of a name ends no sentence


def mean_reward(set_rows: list[Row], reply: Callable[[Row], str]) -> float:
    return sum(token_f1(row["question"], reply(row), dict(row)) for row in set_rows) / len(set_rows)


both_sets = pytest.mark.parametrize("name", ["train", "heldout"])


def test_the_shipped_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    script = FOLDER / "make_notes.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=300)
    for name in ("notes_train.jsonl", "notes_heldout.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


@both_sets
def test_every_answer_is_a_short_span_of_the_note_or_not_stated(name: str) -> None:
    set_rows = rows(name)
    assert len({row["question"] for row in set_rows}) == len(set_rows)
    for row in set_rows:
        if row["answer"] != NOT_STATED:
            assert row["answer"].casefold() in note(row).casefold()
            assert len(row["answer"].split()) <= 8
    absent = sum(row["answer"] == NOT_STATED for row in set_rows) / len(set_rows)
    assert 0.13 <= absent <= 0.2


TRACES = {
    "age": r"aged|years|year-old|\bis \d+ and\b|^\S+ \S+, \d+,",
    "allergen": "allerg|react|avoid|sensitiv",
    "reaction": r"\((?!\d+ years\))|reaction to|reacts|avoid [^.]* because",
    "review": "review|follow-up|seen again|visit|comes back",
    "test": "requested|arranged|booked|referred|next step",
}
"""Kind of fact -> what every sentence that states it matches."""


def trace(row: Row) -> str:
    """A pattern that finds the fact asked for in the notes that state it."""
    question = row["question"].rsplit("\n", 1)[1]
    for case in CASES:
        if row["kind"] == "dose" and case["medicine"] in question:
            return rf"{case['medicine']},? (?:at )?(?:[-\d]|one drop)"
        if row["kind"] == "value" and re.search(rf"\b{case['measure']}[.?]?$", question):
            return re.escape(case["measure"])
    return TRACES[row["kind"]]


@both_sets
def test_what_is_not_stated_leaves_no_trace_in_the_note(name: str) -> None:
    for row in rows(name):
        if row["kind"] in ("dose", "value", *TRACES):
            found = re.search(trace(row), note(row), re.IGNORECASE)
            assert bool(found) == (row["answer"] != NOT_STATED), row


def test_training_and_heldout_share_no_answer_person_medicine_or_condition() -> None:
    train, heldout = rows("train"), rows("heldout")
    answers = [{" ".join(tokens(row["answer"])) for row in part} for part in (train, heldout)]
    assert answers[0] & answers[1] == {NOT_STATED}
    assert not {note(row) for row in train} & {note(row) for row in heldout}
    names = [
        {*re.findall(r"\b[A-Z]\. (\w+)", " ".join(map(note, part)))} for part in (train, heldout)
    ]
    assert all(names)
    assert not names[0] & names[1]
    for column in ("condition", "complaint", "medicine", "measure", "test"):
        per_set: dict[str, set[str]] = {"train": set(), "heldout": set()}
        for case in CASES:
            per_set[case["split"]].add(case[column].casefold())
            if column == "medicine":
                per_set[case["split"]].add(case["other_medicine"].casefold())
        assert not per_set["train"] & per_set["heldout"], column


@both_sets
def test_degenerate_replies_score_low_and_the_gold_scores_one(name: str) -> None:
    set_rows = rows(name)
    frequent = "not stated mg in week weeks twice day 50 five"
    assert mean_reward(set_rows, lambda row: row["answer"]) == 1.0
    assert mean_reward(set_rows, lambda row: "") == 0.0
    assert mean_reward(set_rows, lambda row: NOT_STATED) < 0.21
    assert mean_reward(set_rows, lambda row: note(row)) < 0.2
    assert mean_reward(set_rows, lambda row: row["question"]) < 0.2
    assert mean_reward(set_rows, lambda row: note(row) + " " + NOT_STATED) < 0.25
    assert mean_reward(set_rows, lambda row: frequent) < 0.15
    assert mean_reward(set_rows, lambda row: " ".join([row["answer"]] * 8)) < 0.25
    assert mean_reward(set_rows, lambda row: row["question"].rsplit("\n", 1)[1]) < 0.1
    for index in (0, 1, -1):
        assert mean_reward(set_rows, lambda row, i=index: sentences(row)[i]) < 0.3
