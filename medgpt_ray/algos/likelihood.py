"""Maximum likelihood: the loss of pre-training and of supervised fine-tuning."""

from torch import Tensor


def negative_log_likelihood(log_probs: Tensor, trained: Tensor, tokens: int) -> Tensor:
    """This micro-batch's part of the mean of -log p over the trained tokens of the global batch.

    Long and short sequences count by their tokens. Parts of micro-batches and ranks are *added*.

    Args:
        log_probs: [N] of the policy, with gradient.
        trained: [N] 1.0 where the token is learned, else 0.0.
        tokens: trained tokens of the optimiser step, over all micro-batches and ranks.
    """
    return -(log_probs * trained).sum() / tokens
