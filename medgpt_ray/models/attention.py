"""SDPA over padding-free rows: each run of tokens attends to itself and to the runs before it.

One mask over the whole row would cost the square of all its tokens. Registered as an attention
implementation of transformers; a model that is called without `runs` gets plain SDPA.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.packing import MicroBatch, Run

PACKED = "packed_sdpa"
SHORT = 256
"""Tokens of a run and what is before it up to which torch's CPU kernels are slower in bfloat16 than
in float32: 1.8 times at 80, forward and backward together."""


def packed_sdpa(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    runs: tuple[Run, ...] | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """[1, heads, L, size] each -> [1, L, heads, size]."""
    if runs is None:
        if attention_mask is not None and attention_mask.numel() == 1 < query.shape[2]:
            raise ModelError(
                f"{module.config.model_type}: transformers' layers of this kind of model do not "
                "hand on what keeps the sequences of a row apart: not supported"
            )
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    lengths = [len(run) for run in runs]
    queries, *sources = (each.split(lengths, dim=2) for each in (query, key, value))
    parts = []
    for number, run in enumerate(runs):
        inputs = [queries[number]]
        for source in sources:
            seen = [source[each] for each in (*run.before, number)]
            inputs.append(torch.cat(seen, dim=2) if run.before else source[number])
        total = inputs[1].shape[2]
        mask = _mask(len(run), total, sliding_window, query.device)
        if query.device.type == "cpu" and total <= SHORT:
            inputs = [each.float() for each in inputs]
        parts.append(sdpa_attention_forward(module, *inputs, mask, **options)[0].to(query.dtype))
    return torch.cat(parts, dim=1), None


def _mask(tokens: int, total: int, window: int | None, device: torch.device) -> Tensor | None:
    """[tokens, total] bool, True where the last `tokens` of `total` may look; None is causal."""
    if tokens == total and (window is None or total <= window):
        return None
    mask = torch.ones(tokens, total, dtype=torch.bool, device=device).tril(total - tokens)
    return mask if window is None else mask.triu(total - tokens - window + 1)


AttentionInterface.register(PACKED, packed_sdpa)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def arguments(network: Any, micro: MicroBatch) -> dict[str, Any]:
    """What tells a decoder who sees whom in the row of a micro-batch.

    Flash attention keeps sequences apart where positions begin anew, and reads no mask.
    """
    if varlen(network):
        return {"attention_mask": None}
    if network.config._attn_implementation != PACKED:
        return {"attention_mask": micro.attention_mask()}
    # A mask with four dimensions is passed on as it is; here nobody reads it.
    unread = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=micro.input_ids.device)
    return {"attention_mask": unread, "runs": micro.runs}


def varlen(network: Any) -> bool:
    """Whether the implementation reads no masks, so that nothing can be shared."""
    return str(network.config._attn_implementation).startswith("flash_attention")
