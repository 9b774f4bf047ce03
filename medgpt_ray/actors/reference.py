"""The reference model of a fully trained policy: frozen, it only scores."""

import os
from collections.abc import Sequence as Seq
from itertools import chain
from typing import Any

import numpy as np
import ray

from medgpt_ray.actors.logs import log_to
from medgpt_ray.actors.wait import Pending
from medgpt_ray.config.schema import RlRun
from medgpt_ray.models.packing import Sequence


@ray.remote
class ReferenceWorker:
    """The policy's starting weights. LoRA runs need none: they switch the adapter off."""

    def __init__(self, config: RlRun, number: int, log: str) -> None:
        import torch

        from medgpt_ray.models.load import load_frozen
        from medgpt_ray.models.policy import Policy

        log_to(log)
        torch.set_num_threads(config.learner.threads)
        self.config = config.learner
        self.device = torch.device("cuda" if config.learner.gpus else "cpu")
        policy = Policy(load_frozen(config.model), config.rollout.temperature)
        self.policy = policy.to(self.device)

    def ready(self) -> dict[str, int]:
        return {"pid": os.getpid()}

    def log_probs(self, batch: Seq[Sequence]) -> list[np.ndarray]:
        """[T] float32 for each sequence."""
        from medgpt_ray.models.attention import varlen
        from medgpt_ray.models.packing import micro_batches
        from medgpt_ray.models.policy import score

        limits = self.config.max_tokens_per_microbatch, self.config.projection_chunk_tokens
        shared = not varlen(self.policy.network)
        micros = micro_batches(batch, *limits, shared=shared)
        scored = score(self.policy, [micro.to(self.device) for micro in micros])
        return [scored[index] for index in range(len(batch))]


class ReferencePool:
    """All reference workers; each scores a stretch of the batch."""

    def __init__(self, workers: list[Any], config: RlRun) -> None:
        self.workers, self.seconds = workers, config.deadlines.learn

    def begin(self, batch: Seq[Sequence]) -> Pending:
        """On its way: [T] float32 for each sequence, in order."""
        size = -(-len(batch) // len(self.workers))
        shares = [batch[start : start + size] for start in range(0, len(batch), size)]
        calls = {
            f"reference worker {number}": worker.log_probs.remote(share)
            for number, (worker, share) in enumerate(zip(self.workers, shares, strict=False))
        }
        return Pending(calls, self.seconds, "reference log-probs", lambda a: list(chain(*a)))
