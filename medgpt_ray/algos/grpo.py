"""GRPO (arXiv 2402.03300): rewards relative to the other completions of the prompt."""

from dataclasses import dataclass

from medgpt_ray.algos.policy_gradient import PolicyGradient, Rollouts, Targets
from medgpt_ray.config import algorithms as sections


@dataclass(frozen=True)
class Grpo(PolicyGradient):
    config: sections.Grpo | sections.Gspo | sections.Cispo

    def targets(self, rollouts: Rollouts, kl_coefficient: float) -> Targets:
        return Targets(self.relative_to_group(rollouts, kl_coefficient, self.config.scale_by_std))
