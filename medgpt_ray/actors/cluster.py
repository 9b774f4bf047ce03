"""From a configuration to running actors: Ray, the placement group, every role ready to work."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from medgpt_ray.actors.learner import LearnerGroup, LearnerWorker
from medgpt_ray.actors.nodes import cluster_address
from medgpt_ray.actors.plan import Plan, without_memory
from medgpt_ray.actors.reference import ReferencePool, ReferenceWorker
from medgpt_ray.actors.rollout import RolloutPool, RolloutWorker
from medgpt_ray.actors.wait import wait
from medgpt_ray.config.schema import Cluster, GrpoRun, Learner

ROLES = {"policy": LearnerWorker, "reference": ReferenceWorker, "rollout": RolloutWorker}


@dataclass(frozen=True)
class Roles:
    """Who takes part in a run."""

    learner: LearnerGroup
    rollout: RolloutPool
    reference: ReferencePool | None


@contextmanager
def ray_cluster(config: Cluster) -> Iterator[None]:
    """Connect to the configured cluster (or the one of a Ray job), or run one on this machine.

    A local cluster ends with the block, and with this process however that ends. In a program that
    has Ray up already, that one is used and left up.
    """
    if ray.is_initialized():
        yield
        return
    address = cluster_address(config)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    with _own_sigterm():
        if address:
            ray.init(address=address, **quiet)
        else:
            # Processes of reward functions outlive the pause between two steps.
            os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
            cpus = config.cpus or os.cpu_count()
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """`ray.init` puts a handler in place that exits at once, saving nothing: ours comes back."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def start_roles(config: GrpoRun, total_updates: int, logs: Path) -> Iterator[Roles]:
    """Place and start every role, learners and engines beside each other."""
    seconds = config.deadlines.start
    plan = without_memory(config)
    group = placement_group(plan.bundles(), strategy="PACK")
    wait({"the placement group": group.ready()}, seconds, "placing the roles")
    actors = _create(config, plan, group, logs)
    try:
        learners = LearnerGroup(actors["policy"], config)
        first = {"learner rank 0": learners.workers[0].address.remote()}
        address = wait(first, seconds, "starting the roles")["learner rank 0"]
        starting = {
            f"learner rank {rank}": worker.start.remote(address, total_updates)
            for rank, worker in enumerate(learners.workers)
        }
        for role in ("rollout", "reference"):
            for number, worker in enumerate(actors.get(role, [])):
                starting[f"{role} worker {number}"] = worker.ready.remote()
        wait(starting, seconds, "starting the roles")
        learners.call("connect", actors["rollout"], seconds=seconds)
        yield Roles(
            learners,
            RolloutPool(actors["rollout"], config),
            ReferencePool(actors["reference"], config) if "reference" in actors else None,
        )
    finally:
        for worker in (worker for workers in actors.values() for worker in workers):
            ray.kill(worker)
        remove_placement_group(group)


def _create(config: GrpoRun, plan: Plan, group: Any, logs: Path) -> dict[str, list[Any]]:
    actors: dict[str, list[Any]] = {}
    bundle = 0
    for role in plan.roles:
        for number in range(role.workers):
            options = ROLES[role.name].options(
                num_cpus=role.cpus,
                num_gpus=role.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=bundle
                ),
                runtime_env={"env_vars": _environment(config, role.name)},
            )
            log = str(logs.resolve() / f"{role.name}-{number}.log")
            actors.setdefault(role.name, []).append(options.remote(config, number, log))
            bundle += 1
    return actors


def learner_environment(learner: Learner) -> dict[str, str]:
    """Environment of a process that learns.

    On CPUs glibc would hand gigabytes back to the kernel at every step and get them anew page by
    page: kept, a step of SmolLM2-135M takes 0.67 (bfloat16) to 0.77 (float32) of the time.
    """
    common = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(learner.threads)}
    if learner.gpus:
        return common
    kept = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
    return common | kept | {"DS_ACCELERATOR": "cpu"}


def _environment(config: GrpoRun, role: str) -> dict[str, str]:
    if role == "rollout":
        return {
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(config.rollout.threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # The engine core lives in the actor: one process to start, to seed and to watch.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_NO_USAGE_STATS": "1",
        }
    return learner_environment(config.learner)
