"""Weight transfer by gloo, for CPU engines on other hosts than the learner's."""

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch
from torch.distributed.distributed_c10d import BroadcastOptions
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import TrainerInitInfo, WeightTransferInitInfo

from medgpt_ray.actors.rendezvous import listen
from medgpt_ray.actors.sync.bucket import BucketInfo, BucketReceiver, BucketSender


@dataclass
class GlooTrainerInit(TrainerInitInfo):
    """Sender settings: bytes of a bucket, receivers + 1, and seconds a collective may take."""

    backend: ClassVar[str] = "gloo"

    bucket_bytes: int
    world_size: int
    timeout_s: float


@dataclass
class GlooInit(WeightTransferInitInfo):
    """Rendezvous for one receiver; the client numbers `rank_offset` from 1."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    timeout_s: float


def _join(init: GlooInit, rank: int, listener: socket.socket | None = None) -> Any:
    return stateless_init_torch_distributed_process_group(
        init.master_address,
        init.master_port,
        rank,
        init.world_size,
        backend="gloo",
        listen_socket=listener,
        timeout=timedelta(seconds=init.timeout_s),
    )


def _broadcast(group: Any, tensor: torch.Tensor) -> None:
    options = BroadcastOptions()
    options.rootRank = 0
    group.broadcast([tensor], options).wait()


class GlooReceiver(BucketReceiver):
    """Joins the sender's group and receives announced buckets."""

    init_info_cls = GlooInit
    update_info_cls = BucketInfo
    group: Any = None

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        self.group = _join(init_info, init_info.rank_offset)

    def receive_weights(self, update_info: BucketInfo) -> None:
        bucket = torch.empty(update_info.nbytes, dtype=torch.uint8)
        _broadcast(self.group, bucket)
        self.load(bucket, update_info.entries)

    def shutdown(self) -> None:
        self.group = None


class GlooSender(BucketSender):
    """Broadcasts bucket after bucket to all receivers."""

    init_info_cls = GlooTrainerInit
    group: Any = None

    def connect(self, init_info: GlooTrainerInit) -> None:
        listener = listen()
        address, port = listener.getsockname()
        init = GlooInit(address, port, 1, init_info.world_size, init_info.timeout_s)
        pool = ThreadPoolExecutor(max_workers=1)
        joining = pool.submit(_join, init, 0, listener)
        pool.shutdown(wait=False)  # it waits in vain for a receiver that dies, which is told here
        self.client.init_weight_transfer_engine(asdict(init))
        self.group = joining.result(timeout=init_info.timeout_s)

    def allocate(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def hand_on(self, bucket: torch.Tensor, info: BucketInfo) -> None:
        with ThreadPoolExecutor(max_workers=1) as pool:
            announced = pool.submit(self.client.update_weights, asdict(info))
            _broadcast(self.group, bucket)
            announced.result()

    def shutdown(self) -> None:
        self.group = None
