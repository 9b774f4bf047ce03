"""Frozen weights in 4 or 8 bits (bitsandbytes), kept readable while they are trained over."""

from typing import Any

import torch
from torch import Tensor, nn

from medgpt_ray.config.schema import Full, LoRA, QLoRA


def quantisation(adaptation: Full | LoRA, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantise every linear layer but the output head."""
    if not isinstance(adaptation, QLoRA):
        return {}
    from transformers import BitsAndBytesConfig

    if adaptation.bits == 8:
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    }


def keep_readable(network: nn.Module) -> None:
    """Call it before the first forward pass: the layers then stay as `dequantised` expects them.

    4 bits: bitsandbytes would repack the weights for its CPU kernel at the first forward without
    gradients, and the packed form cannot be dequantised. 8 bits: see `_steady_state`.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        elif _is_8bit(module):
            module.state = _steady_state(module.state)


def dequantised(module: nn.Module) -> Tensor:
    """The weight [out, in] of a linear layer as its forward pass uses it; the layer is not touched.

    4 bits come back in the compute type, 8 bits in float32.
    """
    weight: Any = module.weight
    if _is_8bit(module):
        scale = weight.SCB if module.state.SCB is None else module.state.SCB
        return weight.data.float() * scale[:, None] / 127
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state)
    return weight.detach()


def _is_8bit(module: nn.Module) -> bool:
    return type(getattr(module, "weight", None)).__name__ == "Int8Params"


def _steady_state(state: Any) -> Any:
    """The same state of an 8-bit layer, proof against two traps of bitsandbytes on CPU.

    In evaluation mode it would round the inputs to 8 bits as well, in training mode it does not:
    log-probs of a policy would differ from those that it is trained with. And a layer whose weight
    is assigned anew, as PEFT does where it dequantises (DoRA in each forward pass), loses its
    scales.
    """
    import bitsandbytes

    class SteadyState(bitsandbytes.MatmulLtState):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "SCB" and value is None:
                return
            super().__setattr__(name, True if name == "is_training" else value)

    steady = SteadyState()
    for name, value in vars(state).items():
        setattr(steady, name, value)
    return steady
