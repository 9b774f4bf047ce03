"""REINFORCE++ (arXiv 2501.03262) and its variant with a baseline: advantages whitened globally."""

from dataclasses import dataclass

from medgpt_ray.algos.advantages import whiten
from medgpt_ray.algos.gae import generalised_advantages, token_rewards
from medgpt_ray.algos.policy_gradient import PolicyGradient, Rollouts, Targets
from medgpt_ray.config import algorithms as sections


@dataclass(frozen=True)
class ReinforcePlusPlus(PolicyGradient):
    config: sections.ReinforcePlusPlus

    def targets(self, rollouts: Rollouts, kl_coefficient: float) -> Targets:
        """Discounted rewards to go: GAE with lambda 1 and a critic that always says 0."""
        penalty = kl_coefficient * self.token_kl(rollouts) if self.shapes_rewards else None
        rewards = token_rewards(rollouts, penalty)
        to_go, _ = generalised_advantages(
            rewards, rewards.new_zeros(rewards.shape), rollouts, self.config.gamma, 1.0
        )
        return Targets(whiten(to_go, rollouts.mask))


@dataclass(frozen=True)
class ReinforcePlusPlusBaseline(PolicyGradient):
    config: sections.ReinforcePlusPlusBaseline

    def targets(self, rollouts: Rollouts, kl_coefficient: float) -> Targets:
        advantages = self.relative_to_group(rollouts, kl_coefficient, scale_by_std=False)
        return Targets(whiten(advantages, rollouts.mask))
