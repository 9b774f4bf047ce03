"""The learner group: one Ray actor a data-parallel rank around `models.learner.Learner`."""

import os
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import numpy as np
import ray

from medgpt_ray.actors.logs import log_to
from medgpt_ray.actors.wait import wait
from medgpt_ray.algos.policy_loss import Normaliser
from medgpt_ray.config.schema import GrpoRun
from medgpt_ray.models.packing import Sequence


@ray.remote
class LearnerWorker:
    """One rank. All ranks get the same calls with the same arguments, at the same time."""

    def __init__(self, config: GrpoRun, rank: int, log: str) -> None:
        log_to(log)
        self.config, self.rank = config, rank
        self.sender: Any = None

    def address(self) -> tuple[str, int]:
        """Where rank 0 can be met: this host and a free port on it."""
        import socket

        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return host, probe.getsockname()[1]

    def start(self, address: tuple[str, int], total_updates: int) -> dict[str, int]:
        """Join the group and load the model; returns the process id."""
        import torch

        config = self.config.learner
        os.environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(config.workers),
            LOCAL_RANK="0",
            MASTER_ADDR=address[0],
            MASTER_PORT=str(address[1]),
        )
        torch.set_num_threads(config.threads)
        import deepspeed

        # DeepSpeed would compile a shared-memory collective at first use; gloo does its work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("nccl" if config.gpus else "gloo", verbose=False)
        import medgpt_ray.actors.sync.sender  # noqa: F401  vLLM takes long: while the engines start
        from medgpt_ray.algos import ALGORITHMS
        from medgpt_ray.models.learner import Learner
        from medgpt_ray.models.load import load_policy
        from medgpt_ray.models.policy import Policy

        model, seed = self.config.model, self.config.seed
        self.total_updates = total_updates
        self.algorithm = ALGORITHMS[self.config.algorithm.name](self.config.algorithm)
        policy = Policy(load_policy(model, seed), self.config.rollout.temperature)
        self.learner = Learner(policy, model, config, seed)
        return {"pid": os.getpid()}

    def connect(self, workers: list[Any]) -> None:
        """Open the weight transfer to the rollout workers."""
        import torch

        from medgpt_ray.actors.sync.sender import WeightSender

        deadlines = self.config.deadlines
        # A sync queues behind generation that is under way when max_staleness is above 0.
        waits = deadlines.sync + self.config.algorithm.max_staleness * deadlines.generate
        self.sender = WeightSender(
            self.learner.module,
            workers,
            self.config.sync,
            getattr(torch, self.config.rollout.dtype),
            self.rank,
            waits,
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
        import torch

        from medgpt_ray.actors.loss import policy_loss

        updates = self.learner.updates
        span = updates / self.total_updates, (updates + 1) / self.total_updates
        metrics = self.learner.step(batch, policy_loss(self.algorithm, normaliser), span)
        if torch.cuda.is_available():
            metrics["memory/learner_gib"] = torch.cuda.max_memory_allocated() / 2**30
        else:
            import psutil

            metrics["memory/learner_gib"] = psutil.Process().memory_info().rss / 2**30
        return metrics

    def save(self, directory: str) -> None:
        """Resume state into `directory`/learner and, from rank 0, an HF model into /model and a
        trained adapter into /adapter."""
        from medgpt_ray.models.export import save_adapter, save_model

        self.learner.save(Path(directory) / "learner")
        what = self.learner.module, self.config.model
        save_model(*what, Path(directory) / "model", self.rank == 0)
        if self.learner.adapted:
            save_adapter(*what, Path(directory) / "adapter", self.rank == 0)

    def load(self, directory: str) -> None:
        self.learner.load(Path(directory) / "learner")


class LearnerGroup:
    """Calls every rank and waits for all of them."""

    def __init__(self, workers: list[Any], config: GrpoRun) -> None:
        self.workers, self.deadlines = workers, config.deadlines

    def call(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        """The answer of rank 0."""
        calls = {
            f"learner rank {rank}": getattr(worker, method).remote(*arguments)
            for rank, worker in enumerate(self.workers)
        }
        what = f"learner {method}"
        return wait(calls, seconds or self.deadlines.learn, what)["learner rank 0"]
