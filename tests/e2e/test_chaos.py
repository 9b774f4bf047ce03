"""A short one of the random-kill runs; `make chaos` has the long one."""

import random
from pathlib import Path

from chaos import SETTINGS, check, stormy
from runs import train_here, write_run


def test_random_kills_change_nothing(ray_here: None, tiny_model: Path, tmp_path: Path) -> None:
    train_here(write_run(tmp_path / "calm", tiny_model, **SETTINGS))
    told = stormy(tmp_path / "stormy", tiny_model, SETTINGS, random.Random(7), kills=3)
    assert told
    check(tmp_path / "calm" / "run", tmp_path / "stormy" / "run")
