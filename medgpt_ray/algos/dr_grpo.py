"""Dr. GRPO (arXiv 2503.20783): GRPO without the standard deviation, summed over a constant.

The constant aggregation is the section's default; `policy_loss.aggregate` has it.
"""

from dataclasses import dataclass

from medgpt_ray.algos.policy_gradient import PolicyGradient, Rollouts, Targets
from medgpt_ray.config import algorithms as sections


@dataclass(frozen=True)
class DrGrpo(PolicyGradient):
    config: sections.DrGrpo

    def targets(self, rollouts: Rollouts, kl_coefficient: float) -> Targets:
        return Targets(self.relative_to_group(rollouts, kl_coefficient, scale_by_std=False))
