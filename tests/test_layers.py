"""What a part must not load, seen in a fresh interpreter: import-linter reads, this runs."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "vllm", "deepspeed", "transformers"}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("medgpt_ray.config", set()),
        ("medgpt_ray.types", set()),
        ("medgpt_ray.cli", set()),
        ("medgpt_ray.rewards", set()),
        ("medgpt_ray.algos", {"torch"}),
        ("medgpt_ray.serving.deployment", {"ray"}),
    ],
)
def test_importing_all_of_it_loads_nothing_heavy(package, allowed):
    code = f"""
import importlib, pkgutil, sys
root = importlib.import_module({package!r})
for module in pkgutil.walk_packages(getattr(root, "__path__", []), {package!r} + "."):
    importlib.import_module(module.name)
print(*sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert set(done.stdout.split()) <= allowed
