"""DAPO (arXiv 2503.14476): GRPO's advantages with clip-higher, token mean, overlong punishment.

Clip-higher and the token mean are defaults of its section. Dynamic sampling is a matter of the
loop, which asks `teaches` about each group; any algorithm with groups may use both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medgpt_ray.algos.advantages import zero_variance_groups
from medgpt_ray.algos.policy_gradient import PolicyGradient, Rollouts, Targets
from medgpt_ray.config import algorithms as sections


@dataclass(frozen=True)
class Dapo(PolicyGradient):
    config: sections.Dapo

    def targets(self, rollouts: Rollouts, kl_coefficient: float) -> Targets:
        return Targets(self.relative_to_group(rollouts, kl_coefficient, scale_by_std=True))


def overlong_penalty(lengths: Tensor, limit: int, section: sections.Overlong) -> Tensor:
    """[B] what is added to the rewards: 0 up to the buffer, then falling linearly, -penalty at the
    limit. `lengths` [B] tokens of completions, `limit` the most that are generated.
    """
    buffer = max(round(section.buffer_share * limit), 1)
    excess = (lengths.double() - (limit - buffer)).clamp(min=0) / buffer
    return -section.penalty * excess.clamp(max=1)


def teaches(rewards: Sequence[float]) -> bool:
    """Whether the rewards of a group differ: equal ones give no advantage to anyone."""
    values = torch.tensor(rewards, dtype=torch.float64)
    group = torch.zeros(len(rewards), dtype=torch.long)
    return values.numel() > 1 and zero_variance_groups(values, group) == 0
