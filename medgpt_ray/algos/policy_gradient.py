"""What all policy-gradient algorithms share: targets from a step's rollouts, and the loss.

An algorithm is a subclass with a section of the configuration. `targets` turns the rewards of the
global batch into one advantage for each token; `surrogate` is the loss of a token before it is
weighed and added up.

Legend: B = completions of the global batch, N = completion tokens, one completion after the other.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from medgpt_ray.algos.advantages import group_advantages
from medgpt_ray.algos.correction import correction_weights
from medgpt_ray.algos.kl import kl_estimate, kl_loss
from medgpt_ray.algos.policy_loss import (
    Normaliser,
    TokenBatch,
    aggregate,
    policy_ratio,
    ppo_clip,
)
from medgpt_ray.config import algorithms as sections


@dataclass(frozen=True)
class Rollouts:
    """The global batch of a step, as the targets see it. Floating tensors are float64.

    Example, completions of 2 and 1 tokens: `rewards = [1., 0.]`, `group = [0, 0]`,
    `sequence = [0, 0, 1]`, `mask = [1., 1., 1.]`.
    """

    rewards: Tensor
    """[B]"""
    group: Tensor
    """[B] long, equal for completions of the same prompt."""
    sequence: Tensor
    """[N] long, ascending: the token's completion in 0..B-1."""
    mask: Tensor
    """[N] 1.0 where the policy generated the token and is trained on it, else 0.0."""
    old_log_probs: Tensor | None = None
    """[N] there when the algorithm shapes rewards by the KL penalty."""
    reference_log_probs: Tensor | None = None
    """[N] likewise."""
    values: Tensor | None = None
    """[N] the critic's value before each token; there when the algorithm has a critic."""
    generated: Tensor | None = None
    """[N] 1.0 where the policy generated the token, trained on or not; None where that is the
    same."""

    def of_completions(self, values: Tensor) -> Tensor:
        """[B] sums of [N] values over the tokens that the policy generated: a completion that is
        left out of the loss has its part in its group's baseline as it would have otherwise."""
        own = self.mask if self.generated is None else self.generated
        return torch.zeros_like(self.rewards).index_add(0, self.sequence, values * own)


@dataclass(frozen=True)
class Targets:
    advantages: Tensor
    """[N]"""
    returns: Tensor | None = None
    """[N] what the critic learns; None without a critic."""


@dataclass(frozen=True)
class PolicyGradient(ABC):
    """What the loop and the learner need to know of an algorithm."""

    config: sections.PolicyGradient

    @property
    def needs_reference(self) -> bool:
        return self.config.kl.coefficient > 0

    @property
    def shapes_rewards(self) -> bool:
        """Whether the KL penalty is part of the reward, which needs the old log-probs."""
        return self.needs_reference and self.config.kl.placement == "reward"

    @abstractmethod
    def targets(self, rollouts: Rollouts, kl_coefficient: float) -> Targets:
        """Advantages of the global batch. `kl_coefficient` is the current one, which may adapt."""

    def relative_to_group(
        self, rollouts: Rollouts, kl_coefficient: float, scale_by_std: bool
    ) -> Tensor:
        """[N] the advantage of each completion within its group, repeated over its tokens."""
        rewards = self.penalised(rollouts, kl_coefficient)
        return group_advantages(rewards, rollouts.group, scale_by_std)[rollouts.sequence]

    def penalised(self, rollouts: Rollouts, kl_coefficient: float) -> Tensor:
        """[B] rewards less the KL penalty of each completion, summed over its tokens.

        Before a group's mean is taken: the penalty then counts relative to the group's.
        """
        if not self.shapes_rewards:
            return rollouts.rewards
        return rollouts.rewards - kl_coefficient * self.completion_kl(rollouts)

    def completion_kl(self, rollouts: Rollouts) -> Tensor:
        """[B] KL estimates summed over each completion."""
        return rollouts.of_completions(self.token_kl(rollouts))

    def token_kl(self, rollouts: Rollouts) -> Tensor:
        """[N] KL estimates of the policy at the start of the update against the reference."""
        assert rollouts.old_log_probs is not None, "needs_reference was not heeded"
        assert rollouts.reference_log_probs is not None, "needs_reference was not heeded"
        estimator = self.config.kl.estimator
        return kl_estimate(rollouts.old_log_probs, rollouts.reference_log_probs, estimator)

    def surrogate(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Loss [N] of each token, and where [N] bool a clip holds: PPO's, unless overridden."""
        ratio = policy_ratio(batch.log_probs, batch.old_log_probs)
        config = self.config
        return ppo_clip(
            ratio, batch.advantages, config.clip_low, config.clip_high, config.dual_clip
        )

    def loss(self, batch: TokenBatch, normaliser: Normaliser) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's part of the loss, and sums for the metrics.

        The importance correction weighs the policy loss only, not the KL penalty. Over
        micro-batches and ranks the loss parts add up. So do the metrics, which are then divided by
        `normaliser.tokens`, except those whose name ends in `/max`: of these the largest counts.
        """
        config = self.config
        per_token, clipped = self.surrogate(batch)
        weights = correction_weights(
            batch.old_log_probs,
            batch.rollout_log_probs,
            batch.sequence,
            batch.mask,
            config.rollout_correction,
        )
        per_token = per_token * weights
        if config.kl.coefficient > 0 and config.kl.placement == "loss":
            assert batch.reference_log_probs is not None, "needs_reference was not heeded"
            penalty = kl_loss(batch.log_probs, batch.reference_log_probs, config.kl.estimator)
            per_token = per_token + config.kl.coefficient * penalty
        loss = aggregate(per_token, batch, config.aggregation, normaliser)
        return loss, self._metrics(batch, clipped, weights)

    @torch.no_grad()
    def _metrics(self, batch: TokenBatch, clipped: Tensor, weights: Tensor) -> dict[str, Tensor]:
        ratio = policy_ratio(batch.log_probs, batch.old_log_probs)
        deviation = (ratio - 1).abs() * batch.mask
        difference = (batch.old_log_probs - batch.rollout_log_probs).abs() * batch.mask
        metrics = {
            "clip_fraction": (clipped * batch.mask).sum(),
            "correction_weight/mean": (weights * batch.mask).sum(),
            "ratio_deviation/mean": deviation.sum(),
            "ratio_deviation/max": _largest(deviation),
            "logprob_difference/mean": difference.sum(),
            "logprob_difference/max": _largest(difference),
        }
        if batch.reference_log_probs is not None:
            estimate = kl_estimate(
                batch.log_probs, batch.reference_log_probs, self.config.kl.estimator
            )
            metrics["kl"] = (estimate * batch.mask).sum()
        return metrics


def _largest(values: Tensor) -> Tensor:
    """Maximum of non-negative values; 0 of none."""
    return torch.cat([values, values.new_zeros(1)]).max()
