"""Every configuration that is shipped loads."""

from pathlib import Path

import pytest

from medgpt_ray.actors.plan import without_memory
from medgpt_ray.config.loader import SHIPPED, Loaded, load
from medgpt_ray.config.presets import presets
from medgpt_ray.config.stages import expand
from medgpt_ray.config.supervised import SupervisedData

FILES = [preset.path for preset in presets()]


def test_there_are_configurations() -> None:
    assert {"grpo.yaml", "grpo_7b_lora.yaml"} <= {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SHIPPED).as_posix())
def test_it_loads(file: Path) -> None:
    loaded = load(file)
    assert loaded.origins["stage"].startswith(f"{file}:")
    assert loaded.source.startswith("# "), "the first comment is the description of the preset"


def runs(file: Path) -> list[Loaded]:
    """What the file describes: a run, or those of a pipeline."""
    loaded = load(file)
    if loaded.config.stage == "pipeline":
        return [stage.loaded for stage in expand(loaded)]
    return [loaded]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SHIPPED).as_posix())
def test_data_that_is_shipped_is_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SHIPPED.parent)
    for run in runs(file):
        data = run.config.data
        if isinstance(data, SupervisedData):
            paths = [source.path for source in data.train]
        else:
            paths = [data.train, *([data.heldout] if data.heldout else [])]
        for path in paths:
            if path.startswith("configs/"):
                assert (SHIPPED.parent / path).is_file()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SHIPPED).as_posix())
def test_it_fits_on_two_cores_unless_it_is_for_gpus(file: Path) -> None:
    for run in runs(file):
        plan = without_memory(run.config)
        assert plan.gpus or plan.cpus <= (run.config.cluster.cpus or 2)


def test_presets_find_their_data_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = load(SHIPPED / "tiny" / "grpo.yaml").config.data.train
    assert train == str(SHIPPED / "tiny" / "prompts.jsonl")
    (tmp_path / "mine.yaml").write_text((SHIPPED / "tiny" / "grpo.yaml").read_text())
    assert load(Path("mine.yaml")).config.data.train == "configs/tiny/prompts.jsonl"
