"""Bad rows set aside in a file, which a resumed run reads again."""

import json
from pathlib import Path

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data.files import find
from medgpt_ray.data.rejects import Rejects
from medgpt_ray.data.rows import BadRow
from medgpt_ray.data.segments import read, segments


def test_bad_rows_are_known_again_whatever_characters_they_hold(tmp_path: Path) -> None:
    data = SupervisedData(train=[{"path": "a.jsonl"}], on_bad_row="skip")
    rejects = Rejects(tmp_path / "rejected.jsonl", data)
    rejects.add("a.jsonl:1", "answer: empty", "Fever\u2028is \x85 a sign.")
    rejects.add("a.jsonl:2", "answer: empty", "\r\n")
    again = Rejects(tmp_path / "rejected.jsonl", data)
    assert again.problems == rejects.problems
    again.add("a.jsonl:1", "answer: empty", "")
    assert len((tmp_path / "rejected.jsonl").read_bytes().split(b"\n")) == 3


def test_a_line_that_a_kill_cut_off_is_written_anew(tmp_path: Path) -> None:
    data = SupervisedData.model_validate({"train": [{"path": "x"}], "on_bad_row": "skip"})
    file = tmp_path / "rejected.jsonl"
    Rejects(file, data).add("a:1", "empty", "第一行")
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:-5])  # in the middle of a character
    rejects = Rejects(file, data)
    assert rejects.problems == {"a:1": "empty"}
    rejects.add("a:2", "empty", "")
    assert [json.loads(line)["place"] for line in file.open(encoding="utf-8")] == ["a:1", "a:2"]


def test_rows_of_one_line_are_told_apart(tmp_path: Path) -> None:
    """As `json.dump` writes a list; half of them is drawn row by row too."""
    (tmp_path / "list.json").write_text('[{"text": "a"}, 3, {"text": "b"}, 4]')
    (file,) = find(f"{tmp_path}/list.json")
    records = [record for segment in segments(file) for record in read(segment)]
    places = [f"{file.path}:1", *(f"{file.path}:1#{n}" for n in (2, 3, 4))]
    assert [record.place for record in records] == places
    data = SupervisedData.model_validate({"train": [{"path": "x"}], "on_bad_row": "skip"})
    rejects = Rejects(tmp_path / "rejected.jsonl", data)
    for record in records:
        if isinstance(record.value, BadRow):
            rejects.add(record.place, str(record.value), record.value.raw)
    assert len((tmp_path / "rejected.jsonl").read_text().splitlines()) == 2
