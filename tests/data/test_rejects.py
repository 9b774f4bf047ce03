"""Bad rows set aside in a file, which a resumed run reads again."""

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
