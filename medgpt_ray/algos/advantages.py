"""Advantages of completions relative to the other completions of their prompt.

Legend: B = completions of the global batch, in any order; U = distinct prompts (groups) among them.
Groups may differ in size: a sample whose reward failed is left out before this is called.
"""

import torch
from torch import Tensor


def group_advantages(
    rewards: Tensor, group: Tensor, scale_by_std: bool, eps: float = 1e-6
) -> Tensor:
    """(R - group mean) / (group std + eps), std unbiased (GRPO, arXiv 2402.03300).

    Without `scale_by_std` only the mean is subtracted (Dr. GRPO, arXiv 2503.20783). A group of one
    and a group of equal rewards give exactly 0, not the rounding error of the mean divided by eps.

    Args:
        rewards: [B] floating point.
        group: [B] long, equal for completions of the same prompt; any values.
    """
    groups, index, count = _groups(group)
    mean_U = rewards.new_zeros(groups).index_add(0, index, rewards) / count
    centred = rewards - mean_U[index]
    if scale_by_std:
        squares_U = rewards.new_zeros(groups).index_add(0, index, centred.square())
        std_U = (squares_U / (count - 1).clamp(min=1)).sqrt()
        centred = centred / (std_U[index] + eps)
    return centred.masked_fill(_without_variance(rewards, groups, index)[index], 0.0)


def leave_one_out(rewards: Tensor, group: Tensor) -> Tensor:
    """[B] R - mean of the rewards of the other completions of the prompt (RLOO, arXiv 2402.14740);
    0 for a completion without others. Arguments as in `group_advantages`.
    """
    groups, index, count = _groups(group)
    sum_U = rewards.new_zeros(groups).index_add(0, index, rewards)
    others = (count - 1)[index]
    baseline = (sum_U[index] - rewards) / others.clamp(min=1)
    silent = (others == 0) | _without_variance(rewards, groups, index)[index]
    return (rewards - baseline).masked_fill(silent, 0.0)


def whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """[N] to mean 0 and variance 1 (unbiased) over the tokens of `mask` [N]; 0 elsewhere, and
    everywhere when all are equal.
    """
    kept = values[mask > 0]
    if kept.numel() < 2 or bool((kept == kept[0]).all()):
        return torch.zeros_like(values)
    return (values - kept.mean()) * torch.rsqrt(kept.var() + eps) * mask


def zero_variance_groups(rewards: Tensor, group: Tensor) -> int:
    """How many groups teach nothing: all rewards equal, or a single member."""
    groups, index, _ = _groups(group)
    return int(_without_variance(rewards, groups, index).sum())


def _groups(group: Tensor) -> tuple[int, Tensor, Tensor]:
    """U, the index [B] of each completion's group in 0..U-1, and the sizes [U]."""
    values, index, count = torch.unique(group, return_inverse=True, return_counts=True)
    return values.numel(), index, count


def _without_variance(rewards: Tensor, groups: int, index: Tensor) -> Tensor:
    """[U] bool. Compares rewards, since the variance of equal floats need not come out as 0; up to
    the rounding of weighted sums."""
    extremes = [
        rewards.new_zeros(groups).scatter_reduce(0, index, rewards, how, include_self=False)
        for how in ("amin", "amax")
    ]
    low, high = extremes
    return high - low <= 1e-9 * torch.maximum(low.abs(), high.abs())
