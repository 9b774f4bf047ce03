"""Registers our CPU backends, `shm` and `gloo`, beside vLLM's own (`nccl`, `ipc`).

It must be imported in every process that holds an end of a transfer.
"""

from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)

for _backend, _prefix in (("shm", "Shm"), ("gloo", "Gloo")):
    _module = f"medgpt_ray.actors.sync.{_backend}"
    WeightTransferEngineFactory.register_engine(_backend, _module, f"{_prefix}Receiver")
    WeightTransferTrainerFactory.register_engine(_backend, _module, f"{_prefix}Sender")
