"""What `validate` says of files: their formats, rows, faults, duplicates and lengths."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medgpt_ray.data import check
from medgpt_ray.data.check import Duplicate, histogram, validate
from medgpt_ray.data.rows import BadRow
from medgpt_ray.types import Conversation, Labelled, Row


def write(path: Path, *rows: Any) -> str:
    texts = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return str(path)


def qa(question: str, answer: str = "5 mg.") -> dict[str, str]:
    return {"question": question, "answer": answer}


def test_a_folder_of_mixed_formats_is_reported_file_by_file(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", qa("Which dose?"), qa("每天几次?"))
    write(tmp_path / "b.txt", "Fever is a sign.")
    table = pa.Table.from_pylist([{"instruction": "Translate.", "output": "Dose"}])
    pq.write_table(table, tmp_path / "c.parquet")
    report = validate([str(tmp_path)], stage=None)
    assert report.ok
    assert report.problems == []
    found = [(file.path, file.format, file.rows, file.characters) for file in report.files]
    assert found == [
        (f"{tmp_path}/a.jsonl", "qa", 2, 11 + 5 + 5 + 5),
        (f"{tmp_path}/b.txt", "text", 1, 16),
        (f"{tmp_path}/c.parquet", "alpaca", 1, 14),
    ]
    assert not report.lengths


def test_bad_rows_are_named_and_files_that_fail_lose_no_other(tmp_path: Path) -> None:
    rows = write(tmp_path / "a.jsonl", qa("Which dose?"), "{", qa("How?", ""), {"text": "Fever."})
    other = write(tmp_path / "b.jsonl", {"body": 1})
    last = write(tmp_path / "c.jsonl", qa("Why?"))
    report = validate([rows, f"{tmp_path}/none.jsonl", other, last], stage="sft")
    assert [(file.rows, file.bad_rows) for file in report.files] == [(1, 3), (0, 0), (0, 0), (1, 0)]
    assert not report.ok
    expected = [
        f"{rows}:2: invalid JSON at column 2",
        f"{rows}:3: answer: empty, expected text",
        f"{rows}:4: question: missing",
        f"{tmp_path}/none.jsonl: no such file",
        f"{other}:1: has the keys ['body'], which fit no known format",
    ]
    for problem, start in zip(report.problems, expected, strict=True):
        assert problem.startswith(start)


def test_a_file_whose_rows_do_not_fit_the_stage_is_one_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", qa("Which dose?"), qa("How often?"))
    (problem,) = validate([path], stage="dpo").problems
    assert problem == (
        f"{path}: stage dpo trains on preference pairs, these are conversations: train with "
        "stage sft"
    )


def test_a_named_format_is_not_looked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "Fever.", **qa("Which dose?")})
    (problem,) = validate([path], stage=None).problems
    assert "could be qa or text: name its format" in problem
    assert validate([path], stage="pt", format="text").ok
    assert validate([path], stage="sft", format="qa").ok


def test_duplicates_are_found_over_all_files_and_formats(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", qa("Which dose?"), qa("Why?"), qa("Which dose"), qa("Why?"))
    again = {"conversations": [{"from": "human", "value": "Which dose?"}]}
    again["conversations"].append({"from": "gpt", "value": "5 mg."})
    second = write(tmp_path / "b.jsonl", again, qa("not read"))
    report = validate([first, second], stage="sft")
    assert (report.exact, report.near) == (2, 1)
    assert report.duplicates == [
        Duplicate(f"{first}:2", f"{first}:4"),
        Duplicate(f"{first}:1", f"{second}:1"),
    ]
    assert report.near_duplicates == [Duplicate(f"{first}:1", f"{first}:3")]


def test_what_is_shown_is_capped_and_what_is_counted_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "PROBLEMS_KEPT", 3)
    same = [qa("Which dose?")] * 6
    near = [qa("Which dose" + "!" * count) for count in range(1, 6)]
    path = write(tmp_path / "a.jsonl", *same, *near, *["{"] * 7)
    report = validate([path], stage="sft")
    assert (report.exact, report.near, report.files[0].bad_rows) == (5, 5, 7)
    assert len(report.duplicates) == len(report.near_duplicates) == len(report.problems) == 3


def test_lengths_are_of_the_examples_of_the_stage(tmp_path: Path) -> None:
    pair = {"prompt": "Which dose?", "chosen": "5 mg", "rejected": "50 mg"}
    path = write(tmp_path / "a.jsonl", pair)

    def lengths(row: Row) -> int:
        assert isinstance(row, Labelled)
        return len(row.completion[0]["content"])

    assert validate([path], "kto", lengths=lengths).lengths == Counter({4: 1, 5: 1})


def test_a_row_that_the_renderer_refuses_is_bad(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", qa("Which dose?"), qa("Why?"))

    def lengths(row: Row) -> int:
        assert isinstance(row, Conversation)
        if row.messages[0]["content"] == "Why?":
            raise BadRow("messages", "the template refuses them")
        return 9

    report = validate([path], None, lengths=lengths)
    assert report.problems == [f"{path}:2: messages: the template refuses them"]
    assert (report.files[0].rows, report.lengths) == (1, Counter({9: 1}))


def test_a_histogram_doubles_its_bounds() -> None:
    lengths = Counter({1: 2, 64: 1, 65: 4, 300: 1})
    assert list(histogram(lengths)) == [(64, 3), (128, 4), (256, 0), (512, 1)]
    assert list(histogram(Counter())) == []


SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder of real samples beside the repository")
def test_every_real_sample_is_valid() -> None:
    report = validate([str(SHARED)], stage=None)
    assert report.problems == []
    assert len(report.files) == len([path for path in SHARED.iterdir() if path.suffix != ".md"])
