"""Ray Train's controller tells of itself and of deaths.

A module of its own, without torch: the controller imports it before it starts the workers.
"""

from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.execution.callback import ControllerCallback

from medgpt_ray.actors.wait import cause


class Deaths(UserCallback):
    """Lives in Ray Train's controller: tells the driver of every death."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in worker_exceptions.items():
            self.monitor.record.remote(("death", f"learner rank {rank}: {cause(error)}"))


class Introduction(ControllerCallback):
    """Hands the driver the controller, which alone can end a run before its workers do."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor

    def after_controller_start(self, train_run_context: Any) -> None:
        self.monitor.record.remote(("controller", ray.get_runtime_context().current_actor))
