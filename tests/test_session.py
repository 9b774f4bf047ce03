"""How the driver of a supervised run tells its end, without workers."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medgpt_ray.actors.wait import RunFailed
from medgpt_ray.config.supervised import SftRun
from medgpt_ray.interrupt import Interrupted
from medgpt_ray.supervised import Session
from medgpt_ray.tracking.rundir import RunDirectory


class Trainer:
    """Ray Train's, which fails."""

    def fit(self) -> None:
        raise RuntimeError("the controller died")


def session(folder: Path, monkeypatch: pytest.MonkeyPatch, **heard: str) -> tuple[Session, list]:
    """One that hears nothing but what sets these attributes, and what it has told."""
    config = SftRun.model_validate(
        {
            "stage": "sft",
            "output_dir": str(folder),
            "model": {"path": "unused"},
            "data": {"train": [{"path": "unused"}]},
        }
    )
    told: list[str] = []
    console: Any = SimpleNamespace(notice=told.append)
    made = Session(config, RunDirectory(folder), console, monitor=None)

    def listen(fitting: Any, signals: list[int]) -> None:
        fitting.join()
        for name, value in heard.items():
            setattr(made, name, value)

    monkeypatch.setattr(made, "_listen", listen)
    return made, told


def test_what_fails_after_the_last_checkpoint_undoes_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, told = session(tmp_path, monkeypatch, ended="done")
    made.follow(Trainer())  # type: ignore[arg-type]
    assert told == ["training is done; Ray Train then failed to end: the controller died"]


def test_what_fails_before_it_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = session(tmp_path, monkeypatch)
    with pytest.raises(RunFailed, match="Ray Train gave up: the controller died"):
        made.follow(Trainer())  # type: ignore[arg-type]


def test_after_a_signal_it_is_told_why_nothing_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, told = session(tmp_path, monkeypatch, fatal="No space left on device")
    heard = made._listen

    def interrupted(fitting: Any, signals: list[int]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        heard(fitting, signals)

    monkeypatch.setattr(made, "_listen", interrupted)
    with pytest.raises(Interrupted):
        made.follow(Trainer())  # type: ignore[arg-type]
    assert told == ["No space left on device", "there is no checkpoint yet"]
