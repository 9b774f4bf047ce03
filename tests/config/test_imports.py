"""The configuration is read without the libraries that a run needs."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "vllm", "transformers", "deepspeed", "peft", "numpy"}


@pytest.mark.parametrize(
    ("module", "also_without"),
    [
        ("medgpt_ray.config", set()),
        ("medgpt_ray.config.presets", {"typer"}),
        ("medgpt_ray.config.schema", {"ruamel", "rich", "typer"}),
        ("medgpt_ray.cli", {"pydantic", "ruamel"}),
    ],
)
def test_import_is_light(module: str, also_without: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert not (HEAVY | also_without) & set(done.stdout.split())
