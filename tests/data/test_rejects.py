"""Bad rows set aside in a file, which a resumed run reads again."""

import json
from pathlib import Path

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data.rejects import Rejects


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
