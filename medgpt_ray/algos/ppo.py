"""PPO (arXiv 1707.06347) as RLHF uses it (arXiv 2203.02155): a critic, GAE, KL-shaped rewards."""

from dataclasses import dataclass

import torch
from torch import Tensor

from medgpt_ray.algos.advantages import whiten
from medgpt_ray.algos.gae import generalised_advantages, token_rewards
from medgpt_ray.algos.policy_gradient import PolicyGradient, Rollouts, Targets
from medgpt_ray.config import algorithms as sections


@dataclass(frozen=True)
class Ppo(PolicyGradient):
    config: sections.Ppo

    def targets(self, rollouts: Rollouts, kl_coefficient: float) -> Targets:
        assert rollouts.values is not None, "PPO needs the critic's values"
        config = self.config
        penalty = kl_coefficient * self.token_kl(rollouts) if self.shapes_rewards else None
        advantages, returns = generalised_advantages(
            token_rewards(rollouts, penalty),
            rollouts.values,
            rollouts,
            config.gamma,
            config.gae_lambda,
        )
        if config.whiten_advantages:
            advantages = whiten(advantages, rollouts.mask)
        return Targets(advantages, returns)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """[N] half of the larger squared error, of the value and of the value kept within `clip` of
    the old one.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (near - returns).square()) / 2
