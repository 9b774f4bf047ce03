"""Ray Train's controller tells of deaths.

A module of its own, without torch: the controller imports it before it starts the workers.
"""

from typing import Any

from ray.train import UserCallback

from medgpt_ray.actors.wait import cause


class Restarts(UserCallback):
    """Lives in Ray Train's controller: tells the driver of every death."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in worker_exceptions.items():
            self.monitor.record.remote(("death", f"learner rank {rank}: {cause(error)}"))
