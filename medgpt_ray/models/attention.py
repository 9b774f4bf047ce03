"""SDPA over padding-free rows: each stretch attends on its own, at the cost of its own length.

One mask over the whole row would cost the square of all its tokens. Registered as an attention
implementation of transformers; a model that is called without `spans` gets plain SDPA.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "packed_sdpa"
SHORT = 256
"""Tokens of a stretch up to which torch's CPU kernels are slower in bfloat16 than in float32: 1.8
times at 80, forward and backward together."""
Span = tuple[int, int, Tensor | None]
"""A stretch: its first token, the one after its last, and its mask [1, 1, n, n]; None is causal."""


def packed_sdpa(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    spans: list[Span] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """[1, heads, L, size] each -> [1, L, heads, size]."""
    if spans is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    parts = []
    for start, end, mask in spans:
        inputs = [each[:, :, start:end] for each in (query, key, value)]
        if query.device.type == "cpu" and end - start <= SHORT:
            inputs = [each.float() for each in inputs]
        parts.append(sdpa_attention_forward(module, *inputs, mask, **options)[0].to(query.dtype))
    return torch.cat(parts, dim=1), None


AttentionInterface.register(PACKED, packed_sdpa)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def arguments(network: Any, micro: Any) -> dict[str, Any]:
    """What tells a decoder who sees whom in the row of a micro-batch.

    Flash attention keeps sequences apart where positions begin anew, and reads no mask.
    """
    name = str(network.config._attn_implementation)
    if name == PACKED:
        # A mask with four dimensions is passed on as it is; here nobody reads it.
        unread = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=micro.input_ids.device)
        return {"attention_mask": unread, "spans": micro.spans()}
    return (
        {"attention_mask": None} if varlen(network) else {"attention_mask": micro.attention_mask()}
    )


def varlen(network: Any) -> bool:
    """Whether the implementation reads no masks, so that prompts cannot be shared."""
    return str(network.config._attn_implementation).startswith("flash_attention")
