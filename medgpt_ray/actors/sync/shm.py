"""Weight transfer through shared memory, for engines on the learner's host.

The sender owns an anonymous memory file that the receivers map through its `/proc` entry, so
nothing is left behind when the sender dies, and the size of /dev/shm does not matter.
"""

import mmap
import os
from dataclasses import asdict, dataclass
from typing import ClassVar, Self

import torch
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferInitInfo,
)

from medgpt_ray.actors.sync.bucket import BucketInfo, BucketReceiver, buckets, buffer_bytes


@dataclass
class ShmTrainerInit(TrainerInitInfo):
    """Sender settings: bytes of one bucket."""

    backend: ClassVar[str] = "shm"

    bucket_bytes: int


@dataclass
class ShmInit(WeightTransferInitInfo):
    """Where the receivers find the memory."""

    path: str
    hostname: str


class ShmReceiver(BucketReceiver):
    """Maps the sender's memory and loads what is announced in it."""

    init_info_cls = ShmInit
    update_info_cls = BucketInfo

    def init_transfer_engine(self, init_info: ShmInit) -> None:
        if os.uname().nodename != init_info.hostname:
            raise ValueError(
                f"sync.backend shm reaches engines on {init_info.hostname} only, this one runs on "
                f"{os.uname().nodename}: use sync.backend gloo (CPU) or nccl (GPU)"
            )
        self.path = init_info.path

    def receive_weights(self, update_info: BucketInfo) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            # A private map: nobody writes to it, but torch wants a buffer that could be written.
            memory = mmap.mmap(descriptor, update_info.nbytes, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)
        self.load(torch.frombuffer(memory, dtype=torch.uint8), update_info.entries)

    def shutdown(self) -> None:
        """Nothing is held between buckets."""


class ShmSender(TrainerWeightTransferEngine[ShmTrainerInit]):
    """Writes bucket after bucket into its memory file."""

    init_info_cls = ShmTrainerInit

    def __init__(
        self, client: VLLMWeightSyncClient, source: WeightSource, init: ShmTrainerInit
    ) -> None:
        super().__init__(client=client, source=source, is_sender=init.is_sender)
        self.bucket_bytes = init.bucket_bytes
        self.descriptor = os.memfd_create("medgpt-weights") if self.is_sender else -1

    @classmethod
    def trainer_init(
        cls,
        init_info: ShmTrainerInit,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> Self:
        assert source is not None
        sender = cls(client, source, init_info)
        if sender.is_sender:
            path = f"/proc/{os.getpid()}/fd/{sender.descriptor}"
            client.init_weight_transfer_engine(asdict(ShmInit(path, os.uname().nodename)))
        return sender

    def send_weights(self) -> None:
        assert self.source is not None
        if not self.is_sender:
            for _ in self.source:  # take part in the gathers
                pass
            return
        size = buffer_bytes(self.source, self.bucket_bytes)
        os.ftruncate(self.descriptor, size)
        buffer = torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)
        self.client.start_weight_update()
        for used, entries in buckets(self.source, buffer):
            self.client.update_weights(asdict(BucketInfo(used, entries)))
        self.client.finish_weight_update()
        os.ftruncate(self.descriptor, 0)  # give the memory back until the next round

    def shutdown(self) -> None:
        if self.is_sender:
            os.close(self.descriptor)
