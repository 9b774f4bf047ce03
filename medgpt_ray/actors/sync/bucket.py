"""What the shared-memory and the gloo backend have in common: buckets, sending them, and loading
them into vLLM.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Self

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferUpdateInfo,
)

Entry = tuple[str, str, list[int], int]
"""Name, dtype, shape and byte offset of a tensor in its bucket."""


@dataclass
class BucketInfo(WeightTransferUpdateInfo):
    """Announces one bucket to the receivers."""

    start: int
    """Its first byte in the sender's memory."""
    nbytes: int
    entries: list[Entry]


def buffer_bytes(source: WeightSource, limit: int) -> int:
    """Size of a bucket: `limit`, or the largest tensor where that is more."""
    return max(limit, *(_nbytes(meta.dtype, meta.shape) for meta in source.metadata()))


def buckets(
    source: WeightSource, buffers: Sequence[Tensor]
) -> Iterator[tuple[Tensor, list[Entry]]]:
    """Pack the source's tensors into one buffer after the other: (the part used, its contents).

    The buffers are used again: by the time that a bucket is asked for, all but the last one have to
    have been read.
    """
    entries: list[Entry] = []
    used, turns = 0, cycle(buffers)
    buffer = next(turns)
    for name, tensor in source:
        size = _nbytes(tensor.dtype, tuple(tensor.shape))
        if used + size > buffer.numel():
            yield buffer[:used], entries
            entries, used, buffer = [], 0, next(turns)
        buffer[used : used + size] = tensor.cpu().reshape(-1).view(torch.uint8)
        entries.append((name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), used))
        used += size
    yield buffer[:used], entries


def _nbytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * int(torch.Size(shape).numel())


class BucketSender(TrainerWeightTransferEngine[Any]):
    """Sender side: rank 0 hands on bucket after bucket, the other ranks only take part in the
    gathers of the source. `init_info_cls` has `bucket_bytes`."""

    def __init__(self, client: VLLMWeightSyncClient, source: WeightSource, init: Any) -> None:
        super().__init__(client=client, source=source, is_sender=init.is_sender)
        self.bucket_bytes = init.bucket_bytes
        self.memory: Tensor | None = None

    @classmethod
    def trainer_init(
        cls,
        init_info: Any,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> Self:
        assert source is not None
        sender = cls(client, source, init_info)
        if sender.is_sender:
            sender.connect(init_info)
        return sender

    @abstractmethod
    def connect(self, init_info: Any) -> None:
        """Meet the receivers."""

    @abstractmethod
    def allocate(self, size: int) -> Tensor:
        """`size` bytes for buckets, kept for all rounds."""

    @abstractmethod
    def hand_on(self, bucket: Tensor, info: BucketInfo) -> None:
        """Announce the bucket and move it; returns when all receivers have loaded it."""

    def send_weights(self) -> None:
        assert self.source is not None
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        if self.memory is None:
            self.memory = self.allocate(2 * buffer_bytes(self.source, self.bucket_bytes))
        with ThreadPoolExecutor(max_workers=1) as pool:  # one bucket is packed while one is loaded
            loading = pool.submit(self.client.start_weight_update)
            for bucket, entries in buckets(self.source, self.memory.chunk(2)):
                loading.result()
                info = BucketInfo(bucket.storage_offset(), bucket.numel(), entries)
                loading = pool.submit(self.hand_on, bucket, info)
            loading.result()
        self.client.finish_weight_update()


class BucketReceiver(WeightTransferEngine[Any, Any]):
    """Receiver side: layerwise reload around `receive_weights`, for engines on CPUs and GPUs."""

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        """Finish the reload, and repack heads whose weight is tied to the embedding.

        On CPU a tied head computes from a packed copy of its own that the reload does not renew.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def load(self, bucket: Tensor, entries: list[Entry]) -> None:
        """Copy the bucket's tensors into the model; nothing refers to the bucket afterwards."""
        self.model.load_weights(self._unpack(bucket, entries))

    def _unpack(self, bucket: Tensor, entries: list[Entry]) -> Iterator[tuple[str, Tensor]]:
        for name, dtype_name, shape, offset in entries:
            dtype = getattr(torch, dtype_name)
            end = offset + _nbytes(dtype, tuple(shape))
            # The reload keeps tensors until their layer is complete: give it a copy of its own.
            yield name, bucket[offset:end].clone().view(dtype).view(shape).to(self.device)
