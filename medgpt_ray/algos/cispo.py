"""CISPO (arXiv 2506.13585): REINFORCE weighed by a clipped, detached ratio.

Where PPO's clip takes a token's gradient away, here the weight stops growing and every token goes
on learning.
"""

from dataclasses import dataclass

from torch import Tensor

from medgpt_ray.algos.grpo import Grpo
from medgpt_ray.algos.policy_loss import TokenBatch, policy_ratio
from medgpt_ray.config import algorithms as sections


@dataclass(frozen=True)
class Cispo(Grpo):
    config: sections.Cispo

    def surrogate(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """-clip(ratio) A log policy, the clipped ratio a constant."""
        ratio = policy_ratio(batch.log_probs, batch.old_log_probs).detach()
        low = None if self.config.clip_low is None else 1 - self.config.clip_low
        weight = ratio.clamp(low, 1 + self.config.clip_high)
        return -weight * batch.advantages * batch.log_probs, weight != ratio
