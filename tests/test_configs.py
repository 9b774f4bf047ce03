"""Every configuration that is shipped loads."""

from pathlib import Path

import pytest

from medgpt_ray.config.loader import load
from medgpt_ray.config.presets import FOLDER

FILES = sorted(FOLDER.rglob("*.yaml"))


def test_there_are_configurations() -> None:
    assert {"grpo.yaml", "grpo_7b_lora.yaml"} <= {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(FOLDER).as_posix())
def test_it_loads(file: Path) -> None:
    loaded = load(file)
    assert loaded.origins["stage"].startswith(f"{file}:")
    assert loaded.source.startswith("# "), "the first comment is the description of the preset"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(FOLDER).as_posix())
def test_data_that_is_shipped_is_there(file: Path) -> None:
    data = load(file).config.data
    for path in filter(None, (data.train, data.heldout)):
        if path.startswith("configs/"):
            assert (FOLDER.parent / path).is_file()
