"""Every configuration that is shipped loads."""

from pathlib import Path

import pytest

from medgpt_ray.config.loader import load
from medgpt_ray.config.presets import FOLDER, presets
from medgpt_ray.config.supervised import SupervisedData

FILES = [preset.path for preset in presets()]


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
    if isinstance(data, SupervisedData):
        paths = [source.path for source in data.train]
    else:
        paths = [data.train, *([data.heldout] if data.heldout else [])]
    for path in paths:
        if path.startswith("configs/"):
            assert (FOLDER.parent / path).is_file()
