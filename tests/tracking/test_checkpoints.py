"""Checkpoints are complete or not there; the newest and the best stay."""

import json
from pathlib import Path

import pytest

from medgpt_ray.tracking.checkpoints import Checkpoints, read_state


def make(checkpoints: Checkpoints, step: int) -> Path:
    scratch = checkpoints.begin(step)
    (scratch / "model").mkdir()
    (scratch / "model" / "weights").write_bytes(b"x" * 100)
    return checkpoints.commit(step, {"step": step, "prompts": {"taken": 3 * step}})


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def test_nothing_is_there_before_the_commit(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None
    (checkpoints.begin(1) / "weights").write_bytes(b"half")
    assert checkpoints.latest() is None
    checkpoints.discard(1)
    assert list(checkpoints.folder.iterdir()) == []


def test_the_latest_is_the_newest_and_brings_its_state(checkpoints: Checkpoints) -> None:
    for step in (8, 9, 10):
        make(checkpoints, step)
    latest = checkpoints.latest()
    assert latest
    assert latest.name == "step_10"
    assert read_state(latest) == {"step": 10, "prompts": {"taken": 30}}


@pytest.mark.parametrize("damage", ["missing file", "short file", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(checkpoints: Checkpoints, damage: str) -> None:
    make(checkpoints, 1)
    broken = make(checkpoints, 2)
    weights = broken / "model" / "weights"
    if damage == "missing file":
        weights.unlink()
    elif damage == "short file":
        weights.write_bytes(b"x" * 99)
    else:
        (broken / "manifest.json").unlink()
    latest = checkpoints.latest()
    assert latest
    assert latest.name == "step_1"


def test_prune_keeps_the_newest_and_the_best(checkpoints: Checkpoints) -> None:
    for step in range(1, 7):
        make(checkpoints, step)
    checkpoints.prune(keep_last=2, best=3)
    assert list(checkpoints.complete()) == [3, 5, 6]


def test_a_step_made_again_replaces_the_old_one(checkpoints: Checkpoints) -> None:
    make(checkpoints, 4)
    scratch = checkpoints.begin(4)
    (scratch / "other").write_text("new")
    checkpoints.commit(4, {"step": 4})
    files = json.loads((checkpoints.complete()[4] / "manifest.json").read_text())["files"]
    assert list(files) == ["other"]


def test_a_checkpoint_that_lacks_a_needed_file_is_refused(checkpoints: Checkpoints) -> None:
    (checkpoints.begin(1) / "other").write_text("x")
    with pytest.raises(FileNotFoundError, match="every node"):
        checkpoints.commit(1, {}, needed=["model/model.safetensors"])
    assert checkpoints.latest() is None
