"""A file made in parts: whole at the end, the same in any order, and never of two minds."""

from pathlib import Path

import pytest

from medgpt_ray.tracking.parts import Parts, PartsError


def test_parts_in_any_order_make_the_file_in_order(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "a.jsonl")
    with parts.opened({"seed": 1}):
        parts.commit(2, ["e"])
        parts.commit(0, ["a", "b"])
        assert parts.missing(3) == {1}
    with parts.opened({"seed": 1}):  # another process goes on
        assert parts.missing(3) == {1}
        parts.commit(1, ["c", "d"])
        parts.join(3, 5)
    assert (tmp_path / "a.jsonl").read_text() == "a\nb\nc\nd\ne\n"
    assert not parts.folder.exists()


def test_parts_made_otherwise_are_never_mixed_in(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "a.jsonl")
    with parts.opened({"seed": 1, "model": "x"}):
        parts.commit(0, ["a"])
    with (
        pytest.raises(PartsError, match=r"was begun with another seed: repeat that"),
        parts.opened({"seed": 2, "model": "x"}),
    ):
        pass
    assert parts.missing(1) == set()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Parts(tmp_path / "a.jsonl").opened({}):
        other = Parts(tmp_path / "a.jsonl")
        with pytest.raises(PartsError, match="another process is at work"), other.opened({}):
            pass
    with Parts(tmp_path / "a.jsonl").opened({}):
        pass


def test_a_part_that_lost_lines_makes_no_file(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "a.jsonl")
    with parts.opened({}):
        parts.commit(0, ["a"])
        with pytest.raises(PartsError, match="have 1 lines, not 2"):
            parts.join(1, 2)
    assert not (tmp_path / "a.jsonl").exists()
