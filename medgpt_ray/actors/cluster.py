"""From a configuration to running actors: Ray, the placement group, every role ready to work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from medgpt_ray.actors.learner import CriticWorker, LearnerGroup, PolicyWorker
from medgpt_ray.actors.plan import Plan, without_memory
from medgpt_ray.actors.pool import RolloutPool
from medgpt_ray.actors.reference import ReferencePool, ReferenceWorker
from medgpt_ray.actors.reward_model import RewardModelPool, RewardModelWorker
from medgpt_ray.actors.rollout import RolloutWorker
from medgpt_ray.actors.wait import wait
from medgpt_ray.config.schema import Cluster, Learner, PpoRun, RlRun

ROLES = {
    "policy": PolicyWorker,
    "critic": CriticWorker,
    "reference": ReferenceWorker,
    "reward_model": RewardModelWorker,
    "rollout": RolloutWorker,
}


@dataclass(frozen=True)
class Roles:
    """Who takes part in a run."""

    policy: LearnerGroup
    rollout: RolloutPool
    critic: LearnerGroup | None = None
    reference: ReferencePool | None = None
    reward_model: RewardModelPool | None = None


@contextmanager
def ray_cluster(config: Cluster) -> Iterator[None]:
    """Connect to the configured cluster (or the one of a Ray job), or run one on this machine.

    A local cluster ends with the block, and with this process however that ends. In a program that
    has Ray up already, that one is used and left up.
    """
    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
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
def start_roles(config: RlRun, logs: Path) -> Iterator[Roles]:
    """Place and start every role, learners and engines beside each other."""
    seconds = config.deadlines.start
    plan = without_memory(config)
    group = placement_group(plan.bundles(), strategy="PACK")
    wait({"the placement group": group.ready()}, seconds, "placing the roles")
    spawn = Spawner(config, plan, group, logs)
    updates = config.steps * config.algorithm.updates_per_step
    actors = {
        role.name: [spawn(role.name, number) for number in range(role.workers)]
        for role in plan.roles
        if role.name != "rollout"
    }
    learners = {
        name: LearnerGroup(name, actors[name], config)
        for name in ("policy", "critic")
        if name in actors
    }
    pool = RolloutPool(config, learners["policy"], partial(spawn, "rollout"))
    try:
        starting = pool.starting()
        for learner in learners.values():
            starting |= learner.start(updates)
        for role in ("reference", "reward_model"):
            for number, worker in enumerate(actors.get(role, [])):
                starting[f"{role} worker {number}"] = worker.ready.remote()
        wait(starting, seconds, "starting the roles")
        yield Roles(
            policy=learners["policy"],
            rollout=pool,
            critic=learners.get("critic"),
            reference=ReferencePool(actors["reference"], config) if "reference" in actors else None,
            reward_model=(
                RewardModelPool(actors["reward_model"], config)
                if "reward_model" in actors
                else None
            ),
        )
    finally:
        pool.shutdown()
        for worker in (worker for workers in actors.values() for worker in workers):
            ray.kill(worker)
        remove_placement_group(group)


@dataclass(frozen=True)
class Spawner:
    """Starts actors in the bundles that the plan has for them."""

    config: RlRun
    plan: Plan
    group: Any
    logs: Path

    def __call__(self, role: str, number: int) -> Any:
        """Worker `number` of a role. One beyond the plan runs wherever there is room."""
        planned = next(r for r in self.plan.roles if r.name == role)
        placed: dict[str, Any] = {}
        if number < planned.workers:
            before = takewhile(lambda r: r.name != role, self.plan.roles)
            placed["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=sum(r.workers for r in before) + number
            )
        options = ROLES[role].options(
            num_cpus=planned.cpus,
            num_gpus=planned.gpus,
            runtime_env={"env_vars": _environment(self.config, role)},
            **placed,
        )
        return options.remote(
            self.config, number, str(self.logs.resolve() / f"{role}-{number}.log")
        )


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


def _environment(config: RlRun, role: str) -> dict[str, str]:
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
    if role == "critic" and isinstance(config, PpoRun):
        return learner_environment(config.critic)
    return learner_environment(config.learner)
