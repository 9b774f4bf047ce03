"""vLLM's engine where it cannot start: its own process knows why."""

import os
import subprocess
import sys
from pathlib import Path

from runs import SECONDS

START = """
import asyncio, os, sys
from medgpt_ray.serving.deployment import environment
from medgpt_ray.serving.engine import Engine
from medgpt_ray.serving.settings import Settings

if __name__ == "__main__":
    settings = Settings(model=sys.argv[1], kv_cache_gib=1e-6)
    os.environ.update(environment(settings))
    asyncio.run(Engine.start(settings))
"""


def test_why_it_does_not_start_is_told(tiny_model: Path, tmp_path: Path) -> None:
    script, out, err = (tmp_path / name for name in ("start.py", "out", "err"))
    script.write_text(START)
    with out.open("wb") as stdout, err.open("wb") as stderr:
        command = [sys.executable, str(script), str(tiny_model)]
        done = subprocess.run(
            command, stdout=stdout, stderr=stderr, env=os.environ, timeout=SECONDS
        )
    assert done.returncode == 1
    told = next(line for line in err.read_text().splitlines() if line.startswith("medgpt_ray."))
    assert f"ModelError: {tiny_model}: vLLM does not start: ValueError: No available memory" in told
    assert "Settings: kv_cache_gib" in told
