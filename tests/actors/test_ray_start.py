"""Ray is started again where a busy machine kept it from starting in time."""

import os
import re
import subprocess
import sys
from pathlib import Path

from runs import SECONDS

SLOW_AGENTS = """
import os, pathlib, sys, time

if any(argument.endswith("dashboard/agent.py") for argument in sys.orig_argv):
    slow = pathlib.Path(r"{folder}")
    if len(list(slow.iterdir())) < 2:
        (slow / str(os.getpid())).touch()
        time.sleep(60)
"""
STARTS = """
import os, psutil, ray, sys
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
print([agent for agent in os.listdir(sys.argv[1]) if psutil.pid_exists(int(agent))])
print([process.name() for process in processes if process.name() in ("gcs_server", "raylet")])
"""


def test_ray_is_started_again_where_its_agents_were_slow(tmp_path: Path) -> None:
    slow = tmp_path / "agents"
    slow.mkdir()
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENTS.format(folder=slow))
    done = subprocess.run(
        [sys.executable, "-c", STARTS, str(slow)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    failed, up, agents, processes = done.stdout.splitlines()
    assert re.match(r"Ray did not come up on this machine within 30 s .*, in 1 tries: ", failed)
    assert up == "up"
    assert processes == "['gcs_server', 'raylet']"
    assert (len(list(slow.iterdir())), agents) == (2, "[]"), "what failed starts left is gone"
    assert "trying again" in done.stderr
