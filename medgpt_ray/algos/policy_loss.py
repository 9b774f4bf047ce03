"""The clipped policy loss, and how per-token losses add up over the global batch.

Legend: N = completion tokens of a micro-batch, one sequence after the other, without padding;
S = sequences of the micro-batch. A sequence is never cut over micro-batches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from medgpt_ray.algos.kl import LOG_RATIO_LIMIT
from medgpt_ray.config.algorithms import Aggregation


@dataclass(frozen=True)
class TokenBatch:
    """A micro-batch as the losses see it.

    Example, sequences of 2 and 1 tokens with the second one left out: `sequence = [0, 0, 1]`,
    `mask = [1., 1., 0.]`, `sequence_lengths = [2, 0]`.
    """

    log_probs: Tensor
    """[N] of the policy being trained, with gradient."""
    old_log_probs: Tensor
    """[N] of the learner's policy at the start of the update."""
    rollout_log_probs: Tensor
    """[N] the rollout engine's own, at sampling time."""
    reference_log_probs: Tensor | None
    """[N] of the reference model; None when the algorithm needs none."""
    advantages: Tensor
    """[N] of each token."""
    mask: Tensor
    """[N] 1.0 where the token is trained on, else 0.0."""
    sequence: Tensor
    """[N] long, the token's sequence in 0..S-1."""
    sequence_lengths: Tensor
    """[S] tokens of each sequence with mask 1."""


@dataclass(frozen=True)
class Normaliser:
    """Totals over all micro-batches and ranks of one optimiser step.

    They are arguments of the losses so that the gradient does not depend on how the batch is cut.
    What the mask leaves out counts nowhere: `tokens` are those with mask 1, `sequences` those with
    at least one such token. Both may be 0 (all completions truncated and masked): the loss is
    then 0.
    """

    tokens: int
    sequences: int
    max_completion_tokens: int


def aggregate(
    per_token: Tensor, batch: TokenBatch, aggregation: Aggregation, normaliser: Normaliser
) -> Tensor:
    """This micro-batch's part of the global loss; parts of micro-batches and ranks are *added*.

    `sequence`: mean over sequences of their token means (GRPO, arXiv 2402.03300). `sequence_sum`:
    mean over sequences of their token sums. `token`: mean over tokens (DAPO, arXiv 2503.14476).
    `constant`: sum over tokens, divided by sequences x max_completion_tokens, which favours no
    length (Dr. GRPO, arXiv 2503.20783).
    """
    masked = per_token * batch.mask
    sequences = max(normaliser.sequences, 1)
    if aggregation == "token":
        return masked.sum() / max(normaliser.tokens, 1)
    if aggregation == "constant":
        return masked.sum() / (sequences * normaliser.max_completion_tokens)
    if aggregation == "sequence_sum":
        return masked.sum() / sequences
    lengths = batch.sequence_lengths.to(masked.dtype).clamp(min=1)
    return (masked / lengths[batch.sequence]).sum() / sequences


def policy_ratio(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """[N] policy / old, the log-ratio clamped to +-20."""
    return (log_probs - old_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def ppo_clip(
    ratio: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate (arXiv 1707.06347), per token.

    `dual_clip` = c > 1 bounds the loss of a token with negative advantage by -c A (arXiv
    1912.09729).

    Returns:
        loss [N]: -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A).
        clipped [N] bool: where a clip holds, so that the token gives no gradient.
    """
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    objective = torch.minimum(unclipped, clipped)
    holds = clipped < unclipped
    if dual_clip is not None:
        floor = dual_clip * advantages
        below = (advantages < 0) & (objective < floor)
        objective = objective.where(~below, floor)
        holds = holds | below
    return -objective, holds
