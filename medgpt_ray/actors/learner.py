"""Learner groups: one Ray actor a data-parallel rank around `models.learner.Learner`."""

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence as Seq
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import ray

from medgpt_ray.actors.logs import log_to
from medgpt_ray.actors.rendezvous import listen
from medgpt_ray.actors.wait import Pending, wait
from medgpt_ray.algos.policy_loss import Normaliser
from medgpt_ray.config.schema import Learner, Model, PpoRun, RlRun
from medgpt_ray.models.packing import Sequence


class Rank(ABC):
    """One rank of a learner group. All ranks get the same calls with the same arguments, at the
    same time.
    """

    listener: socket.socket | None = None
    """Of rank 0, until all have joined."""

    def __init__(self, config: RlRun, rank: int, log: str) -> None:
        log_to(log)
        self.config, self.rank = config, rank

    @abstractmethod
    def section(self) -> Learner:
        """The section of the configuration that this group learns by."""

    def address(self) -> tuple[str, int]:
        """Where rank 0 waits for the others: host and port."""
        self.listener = listen()
        host, port = self.listener.getsockname()
        return host, port

    def join(self, address: tuple[str, int], total_updates: int) -> dict[str, int]:
        """Join the group and load the model; returns the process id."""
        import torch
        from torch import distributed

        section = self.section()
        os.environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(section.workers),
            LOCAL_RANK="0",
            MASTER_ADDR=address[0],
            MASTER_PORT=str(address[1]),
        )
        torch.set_num_threads(section.threads)
        from medgpt_ray.algos import ALGORITHMS
        from medgpt_ray.models.deepspeed import backend, join_group
        from medgpt_ray.models.learner import Learner

        store = distributed.TCPStore(
            *address,
            section.workers,
            is_master=self.rank == 0,
            master_listen_fd=self.listener.detach() if self.listener else None,
            timeout=timedelta(seconds=self.config.deadlines.start),
        )
        distributed.init_process_group(
            backend(section.gpus), store=store, rank=self.rank, world_size=section.workers
        )
        join_group(section.gpus)
        self.total_updates = total_updates
        self.algorithm = ALGORITHMS[self.config.algorithm.name](self.config.algorithm)
        module, model = self.load_module()
        self.learner = Learner(module, model, section, self.config.seed)
        return {"pid": os.getpid()}

    @abstractmethod
    def load_module(self) -> tuple[Any, Model]:
        """The module to train, and the section that describes its model."""

    def update(self, batch: Seq[Sequence], loss: Any) -> dict[str, float]:
        updates = self.learner.updates
        span = updates / self.total_updates, (updates + 1) / self.total_updates
        return self.learner.step(batch, loss, span) | {"memory/learner_gib": memory_gib()}

    def save(self, directory: str) -> None:
        """Resume state into `directory`."""
        self.learner.save(Path(directory))

    def load(self, directory: str) -> None:
        self.learner.load(Path(directory))


@ray.remote
class PolicyWorker(Rank):
    """One rank of the policy."""

    sender: Any = None

    def section(self) -> Learner:
        return self.config.learner

    def load_module(self) -> tuple[Any, Model]:
        import medgpt_ray.actors.sync.sender  # noqa: F401  vLLM takes long: while the engines start
        from medgpt_ray.models.load import load_policy
        from medgpt_ray.models.policy import Policy

        model = self.config.model
        return Policy(load_policy(model, self.config.seed), self.config.rollout.temperature), model

    def connect(self, workers: list[Any]) -> None:
        """Open the weight transfer to the rollout workers, in place of one to others."""
        import torch

        from medgpt_ray.actors.sync.sender import WeightSender

        if self.sender is not None:
            self.sender.engine.shutdown()
        self.sender = WeightSender(
            self.learner.module,
            workers,
            self.config.sync,
            getattr(torch, self.config.rollout.dtype),
            self.rank,
            self.config.deadlines.sync,
        )

    def sync(self, version: int) -> dict[str, str]:
        """Bring the rollout workers to `version`; rank 0 returns the digests of what was sent."""
        return self.sender.send(version)

    def log_probs(self, batch: Seq[Sequence], adapter: bool) -> list[np.ndarray]:
        """[T] each; with `adapter` False those of the model without its adapter."""
        values = self.learner.log_probs(batch, adapter)
        return values if self.rank == 0 else []

    def step(self, batch: Seq[Sequence], normaliser: Normaliser) -> dict[str, float]:
        """One update; `fields` of the sequences are the inputs of the algorithm's loss."""
        from medgpt_ray.actors.loss import policy_loss

        return self.update(batch, policy_loss(self.algorithm, normaliser))

    def export(self, directory: str) -> None:
        """From rank 0, an HF model into `directory`/model and a trained adapter into /adapter."""
        from medgpt_ray.models.export import save_adapter, save_model

        what = self.learner.module, self.config.model
        save_model(*what, Path(directory) / "model", self.rank == 0)
        if self.learner.adapted:
            save_adapter(*what, Path(directory) / "adapter", self.rank == 0)


@ray.remote
class CriticWorker(Rank):
    """One rank of PPO's critic."""

    config: PpoRun

    def section(self) -> Learner:
        return self.config.critic

    def load_module(self) -> tuple[Any, Model]:
        from medgpt_ray.models.load import critic_model
        from medgpt_ray.models.reward import load_reward_model
        from medgpt_ray.models.value import ValueModel

        model = critic_model(self.config)
        return ValueModel(load_reward_model(model, self.config.seed)), model

    def values(self, batch: Seq[Sequence]) -> list[np.ndarray]:
        """[T] each: the value before every completion token."""
        self.learner.engine.eval()
        values = self.learner.score(self.learner.engine, batch)
        return values if self.rank == 0 else []

    def step(self, batch: Seq[Sequence], normaliser: Normaliser) -> dict[str, float]:
        """One update on the fields `old_values` and `return`."""
        from medgpt_ray.actors.loss import critic_loss

        return self.update(batch, critic_loss(self.config.algorithm, normaliser))


def memory_gib() -> float:
    """What this process holds: its GPU's peak, or its resident memory."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import psutil

    return psutil.Process().memory_info().rss / 2**30  # type: ignore[no-any-return]


class LearnerGroup:
    """Calls every rank and waits for all of them."""

    def __init__(self, name: str, workers: list[Any], config: RlRun) -> None:
        self.name, self.workers, self.deadlines = name, workers, config.deadlines

    def start(self, total_updates: int) -> dict[str, Any]:
        """The calls that bring every rank up, by who was called."""
        seconds = self.deadlines.start
        first = {f"{self.name} rank 0": self.workers[0].address.remote()}
        (address,) = wait(first, seconds, "starting the roles").values()
        return self._calls("join", address, total_updates)

    def call(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        """The answer of rank 0."""
        return self.begin(method, *arguments, seconds=seconds).result()

    def begin(self, method: str, *arguments: Any, seconds: float | None = None) -> Pending:
        """The same on its way: other groups can work in the meantime."""
        calls = self._calls(method, *arguments)
        limit = self.deadlines.learn if seconds is None else seconds
        return Pending(calls, limit, f"{self.name} {method}", lambda answers: next(iter(answers)))

    def _calls(self, method: str, *arguments: Any) -> dict[str, Any]:
        return {
            f"{self.name} rank {rank}": getattr(worker, method).remote(*arguments)
            for rank, worker in enumerate(self.workers)
        }
