"""The learner's end of a weight sync: the policy as vLLM's `WeightSource`, and the engines'
client.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

import medgpt_ray.actors.sync.register  # noqa: F401  shm and gloo
from medgpt_ray.actors.sync.audit import learner_digest
from medgpt_ray.actors.wait import wait
from medgpt_ray.config import schema
from medgpt_ray.models.policy import Policy
from medgpt_ray.models.weights import exported


class PolicySource(WeightSource):
    """Streams the policy's weights in the engine's dtype, and digests what it has streamed."""

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        self.policy, self.dtype = policy, dtype
        self.version = 0
        self.digests: dict[str, str] = {}

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(e.name, self.dtype, e.shape) for e in exported(self.policy, self.dtype)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self.digests = {}
        for item in exported(self.policy, self.dtype):
            tensor = item.build()
            self.digests[item.name] = learner_digest(tensor, self.version)
            yield item.name, tensor


class EngineClient:
    """Calls every rollout worker and waits for all, each call with a deadline.

    vLLM's `VLLMWeightSyncClient` protocol. `version` is what `finish_weight_update` tags.
    """

    def __init__(self, workers: Sequence[Any], seconds: float) -> None:
        self.workers, self.seconds = workers, seconds
        self.version = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        # Each engine is a group of its own, so the client numbers them for the rendezvous.
        infos = [dict(init_info) for _ in self.workers]
        for number, info in enumerate(infos):
            if "rank_offset" in info:
                info["rank_offset"] += number
        self._all("init_weight_transfer_engine", [(info,) for info in infos])

    def start_weight_update(self) -> None:
        self._all("start_weight_update", [()] * len(self.workers))

    def update_weights(self, update_info: Any) -> None:
        self._all("update_weights", [(update_info,)] * len(self.workers))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        version = int(weight_version) if weight_version is not None else self.version
        self._all("finish_weight_update", [(version,)] * len(self.workers))

    def _all(self, method: str, arguments: list[tuple[Any, ...]]) -> None:
        calls = {
            f"rollout worker {number}": getattr(worker, method).remote(*args)
            for number, (worker, args) in enumerate(zip(self.workers, arguments, strict=True))
        }
        wait(calls, self.seconds, f"weight sync, {method}")


class WeightSender:
    """One rank's end; every rank builds it and calls `send`, rank 0 drives the engines."""

    def __init__(
        self,
        policy: Policy,
        workers: Sequence[Any],
        sync: schema.Sync,
        dtype: torch.dtype,
        rank: int,
        seconds: float,
    ) -> None:
        self.source = PolicySource(policy, dtype)
        # Sooner than whoever waits for this rank, so that the engine at fault is named.
        self.client = EngineClient(workers, 0.9 * seconds)
        self.engine = WeightTransferTrainerFactory.trainer_init(
            _init_info(sync, rank, len(workers) + 1, seconds),
            client=self.client,
            source=self.source,
        )

    def send(self, version: int) -> dict[str, str]:
        """Bring every engine to `version`; returns the digests of what was sent."""
        self.source.version = self.client.version = version
        self.engine.send_weights()
        return self.source.digests


def _init_info(sync: schema.Sync, rank: int, world_size: int, seconds: float) -> Any:
    size = sync.bucket_mib * 2**20
    if sync.backend == "shm":
        from medgpt_ray.actors.sync.shm import ShmTrainerInit

        return ShmTrainerInit(bucket_bytes=size, rank=rank)
    if sync.backend == "gloo":
        from medgpt_ray.actors.sync.gloo import GlooTrainerInit

        return GlooTrainerInit(
            bucket_bytes=size, world_size=world_size, timeout_s=seconds, rank=rank
        )
    if sync.backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        from medgpt_ray.actors.rendezvous import listen

        with listen() as listener:  # vLLM opens the port anew
            address, port = listener.getsockname()
        return NCCLTrainerInitInfo(
            address, port, world_size, packed_buffer_size_bytes=size, rank=rank
        )
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    return IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=size, rank=rank)
