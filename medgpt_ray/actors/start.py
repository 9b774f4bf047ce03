"""A Ray of this machine's own, started."""

import os
import secrets
import sys

import psutil
import ray

from medgpt_ray.actors.wait import RunFailed

TRIES = 3
TOO_SLOW = "timed out during startup"
"""In the message of the exception, which has no class of its own."""
MARK = "MEDGPT_RAY_START"
"""Environment variable by which the processes of a start are known."""


def start_ray(cpus: int) -> None:
    """Start Ray with so many CPUs and connect to it.

    Tries again where its processes were too slow: a raylet ends itself 15 seconds after its agents
    began to import, which no setting changes (github.com/ray-project/ray/issues/65983), and Ray
    waits for it for another 15. Raises `RunFailed` after the last try.
    """
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    for left in reversed(range(TRIES)):
        mark = os.environ[MARK] = secrets.token_hex(8)
        try:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
            return
        except Exception as error:
            if TOO_SLOW not in str(error):
                raise
            _end(mark)
            told = (
                "Ray did not come up on this machine within 30 s (load average "
                f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs)"
            )
            if not left:
                raise RunFailed(
                    f"{told}, in {TRIES} tries: /tmp/ray/session_latest/logs/raylet.err says why; "
                    "where too much else runs, end that, or name a Ray that runs in RAY_ADDRESS"
                ) from None
            print(f"{told}, trying again", file=sys.stderr)
        finally:
            del os.environ[MARK]


def _end(mark: str) -> None:
    """What is left of a start that failed, also where its parent is gone."""
    left = [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get(MARK) == mark
    ]
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=30)
