"""Generalised advantage estimation (arXiv 1506.02438) over completions of unequal length.

Legend: B = completions, N = their tokens one after the other, T = tokens of the longest.
"""

import torch
from torch import Tensor

from medgpt_ray.algos.policy_gradient import Rollouts


def token_rewards(rollouts: Rollouts, penalty: Tensor | None) -> Tensor:
    """[N] the completion's reward on its last trained token, less `penalty` [N] on each."""
    rewards = torch.zeros_like(rollouts.mask)
    if penalty is not None:
        rewards = -penalty * rollouts.mask
    place = torch.arange(len(rewards), device=rewards.device)
    last = torch.full_like(rollouts.group, -1).scatter_reduce(
        0, rollouts.sequence, torch.where(rollouts.mask > 0, place, -1), "amax"
    )
    trained = last >= 0
    return rewards.index_add(0, last[trained], rollouts.rewards[trained])


def generalised_advantages(
    rewards: Tensor, values: Tensor, rollouts: Rollouts, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages [N] and returns [N], 0 where the mask is 0.

    d = r + gamma V' - V; A = d + gamma lam A'; the return is A + V. Tokens that the policy did not
    generate (mask 0) are skipped: the next value and advantage are carried through them, so an
    observation in the middle costs no discount. A completion ends with value 0.
    """
    shape = rollouts.rewards.numel(), int(torch.bincount(rollouts.sequence).max())
    starts = torch.searchsorted(
        rollouts.sequence, torch.arange(shape[0], device=rollouts.sequence.device)
    )
    place = torch.arange(len(rewards), device=rewards.device) - starts[rollouts.sequence]

    def padded(flat: Tensor) -> Tensor:
        table = flat.new_zeros(shape)
        table[rollouts.sequence, place] = flat
        return table

    rewards_BT, values_BT, mask_BT = padded(rewards), padded(values), padded(rollouts.mask) > 0
    advantages_BT = torch.zeros_like(rewards_BT)
    next_value = next_advantage = rewards_BT.new_zeros(shape[0])
    for t in reversed(range(shape[1])):
        delta = rewards_BT[:, t] + gamma * next_value - values_BT[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages_BT[:, t] = advantage
        next_value = torch.where(mask_BT[:, t], values_BT[:, t], next_value)
        next_advantage = torch.where(mask_BT[:, t], advantage, next_advantage)
    advantages = advantages_BT[rollouts.sequence, place] * rollouts.mask
    return advantages, (advantages + values) * rollouts.mask
