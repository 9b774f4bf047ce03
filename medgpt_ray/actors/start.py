"""A Ray of this machine's own, started."""

import os
import sys

import psutil
import ray

from medgpt_ray.actors.wait import RunFailed

TRIES = 4
TOO_SLOW = "timed out during startup"
"""In the message of the exception, which has no class of its own."""


def start_ray(cpus: int) -> None:
    """Start Ray with so many CPUs and connect to it.

    Tries again where its processes were too slow: a raylet ends itself 15 seconds after its agents
    began to import, which no setting changes (github.com/ray-project/ray/issues/65983), and Ray
    waits for it for another 15. Raises `RunFailed` after the last try.
    """
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    for left in reversed(range(TRIES)):
        others = set(psutil.Process().children(recursive=True))
        try:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
            return
        except Exception as error:
            if TOO_SLOW not in str(error):
                raise
            _end(set(psutil.Process().children(recursive=True)) - others)
            busy = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
            if not left:
                raise RunFailed(
                    f"Ray did not start on this machine within 30 s, {TRIES} times: too much else "
                    f"runs here ({busy}): end it, or name a Ray that runs in RAY_ADDRESS"
                ) from None
            print(f"Ray did not start within 30 s ({busy}), trying again", file=sys.stderr)


def _end(processes: set[psutil.Process]) -> None:
    """What is left of a start that failed."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=30)
