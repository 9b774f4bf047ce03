"""KTO (arXiv 2402.01306): answers judged one by one, good or bad.

Legend: S = sequences of a micro-batch, B = examples of the optimiser step. The log-ratio of an
answer is log pi - log ref, both summed over its trained tokens.
"""

import torch
from torch import Tensor

from medgpt_ray.config.supervised import Kto


@torch.no_grad()
def kl_baseline(policy: Tensor, reference: Tensor) -> Tensor:
    """z0, a scalar: the mean log-ratio of mismatched answers over the optimiser step, at least 0.

    A rough estimate of KL(pi || ref) from answers that are not those of the prompt: the i-th prompt
    of the batch goes with the answer of example i + 1, the last one with the first. TRL goes the
    other way round, and mixes the answers of one device's micro-batch only.

    Args:
        policy: [B] summed log-probs of the mismatched answers.
        reference: [B] the same of the reference.
    """
    return (policy - reference).mean().clamp(min=0)


def kto(policy: Tensor, reference: Tensor, desirable: Tensor, z0: Tensor, section: Kto) -> Tensor:
    """[S] w (1 - sigmoid(beta (log-ratio - z0))), with the sign turned for undesirable answers.

    Args:
        policy: [S] summed log-probs, with gradient.
        reference: [S] the same of the reference.
        desirable: [S] bool; says which weight w an answer has, too.
        z0: scalar without gradient, from `kl_baseline`.
    """
    surplus = section.beta * (policy - reference - z0)
    return torch.where(
        desirable,
        section.desirable_weight * (-surplus).sigmoid(),
        section.undesirable_weight * surplus.sigmoid(),
    )
