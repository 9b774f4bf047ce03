"""Ray is started again where a busy machine kept it from starting in time."""

import os
import subprocess
import sys
from pathlib import Path

from runs import SECONDS

SLOW_AGENTS = """
import pathlib, sys, time

if any(argument.endswith("dashboard/agent.py") for argument in sys.orig_argv):
    started = pathlib.Path(r"{folder}", str(time.monotonic_ns()))
    started.touch()
    if len(list(started.parent.iterdir())) <= 2:
        time.sleep(60)
"""
STARTS = """
import psutil, ray
from medgpt_ray.actors import start
from medgpt_ray.actors.wait import RunFailed

tries, start.TRIES = start.TRIES, 1
try:
    start.start_ray(1)
except RunFailed as failure:
    print(failure)
start.TRIES = tries
start.start_ray(1)
print(ray.get(ray.remote(lambda: "up").remote(), timeout=300))
processes = psutil.Process().children(recursive=True)
print([process.name() for process in processes if process.name() in ("gcs_server", "raylet")])
"""


def test_ray_is_started_again_where_its_agents_were_slow(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    agents.mkdir()
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENTS.format(folder=agents))
    done = subprocess.run(
        [sys.executable, "-c", STARTS],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    failed, up, processes = done.stdout.splitlines()
    assert failed.startswith("Ray did not start on this machine within 30 s, 1 times: too much")
    assert up == "up"
    assert processes == "['gcs_server', 'raylet']"
    assert "trying again" in done.stderr
