"""From a configuration to running actors: Ray, the placement group, every role ready to work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
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
from medgpt_ray.actors.signals import own_sigterm
from medgpt_ray.actors.start import start_ray
from medgpt_ray.actors.wait import wait
from medgpt_ray.config.schema import Cluster, Learner, PpoRun, RlRun
from medgpt_ray.tracking.rundir import RunDirectory

ROLES = {
    "policy": PolicyWorker,
    "critic": CriticWorker,
    "reference": ReferenceWorker,
    "reward_model": RewardModelWorker,
    "rollout": RolloutWorker,
}


@dataclass(frozen=True, kw_only=True)
class Models:
    """Who takes part in an update."""

    policy: LearnerGroup
    critic: LearnerGroup | None = None
    reference: ReferencePool | None = None

    def learners(self) -> dict[str, LearnerGroup]:
        """Who has a state to keep, by its folder in a checkpoint."""
        critic = {"critic": self.critic} if self.critic else {}
        return {"learner": self.policy, **critic}


@dataclass(frozen=True, kw_only=True)
class Roles(Models):
    """Who takes part in a run."""

    rollout: RolloutPool
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
    address = config.in_use
    with own_sigterm():
        if address:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        else:
            # Processes of reward functions outlive the pause between two steps.
            os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
            start_ray(config.cpus or os.cpu_count() or 1)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def start_roles(config: RlRun, run: RunDirectory) -> Iterator[Roles]:
    """Place and start every role, learners and engines beside each other."""
    with _placed(config, without_memory(config), run.logs) as spawner:
        policy = spawner.learner("policy")
        assert policy is not None
        pool = RolloutPool(config, policy, partial(spawner, "rollout"), run.rollout_workers)
        scorers = spawner.all("reward_model")
        yield Roles(
            **vars(_start(config, spawner, policy, pool.starting() | _ready(scorers))),
            rollout=pool,
            reward_model=RewardModelPool(list(scorers.values()), config) if scorers else None,
        )


@contextmanager
def start_models(config: RlRun, logs: Path) -> Iterator[Models]:
    """Only who takes part in an update: nothing can be generated or scored."""
    roles = without_memory(config).roles
    plan = Plan(tuple(role for role in roles if role.name not in ("rollout", "reward_model")))
    with _placed(config, plan, logs) as spawner:
        policy = spawner.learner("policy")
        assert policy is not None
        yield _start(config, spawner, policy, {})


@contextmanager
def _placed(config: RlRun, plan: Plan, logs: Path) -> Iterator["Spawner"]:
    """Resources for all roles of the plan; ends what was started in them."""
    group = placement_group(plan.bundles(), strategy="PACK")
    wait({"the placement group": group.ready()}, config.deadlines.start, "placing the roles")
    spawner = Spawner(config, plan, group, logs)
    try:
        yield spawner
    finally:
        spawner.shutdown()
        remove_placement_group(group)


def _start(
    config: RlRun, spawner: "Spawner", policy: LearnerGroup, others: dict[str, ray.ObjectRef]
) -> Models:
    """Bring up policy, critic and reference, and wait for `others` with them."""
    critic = spawner.learner("critic")
    references = spawner.all("reference")
    learning, each = config.steps, config.algorithm.updates_per_step
    if isinstance(config, PpoRun):  # until then the critic alone
        learning = max(1, config.steps - config.algorithm.critic_warmup_steps)
    starting = others | _ready(references) | policy.start(learning * each)
    if critic:
        starting |= critic.start(config.steps * each)
    wait(starting, config.deadlines.start, "starting the roles")
    reference = ReferencePool(list(references.values()), config) if references else None
    return Models(policy=policy, critic=critic, reference=reference)


def _ready(workers: dict[str, Any]) -> dict[str, ray.ObjectRef]:
    return {name: worker.ready.remote() for name, worker in workers.items()}


@dataclass(frozen=True)
class Spawner:
    """Starts actors in the bundles that the plan has for them."""

    config: RlRun
    plan: Plan
    group: Any
    logs: Path
    started: list[Any] = field(default_factory=list)

    def all(self, role: str) -> dict[str, Any]:
        """The workers of a role by name; none where the plan has no such role."""
        planned = self.plan.role(role)
        name = role.replace("_", " ")
        return {
            f"{name} worker {number}": self(role, number)
            for number in range(planned.workers if planned else 0)
        }

    def learner(self, role: str) -> LearnerGroup | None:
        workers = list(self.all(role).values())
        return LearnerGroup(role, workers, self.config) if workers else None

    def shutdown(self) -> None:
        for actor in self.started:
            ray.kill(actor)

    def __call__(self, role: str, number: int) -> Any:
        """Worker `number` of a role. One beyond the plan runs wherever there is room."""
        planned = self.plan.role(role)
        assert planned is not None
        placed: dict[str, Any] = {}
        if number < planned.workers:
            placed["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=self.plan.bundle(planned, number)
            )
        cpus, gpus = self.plan.reserved(planned)
        options = ROLES[role].options(
            num_cpus=cpus,
            num_gpus=gpus,
            runtime_env={"env_vars": _environment(self.config, role)},
            **placed,
        )
        log = str(self.logs.resolve() / f"{role}-{number}.log")
        self.started.append(actor := options.remote(self.config, number, log))
        return actor


KEEPS_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_ARENA_MAX": "1",
}
"""For processes that compute on CPUs. glibc would hand gigabytes back to the kernel at every step
and get them anew page by page; in threads that are not the main one (Ray Train's, an actor's) it
would do so even then with what is larger than an arena of 64 MiB, so all threads share the first.
"""


def learner_environment(learner: Learner) -> dict[str, str]:
    """Environment of a process that learns."""
    common = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(learner.threads)}
    if learner.gpus:
        return common
    return common | KEEPS_MEMORY | {"DS_ACCELERATOR": "cpu"}


def _environment(config: RlRun, role: str) -> dict[str, str]:
    if role == "rollout":
        return ({} if config.rollout.gpus else KEEPS_MEMORY) | {
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
