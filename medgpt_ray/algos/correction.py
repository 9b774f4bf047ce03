"""Weights for tokens that the rollout engine sampled with slightly other probabilities.

The engine (other kernels, bf16, perhaps older weights) samples from `rollout`; the loss is written
for `old`, the learner's policy at the start of the update. w = exp(log old - log rollout) corrects
for the difference. Weights are constants of the loss, and a weight of 0 drops a token's policy
loss without changing any denominator: the normaliser keeps the count before masking.
"""

from typing import assert_never

import torch
from torch import Tensor

from medgpt_ray.algos.kl import LOG_RATIO_LIMIT
from medgpt_ray.config.algorithms import Mask, NoCorrection, SequenceMask, Truncate

Correction = NoCorrection | Truncate | Mask | SequenceMask


@torch.no_grad()
def correction_weights(
    old_log_probs: Tensor,
    rollout_log_probs: Tensor,
    sequence: Tensor,
    mask: Tensor,
    correction: Correction,
) -> Tensor:
    """[N] detached weights.

    `truncate`: min(w, cap) (truncated importance sampling). `mask`: w inside [low, high], else 0
    (IcePop). `sequence_mask`: w in sequences whose geometric mean of w over the tokens of `mask`
    lies in [low, high], else 0; a sequence must not be cut over micro-batches.
    """
    log_ratio = old_log_probs - rollout_log_probs
    weights = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    match correction:
        case NoCorrection():
            return torch.ones_like(weights)
        case Truncate(cap=cap):
            return weights.clamp(max=cap)
        case Mask(low=low, high=high):
            return weights * _inside(weights, low, high)
        case SequenceMask(low=low, high=high):
            geometric_mean = _sequence_means(log_ratio, sequence, mask).exp()
            return weights * _inside(geometric_mean, low, high)[sequence]
        case _:
            assert_never(correction)


def _inside(weights: Tensor, low: float, high: float) -> Tensor:
    return (weights >= low) & (weights <= high)


def _sequence_means(values: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
    """[S] mean over the tokens of `mask`; 0 for a sequence without any."""
    count = int(sequence.max()) + 1 if sequence.numel() else 0
    totals = values.new_zeros(count).index_add(0, sequence, values * mask)
    lengths = values.new_zeros(count).index_add(0, sequence, mask.to(values.dtype))
    return totals / lengths.clamp(min=1)
