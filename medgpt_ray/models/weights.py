"""The policy's weights as an HF checkpoint would name them, one tensor at a time.

Adapters are merged and quantised bases dequantised on the way out; the learner itself is never
changed. Under ZeRO-3 each tensor is gathered, used and freed, so every rank must iterate in
lockstep.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medgpt_ray.models.policy import Policy


@dataclass(frozen=True)
class Exported:
    """One tensor of the checkpoint: its name and full shape are known before it is built."""

    name: str
    shape: tuple[int, ...]
    build: Callable[[], Tensor]


def exported(policy: Policy, dtype: torch.dtype) -> list[Exported]:
    """What an engine or a checkpoint needs, in a fixed order, cast to `dtype` when built."""
    return [
        Exported(name, shape, lambda make=make: make().to(dtype).contiguous())  # type: ignore[misc]
        for name, shape, make in _tensors(policy)
    ]


def iterate(policy: Policy, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every exported weight; at most one is held at a time."""
    for item in exported(policy, dtype):
        yield item.name, item.build()


def _tensors(policy: Policy) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    seen = set()  # a tied head is the embedding, and is exported once
    for path, module in policy.causal_lm.named_modules():
        if "lora_" in path:
            continue
        adapted = hasattr(module, "lora_A")
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}".removeprefix(".")
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if full.endswith(".base_layer.weight"):
                continue  # exported by the adapter layer around it, below
            yield (
                full.replace(".base_layer.", "."),
                _shape(parameter),
                lambda p=parameter: _whole(p),
            )
        if adapted:
            shape = (module.out_features, module.in_features)
            yield f"{path}.weight", shape, lambda m=module: _merged(m)


def _shape(parameter: Any) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
    """Makes ZeRO-3 shards whole inside the block; nothing to do for other parameters."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


def _whole(parameter: nn.Parameter) -> Tensor:
    if not hasattr(parameter, "ds_id"):
        return parameter.detach()
    with torch.no_grad(), _gathered([parameter]):
        return parameter.detach().clone()


def _merged(layer: Any) -> Tensor:
    """Base weight plus the adapter's delta, float32, [out, in]."""
    from peft.utils.integrations import dequantize_module_weight

    with torch.no_grad(), _gathered(list(layer.parameters())):
        (adapter,) = layer.active_adapters
        base = dequantize_module_weight(layer.base_layer).detach().float()
        up, down = layer.lora_B[adapter].weight.float(), layer.lora_A[adapter].weight.float()
        return base + layer.scaling[adapter] * (up @ down)
