"""The model server's process; the server itself is in tests/test_evaluate.py."""

import subprocess
import sys
import time
from pathlib import Path

CODE = """
import os, sys
from medgpt_ray.evaluation.server import start
print(start(["sleep", "60"], dict(os.environ), open(os.devnull, "wb")).pid, flush=True)
sys.stdin.read()
"""


def runs(process: str) -> bool:
    try:
        return Path("/proc", process, "stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_the_server_ends_when_the_evaluation_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as evaluation:
        assert evaluation.stdout
        server = evaluation.stdout.readline().strip()
        assert runs(server)
        evaluation.kill()
    deadline = time.monotonic() + 20
    while runs(server):
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.05)
