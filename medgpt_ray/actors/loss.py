"""From a micro-batch of the learner to the tensors an algorithm's loss takes."""

import torch
from torch import Tensor

from medgpt_ray.algos.policy_gradient import PolicyGradient
from medgpt_ray.algos.policy_loss import Normaliser, TokenBatch
from medgpt_ray.algos.ppo import value_loss
from medgpt_ray.config.algorithms import Ppo
from medgpt_ray.models.learner import LossFn
from medgpt_ray.models.packing import MicroBatch


def policy_loss(algorithm: PolicyGradient, normaliser: Normaliser) -> LossFn:
    """The algorithm's loss over the micro-batch's fields.

    `mask`, `advantage` and `rollout_log_probs` are always there; `old_log_probs` where more than
    one update is made from a batch (else the current ones are the old ones), `reference_log_probs`
    where the algorithm needs a reference.
    """

    def loss(
        log_probs: Tensor, entropies: Tensor, micro: MicroBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        fields = micro.fields
        mask = fields["mask"]
        lengths = torch.zeros(len(micro.index), device=mask.device)
        batch = TokenBatch(
            log_probs=log_probs,
            old_log_probs=fields.get("old_log_probs", log_probs.detach()),
            rollout_log_probs=fields["rollout_log_probs"],
            reference_log_probs=fields.get("reference_log_probs"),
            advantages=fields["advantage"],
            mask=mask,
            sequence=micro.sequence,
            sequence_lengths=lengths.index_add(0, micro.sequence, mask),
        )
        value, metrics = algorithm.loss(batch, normaliser)
        return value, {**metrics, "entropy": (entropies * mask).sum()}

    return loss


def critic_loss(section: Ppo, normaliser: Normaliser) -> LossFn:
    """The clipped value loss, a mean over the trained tokens of the global batch.

    Needs the fields `mask`, `old_values` and `return`. The metrics are sums over trained tokens.
    """

    def loss(values: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        mask, returns = micro.fields["mask"], micro.fields["return"]
        old = micro.fields["old_values"]
        per_token = value_loss(values, old, returns, section.value_clip) * mask
        with torch.no_grad():
            metrics = {
                "value/mean": (values * mask).sum(),
                "return/mean": (returns * mask).sum(),
                "error/mean": ((values - returns).square() * mask).sum(),
                "clip_fraction": (((values - old).abs() > section.value_clip) * mask).sum(),
            }
        return per_token.sum() / max(normaliser.tokens, 1), metrics

    return loss
