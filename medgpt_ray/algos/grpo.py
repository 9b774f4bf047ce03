"""GRPO (arXiv 2402.03300) and its settings: DAPO's clip-higher and token mean, Dr. GRPO.

Left out on purpose: DAPO's dynamic sampling, which is a matter of the loop, not of the loss.
"""

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
from medgpt_ray.config import schema


@dataclass(frozen=True)
class Grpo:
    """What the loop and the learner need to know of the algorithm."""

    config: schema.Grpo

    @property
    def needs_reference(self) -> bool:
        return self.config.kl.coefficient > 0

    def shaped_rewards(
        self,
        rewards: Tensor,
        old_log_probs: Tensor,
        reference_log_probs: Tensor,
        sequence: Tensor,
    ) -> Tensor:
        """[B] rewards minus coefficient x the completion's summed per-token KL estimate.

        For `kl.placement: reward`, before `advantages`: the penalty then counts relative to the
        group's. Token tensors are flat over all tokens of the B completions; `sequence` in 0..B-1.
        """
        penalty = kl_estimate(old_log_probs, reference_log_probs, self.config.kl.estimator)
        summed = rewards.new_zeros(rewards.shape).index_add(0, sequence, penalty.to(rewards.dtype))
        return rewards - self.config.kl.coefficient * summed

    def advantages(self, rewards: Tensor, group: Tensor) -> Tensor:
        """[B] one advantage a completion, from its reward and the prompt it belongs to."""
        return group_advantages(rewards, group, self.config.scale_by_std)

    def loss(self, batch: TokenBatch, normaliser: Normaliser) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's part of the loss, and sums for the metrics.

        The importance correction weighs the policy loss only, not the KL penalty. Over
        micro-batches and ranks the loss parts add up. So do the metrics, which are then divided by
        `normaliser.tokens`, except those whose name ends in `/max`: of these the largest counts.
        """
        config = self.config
        ratio = policy_ratio(batch.log_probs, batch.old_log_probs)
        per_token, clipped = ppo_clip(ratio, batch.advantages, config.clip_low, config.clip_high)
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
        return loss, self._metrics(batch, ratio, clipped, weights)

    @torch.no_grad()
    def _metrics(
        self, batch: TokenBatch, ratio: Tensor, clipped: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
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
