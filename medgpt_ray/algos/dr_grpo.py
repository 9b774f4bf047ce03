"""Dr. GRPO (arXiv 2503.20783): GRPO without the standard deviation, summed over a constant.

The constant aggregation is the section's default; `policy_loss.aggregate` has it.
"""

from dataclasses import dataclass

from medgpt_ray.algos.advantages import group_advantages
from medgpt_ray.algos.policy_gradient import PolicyGradient, Rollouts, Targets
from medgpt_ray.config import algorithms as sections


@dataclass(frozen=True)
class DrGrpo(PolicyGradient):
    config: sections.DrGrpo

    def targets(self, rollouts: Rollouts, kl_coefficient: float) -> Targets:
        rewards = self.penalised(rollouts, kl_coefficient)
        advantages = group_advantages(rewards, rollouts.group, scale_by_std=False)
        return Targets(advantages[rollouts.sequence])
