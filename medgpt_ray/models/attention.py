"""SDPA over padding-free rows: runs of tokens attend to themselves and to those before them.

One mask over the whole row would cost the square of all its tokens. Registered as an attention
implementation of transformers; a model that is called without `spans` gets plain SDPA.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.packing import MicroBatch, Run
from medgpt_ray.models.weights import base_network

PACKED = "packed_sdpa"
SHORT = 256
"""Tokens attended to, up to which torch's CPU kernels are slower in bfloat16 than in float32: 1.8
times at 80, forward and backward together."""

CAUSAL = ("full_attention", "sliding_attention")
"""Kinds of layers that a row of several sequences can pass through."""


@dataclass
class Span:
    """Neighbouring runs that go on from the same ones, attended from in one call."""

    runs: list[int]
    lengths: list[int]
    before: tuple[int, ...]
    tokens_before: int
    masks: dict[int | None, Tensor | None] = field(default_factory=dict)
    """By the window of the layer."""

    def mask(self, window: int | None, device: torch.device) -> Tensor | None:
        """[tokens, tokens before and these] bool, True where one may look; None is causal."""
        if window not in self.masks:
            self.masks[window] = self._mask(window, device)
        return self.masks[window]

    def _mask(self, window: int | None, device: torch.device) -> Tensor | None:
        own = sum(self.lengths)
        if not self.before and (window is None or own <= window):
            return None
        lengths = torch.tensor([self.tokens_before, *self.lengths], device=device)
        run = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
        position = torch.arange(len(run), device=device)
        position -= (lengths.cumsum(0) - lengths - self.tokens_before).clamp(min=0)[run]
        mine, my_position = run[-own:, None], position[-own:, None]
        mask = ((run == 0) | (run == mine)) & (position <= my_position)
        return mask if window is None else mask & (my_position - position < window)


def spans_of(runs: Sequence[Run]) -> list[Span]:
    """Runs that go on from the same tokens, as many together as they are tokens: so what is before
    is copied seldom, and few products are computed in vain."""
    spans: list[Span] = []
    for number, run in enumerate(runs):
        last = spans[-1] if spans and run.before and run.before == spans[-1].before else None
        if last and sum(last.lengths) + len(run) <= last.tokens_before:
            last.runs.append(number)
            last.lengths.append(len(run))
        else:
            tokens_before = sum(len(runs[each]) for each in run.before)
            spans.append(Span([number], [len(run)], run.before, tokens_before))
    return spans


def packed_sdpa(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    spans: list[Span] | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """[1, heads, L, size] each -> [1, L, heads, size]."""
    if spans is None:
        if attention_mask is not None and attention_mask.numel() == 1 < query.shape[2]:
            raise ModelError(
                f"{module.config.model_type}: transformers' layers of this kind of model do not "
                "hand on what keeps the sequences of a row apart: not supported"
            )
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    lengths = [length for span in spans for length in span.lengths]
    queries, keys, values = (each.split(lengths, dim=2) for each in (query, key, value))
    parts = []
    for span in spans:
        seen = [*span.before, *span.runs]
        inputs = [_joined(queries, span.runs), _joined(keys, seen), _joined(values, seen)]
        if query.device.type == "cpu" and inputs[1].shape[2] <= SHORT:
            inputs = [each.float() for each in inputs]
        mask = span.mask(sliding_window, query.device)
        parts.append(sdpa_attention_forward(module, *inputs, mask, **options)[0].to(query.dtype))
    return torch.cat(parts, dim=1), None


def _joined(runs: Sequence[Tensor], which: list[int]) -> Tensor:
    return torch.cat([runs[each] for each in which], dim=2) if len(which) > 1 else runs[which[0]]


AttentionInterface.register(PACKED, packed_sdpa)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def arguments(network: Any, micro: MicroBatch) -> dict[str, Any]:
    """What tells a decoder who sees whom in the row of a micro-batch.

    Flash attention keeps sequences apart where positions begin anew, and reads no mask.
    """
    refuse_crossing(network)
    if varlen(network):
        return {"attention_mask": None}
    if network.config._attn_implementation != PACKED:
        return {"attention_mask": micro.attention_mask()}
    # A mask with four dimensions is passed on as it is; here nobody reads it.
    unread = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=micro.input_ids.device)
    return {"attention_mask": unread, "spans": spans_of(micro.runs)}


def varlen(network: Any) -> bool:
    """Whether the implementation reads no masks, so that nothing can be shared."""
    return str(network.config._attn_implementation).startswith("flash_attention")


def refuse_crossing(network: Any) -> None:
    """`ModelError` where something in a model beside causal attention, such as layers with a state,
    would reach from one sequence of a row into the next."""
    config = network.config.get_text_config()
    others = {*(getattr(config, "layer_types", None) or ())} - {*CAUSAL}
    if others:
        what = f"layers of {', '.join(sorted(others))}"
    elif getattr(config, "use_bidirectional_attention", None):
        what = "attention in both directions"
    elif getattr(base_network(network), "_is_stateful", False):
        what = "layers with a state"
    else:
        return
    raise ModelError(
        f"{network.config.name_or_path}: {config.model_type} models have {what}, which would reach "
        "from one sequence of a row into the next: not supported"
    )
