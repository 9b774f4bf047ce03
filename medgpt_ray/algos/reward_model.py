"""The Bradley-Terry loss of reward models (arXiv 2203.02155)."""

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None, centring: float
) -> Tensor:
    """[P] -log sigmoid(chosen - rejected - margin) + centring (chosen + rejected)^2.

    The margin is how much better the chosen answer is by the data, in units of the score (arXiv
    2307.09288); the second term keeps scores around 0 (arXiv 2312.09244).

    Args:
        chosen: [P] scores, with gradient.
        rejected: [P] scores, with gradient.
        margin: [P]; None is 0.
    """
    difference = chosen - rejected
    if margin is not None:
        difference = difference - margin
    return -logsigmoid(difference) + centring * (chosen + rejected).square()
