"""From a micro-batch of the learner to the tensors an algorithm's loss takes."""

from typing import Any

import torch
from torch import Tensor

from medgpt_ray.algos.policy_loss import Normaliser, TokenBatch
from medgpt_ray.models.learner import LossFn
from medgpt_ray.models.packing import MicroBatch


def policy_loss(algorithm: Any, normaliser: Normaliser) -> LossFn:
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
