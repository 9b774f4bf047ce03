"""RLOO (arXiv 2402.14740): REINFORCE whose baseline is the mean reward of the other completions."""

from dataclasses import dataclass

from medgpt_ray.algos.advantages import leave_one_out
from medgpt_ray.algos.policy_gradient import PolicyGradient, Rollouts, Targets
from medgpt_ray.config import algorithms as sections


@dataclass(frozen=True)
class Rloo(PolicyGradient):
    config: sections.Rloo

    def targets(self, rollouts: Rollouts, kl_coefficient: float) -> Targets:
        rewards = self.penalised(rollouts, kl_coefficient)
        return Targets(leave_one_out(rewards, rollouts.group)[rollouts.sequence])
