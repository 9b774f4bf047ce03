"""Weight transfer through shared memory, for engines on the learner's host.

The sender owns an anonymous memory file that the receivers map through its `/proc` entry, so
nothing is left behind when the sender dies, and the size of /dev/shm does not matter.
"""

import mmap
import os
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from vllm.distributed.weight_transfer.base import TrainerInitInfo, WeightTransferInitInfo

from medgpt_ray.actors.sync.bucket import BucketInfo, BucketReceiver, BucketSender


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
        start, end = update_info.start, update_info.start + update_info.nbytes
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            # A private map: nobody writes to it, but torch wants a buffer that could be written.
            memory = mmap.mmap(descriptor, end, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)
        self.load(torch.frombuffer(memory, dtype=torch.uint8)[start:], update_info.entries)

    def shutdown(self) -> None:
        """Nothing is held between buckets."""


class ShmSender(BucketSender):
    """Writes bucket after bucket into its memory file."""

    init_info_cls = ShmTrainerInit
    descriptor: int | None = None

    def connect(self, init_info: ShmTrainerInit) -> None:
        self.descriptor = os.memfd_create("medgpt-weights")
        path = f"/proc/{os.getpid()}/fd/{self.descriptor}"
        self.client.init_weight_transfer_engine(asdict(ShmInit(path, os.uname().nodename)))

    def allocate(self, size: int) -> torch.Tensor:
        assert self.descriptor is not None
        os.ftruncate(self.descriptor, size)
        return torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)

    def hand_on(self, bucket: torch.Tensor, info: BucketInfo) -> None:
        self.client.update_weights(asdict(info))

    def shutdown(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
