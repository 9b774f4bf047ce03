"""Shared by all tests: the offline environment and the tiny model."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from warm import forked_workers

os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", TOKENIZERS_PARALLELISM="false")
# Every vLLM engine would compile, for two seconds, a small kernel that gains a tenth of generation.
os.environ["TORCHDYNAMO_DISABLE"] = "1"
# Where none is to be written, every process would compile its libraries, for a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says what else the machine does.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Workers of the Rays that are started from now on are forked, see `warm.py`."""
    folder = tmp_path_factory.mktemp("warm")
    with forked_workers(folder) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random two-layer chat model with a tokenizer of its own."""
    from medgpt_ray.models.tiny import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def taught_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after learning `taught.CONVERSATIONS` by heart."""
    from taught import write_taught

    return write_taught(tiny_model, tmp_path_factory.mktemp("taught") / "model")


@pytest.fixture(scope="session")
def lora_run(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run on `taught_model` that says `taught.ADAPTED` instead."""
    from taught import write_lora_run

    return write_lora_run(taught_model, tmp_path_factory.mktemp("lora") / "run")
