"""GSPO (arXiv 2507.18071): the ratio of a whole sequence is clipped, not that of each token."""

from dataclasses import dataclass

from torch import Tensor

from medgpt_ray.algos.grpo import Grpo
from medgpt_ray.algos.kl import LOG_RATIO_LIMIT
from medgpt_ray.algos.policy_loss import TokenBatch, ppo_clip
from medgpt_ray.config import algorithms as sections


@dataclass(frozen=True)
class Gspo(Grpo):
    config: sections.Gspo

    def surrogate(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """With s = exp(mean over the sequence's tokens of log policy - log old), for each token."""
        difference = (batch.log_probs - batch.old_log_probs) * batch.mask
        sums = difference.new_zeros(len(batch.sequence_lengths))
        sums = sums.index_add(0, batch.sequence, difference)
        means = sums / batch.sequence_lengths.to(sums.dtype).clamp(min=1)
        ratio = means.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()[batch.sequence]
        clips = self.config.clip_low, self.config.clip_high, self.config.dual_clip
        return ppo_clip(ratio, batch.advantages, *clips)
