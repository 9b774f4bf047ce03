"""Per-token estimators of KL(policy || reference) on tokens that the policy sampled.

Schulman, "Approximating KL Divergence" (2020), with d = log policy - log reference:
k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. d is clamped to +-20 and the estimate to +-10, so that
one token cannot dominate a batch.
"""

from typing import Literal

from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]

LOG_RATIO_LIMIT = 20.0
ESTIMATE_LIMIT = 10.0


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, estimator: Estimator) -> Tensor:
    """[N] per-token estimate, for rewards and metrics. As a loss, use `kl_loss`."""
    d = (log_probs - reference_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if estimator == "k1":
        estimate = d
    elif estimator == "k2":
        estimate = d.square() / 2
    else:
        estimate = (-d).exp() - 1 + d
    return estimate.clamp(-ESTIMATE_LIMIT, ESTIMATE_LIMIT)


def kl_loss(log_probs: Tensor, reference_log_probs: Tensor, estimator: Estimator) -> Tensor:
    """[N] per-token penalty: the value of the estimator with the gradient of k2, straight through.

    Only k2's own gradient, d * grad log policy, is in expectation the gradient of the KL; k1's is
    zero in expectation, and k3's is that of the reversed KL. The clamps bound the value and d, and
    do not cut the gradient: a token that drifted beyond them is still pulled back.
    """
    value = kl_estimate(log_probs, reference_log_probs, estimator).detach()
    d = (log_probs - reference_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).detach()
    return value + d * (log_probs - log_probs.detach())
