"""A model's weights as an HF checkpoint would name them, one tensor at a time.

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

from medgpt_ray.models.quantised import dequantised


@dataclass(frozen=True)
class Exported:
    """One tensor of the checkpoint: its name and full shape are known before it is built."""

    name: str
    shape: tuple[int, ...]
    build: Callable[[], Tensor]


def exported(policy: Any, dtype: torch.dtype) -> list[Exported]:
    """What an engine or a checkpoint needs of a `Policy` or a `RewardModel`, in a fixed order, cast
    to `dtype` when built.
    """
    return [
        Exported(name, shape, lambda make=make: make().to(dtype).contiguous())  # type: ignore[misc]
        for name, shape, make in _tensors(base_network(policy.network), "", set())
    ]


def iterate(policy: Any, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every exported weight; at most one is held at a time."""
    for item in exported(policy, dtype):
        yield item.name, item.build()


def adapter_weights(network: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor) of what is trained in a PEFT model, a shared one under each name."""
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            yield name, _whole(parameter)


def base_network(network: Any) -> Any:
    """The HF model itself, adapters injected."""
    return network.get_base_model() if hasattr(network, "peft_config") else network


def _tensors(
    module: Any, path: str, seen: set[int]
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """`seen` are the parameters that went out already: a tied head is the embedding again."""
    if hasattr(module, "lora_A"):
        base = module.get_base_layer()
        shape = (module.out_features, module.in_features)
        yield f"{path}.weight", shape, lambda: _merged(module)
        if base.bias is not None:
            yield f"{path}.bias", _shape(base.bias), lambda: _whole(base.bias)
    elif hasattr(module, "modules_to_save"):
        yield from _tensors(module.modules_to_save[module.active_adapter], path, seen)
    elif hasattr(module, "token_adapter"):
        embeddings = module.token_adapter.base_layer
        if id(embeddings.weight) not in seen:
            seen.add(id(embeddings.weight))
            shape = _shape(embeddings.weight)
            yield f"{path}.weight", shape, lambda: _with_new_rows(module.token_adapter)
    else:
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                full = f"{path}.{name}".removeprefix(".")
                yield full, _shape(parameter), lambda p=parameter: _whole(p)  # type: ignore[misc]
        for name, child in module.named_children():
            yield from _tensors(child, f"{path}.{name}".removeprefix("."), seen)


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
    """Base weight plus the adapter's delta, float32, [out, in]; with DoRA (arXiv 2402.09353) at the
    trained norm of each row.
    """
    with torch.no_grad(), _gathered(list(layer.parameters())):
        adapter = layer.active_adapter[0]
        up, down = layer.lora_B[adapter].weight.float(), layer.lora_A[adapter].weight.float()
        delta = layer.scaling[adapter] * (up @ down)
        weight = dequantised(layer.get_base_layer()).float() + delta
        if adapter not in layer.lora_magnitude_vector:
            return weight
        magnitude = layer.lora_magnitude_vector[adapter].weight.float()
        return weight * (magnitude / torch.linalg.norm(weight, dim=1))[:, None]


def _with_new_rows(layer: Any) -> Tensor:
    """Embeddings [vocabulary, hidden] with the trained rows of new tokens in their places."""
    return layer.get_merged_weights(layer.active_adapters).detach()
