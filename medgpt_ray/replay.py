"""`medgpt replay RUN --step N`: make the update of a dumped step again, and say where it differs.

The learners start from the state they had, and learn from the samples that were there, through the
code that learned then. What comes of it is compared with what was recorded in the order in which it
is computed, so the first stage that differs is the one to look at.

It takes CPUs of this machine only, also for a run that learned on GPUs: a step that went wrong on a
cluster is looked at on a laptop. Numbers of GPUs then differ by what their kernels round otherwise.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from medgpt_ray.actors.cluster import ray_cluster, start_models
from medgpt_ray.actors.plan import without_memory
from medgpt_ray.actors.wait import RunFailed
from medgpt_ray.algos import ALGORITHMS
from medgpt_ray.config.loader import ConfigError
from medgpt_ray.config.schema import Cluster, Learner, PpoRun, RlRun
from medgpt_ray.models.load import on_this_machine
from medgpt_ray.tracking.dumps import Recorded, read_dump
from medgpt_ray.tracking.rundir import RunDirectory, RunDirectoryError, by_step
from medgpt_ray.update import Learned, Step, learn

STOPS = (RunFailed,)
FIELDS = ("mask", "old_log_probs", "reference_log_probs", "old_values", "advantage", "return")
METRICS = ("loss", "grad_norm", "critic/loss", "critic/grad_norm")
"""Stages of an update, in order: numbers of each token, then of the updates."""


@dataclass(frozen=True)
class Stage:
    name: str
    difference: float
    """The largest, relative to the largest recorded number (or 1, if that is more)."""
    where: str


def replay(path: str, step: int | None, tolerance: float) -> bool:
    """Print every stage with its difference; True when all are within `tolerance`.

    Raises `ConfigError` for a run or step that cannot be replayed, `RunFailed`.
    """
    try:
        run = RunDirectory.open(path)
    except RunDirectoryError as error:
        raise ConfigError([str(error)]) from None
    config = run.read_config()
    dumps = by_step(run.dumps)
    if not isinstance(config, RlRun) or not dumps:
        raise ConfigError(
            [f"{path}: holds no dumped step: train with dump.every_steps (stages grpo and ppo)"]
        )
    step = max(dumps) if step is None else step
    if step not in dumps:
        raise ConfigError([f"--step: {step} was not dumped, those are {sorted(dumps)}"])
    recorded = read_dump(dumps[step])
    learned = _again(_on_cpus(on_this_machine(config)), dumps[step], step, recorded)
    return _report(compare(recorded, learned), step, tolerance)


def _on_cpus(config: RlRun) -> RlRun:
    """The same learners without GPUs, on a local cluster that has room for them whatever the
    machine."""
    update: dict[str, Any] = {
        "model": config.model.model_copy(update={"attention": "sdpa"}),
        "learner": _without_gpus(config.learner),
        "rollout": config.rollout.model_copy(update={"gpus": 0.0}),
        "cluster": Cluster(cpus=math.ceil(without_memory(config).cpus)),
    }
    if isinstance(config, PpoRun):
        update["critic"] = _without_gpus(config.critic)
    return config.model_copy(update=update)


def _without_gpus(section: Learner) -> Learner:
    optimizer = section.optimizer.removeprefix("paged_")
    return section.model_copy(update={"gpus": 0.0, "optimizer": optimizer})


def _again(config: RlRun, dump: Path, number: int, recorded: Recorded) -> Learned:
    """The update once more, on learners of the same number of ranks."""
    algorithm = ALGORITHMS[config.algorithm.name](config.algorithm)
    with (
        tempfile.TemporaryDirectory(prefix="medgpt-replay-") as logs,
        ray_cluster(config.cluster),
        start_models(config, Path(logs)) as models,
    ):
        for name, learner in models.learners().items():
            seconds = config.deadlines.checkpoint
            learner.call("load", str(dump.resolve() / name), seconds=seconds)
        step = Step(number, recorded.samples, torch.tensor(recorded.group), recorded.kl_coefficient)
        return learn(config, models, algorithm, step)


def compare(recorded: Recorded, learned: Learned) -> list[Stage]:
    """Every stage that the update has, in order."""
    stages = []
    for name in FIELDS:
        if name in recorded.fields[0]:
            pairs = [
                (fields[name], sequence.fields[name])
                for fields, sequence in zip(recorded.fields, learned.sequences, strict=True)
            ]
            differences = [float(np.abs(then - now).max(initial=0)) for then, now in pairs]
            scale = max(1.0, *(float(np.abs(then).max(initial=0)) for then, _ in pairs))
            worst = int(np.argmax(differences))
            completion = recorded.samples[worst].completion
            where = f"{completion.prompt_id}, completion {completion.index}"
            stages.append(Stage(name, differences[worst] / scale, where))
    for name in METRICS:
        if name in recorded.metrics:
            then, now = recorded.metrics[name], learned.metrics.get(name, np.nan)
            difference = abs(then - now) / max(1.0, abs(then))
            stages.append(Stage(name, difference, f"{then:.8g} then, {now:.8g} now"))
    return stages


def _report(stages: list[Stage], step: int, tolerance: float) -> bool:
    table = Table("stage", "largest difference", "where", "", box=None)
    wrong = [stage for stage in stages if not stage.difference <= tolerance]
    for stage in stages:
        told = "" if stage not in wrong else "DIFFERS"
        table.add_row(stage.name, f"{stage.difference:.3g}", stage.where, told)
    console = Console()
    console.print(table)
    if wrong:
        console.print(f"step {step}: {wrong[0].name} is the first stage that differs")
    else:
        console.print(f"step {step}: replayed within {tolerance:g}")
    return not wrong
