"""Losses on pairs of a chosen and a rejected answer: DPO, its variants, and SimPO.

Legend: P = pairs of a micro-batch. pi is the policy, ref the reference. With the log-ratios
c = log pi(chosen) - log ref(chosen) and r, the same of the rejected answer, d = beta (c - r).

`LOSSES` maps `objective.kind` of the configuration to its function. Each returns one loss a pair;
the mean over the pairs of the optimiser step is what is minimised.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from medgpt_ray.config.supervised import Beta, Robust, Sigmoid, SimPo

EXO_EPSILON = 1e-3
"""Smoothing of the label that EXO needs to be finite; the paper's value."""
DISCOPOP_TAU = 0.05
"""Temperature of DiscoPOP's blend; the paper's value."""


@dataclass(frozen=True)
class Pairs:
    """Log-probs are sums over the trained tokens of an answer, of which there is at least one."""

    chosen: Tensor
    """[P] of the policy, with gradient."""
    rejected: Tensor
    """[P] of the policy, with gradient."""
    reference_chosen: Tensor | None
    """[P] of the reference; None for SimPO, which has none."""
    reference_rejected: Tensor | None
    """[P] as above."""
    chosen_tokens: Tensor
    """[P] trained tokens of each chosen answer."""
    rejected_tokens: Tensor
    """[P] trained tokens of each rejected answer."""


def log_ratios(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """c [P] and r [P]."""
    assert pairs.reference_chosen is not None, "this loss needs a reference"
    assert pairs.reference_rejected is not None
    return pairs.chosen - pairs.reference_chosen, pairs.rejected - pairs.reference_rejected


def rewards(pairs: Pairs, beta: float) -> tuple[Tensor, Tensor]:
    """beta c [P] and beta r [P], the rewards that a policy implies; detached, for the metrics.

    Without a reference, those of SimPO: beta times the mean log-prob of a token.
    """
    if pairs.reference_chosen is None:
        chosen, rejected = _mean_log_probs(pairs)
    else:
        chosen, rejected = log_ratios(pairs)
    return beta * chosen.detach(), beta * rejected.detach()


def _mean_log_probs(pairs: Pairs) -> tuple[Tensor, Tensor]:
    return pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens


def _difference(pairs: Pairs, beta: float) -> Tensor:
    """d [P]."""
    chosen, rejected = log_ratios(pairs)
    return beta * (chosen - rejected)


def sigmoid(pairs: Pairs, section: Sigmoid) -> Tensor:
    """-(1 - e) log sigmoid(d) - e log sigmoid(-d), e the label smoothing (arXiv 2305.18290)."""
    d, smoothing = _difference(pairs, section.beta), section.label_smoothing
    return -(1 - smoothing) * logsigmoid(d) - smoothing * logsigmoid(-d)


def robust(pairs: Pairs, section: Robust) -> Tensor:
    """(-(1 - e) log sigmoid(d) + e log sigmoid(-d)) / (1 - 2e) (arXiv 2403.00409).

    In expectation over labels of which a share e is flipped, DPO's loss on the true ones.
    """
    d, flipped = _difference(pairs, section.beta), section.label_smoothing
    return (-(1 - flipped) * logsigmoid(d) + flipped * logsigmoid(-d)) / (1 - 2 * flipped)


def ipo(pairs: Pairs, section: Beta) -> Tensor:
    """(c / |chosen| - r / |rejected| - 1 / (2 beta))^2 (arXiv 2310.12036, eq. 17).

    Of means over tokens, where the paper writes sums: TRL has it from the authors that their
    results are of means.
    """
    chosen, rejected = log_ratios(pairs)
    difference = chosen / pairs.chosen_tokens - rejected / pairs.rejected_tokens
    return (difference - 1 / (2 * section.beta)).square()


def hinge(pairs: Pairs, section: Beta) -> Tensor:
    """max(0, 1 - d): SLiC's loss (arXiv 2305.10425) on log-ratios, as in RSO (arXiv 2309.06657)."""
    return (1 - _difference(pairs, section.beta)).relu()


def exo(pairs: Pairs, section: Beta) -> Tensor:
    """KL((sigmoid(d), sigmoid(-d)) || (1 - e, e)) with e = `EXO_EPSILON` (arXiv 2402.00856)."""
    d = _difference(pairs, section.beta)
    chosen = d.sigmoid() * (logsigmoid(d) - math.log1p(-EXO_EPSILON))
    rejected = (-d).sigmoid() * (logsigmoid(-d) - math.log(EXO_EPSILON))
    return chosen + rejected


def nca(pairs: Pairs, section: Beta) -> Tensor:
    """-log sigmoid(beta c) - (log sigmoid(-beta c) + log sigmoid(-beta r)) / 2 (2402.05369)."""
    chosen, rejected = log_ratios(pairs)
    chosen, rejected = section.beta * chosen, section.beta * rejected
    return -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2


def sppo(pairs: Pairs, section: Beta) -> Tensor:
    """(c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2 (arXiv 2405.00675).

    The winning probabilities, which the paper has from a preference model, are 1 and 0 here.
    """
    chosen, rejected = log_ratios(pairs)
    target = 1 / (2 * section.beta)
    return (chosen - target).square() + (rejected + target).square()


def apo_zero(pairs: Pairs, section: Beta) -> Tensor:
    """1 - sigmoid(beta c) + sigmoid(beta r) (arXiv 2408.06266): chosen up, rejected down.

    The 1, which is not in the paper, keeps the loss above 0.
    """
    chosen, rejected = log_ratios(pairs)
    return (-section.beta * chosen).sigmoid() + (section.beta * rejected).sigmoid()


def apo_down(pairs: Pairs, section: Beta) -> Tensor:
    """sigmoid(beta c) + 1 - sigmoid(d) (arXiv 2408.06266): both down, rejected further.

    The 1, which is not in the paper, keeps the loss above 0.
    """
    chosen, _ = log_ratios(pairs)
    return (section.beta * chosen).sigmoid() + (-_difference(pairs, section.beta)).sigmoid()


def discopop(pairs: Pairs, section: Beta) -> Tensor:
    """(1 - m)(-log sigmoid(d)) + m exp(-d), m = sigmoid(d / tau) (arXiv 2406.08414).

    Not convex: around d = 0, where training starts, it rises with d. The product m exp(-d) is taken
    in logarithms: exp(-d) alone overflows where m is all but 0.
    """
    d = _difference(pairs, section.beta)
    logistic = -logsigmoid(d) * (-d / DISCOPOP_TAU).sigmoid()
    return logistic + (logsigmoid(d / DISCOPOP_TAU) - d).exp()


def simpo(pairs: Pairs, section: SimPo) -> Tensor:
    """-log sigmoid(beta (mean log pi(chosen) - mean log pi(rejected)) - margin) (2405.14734)."""
    chosen, rejected = _mean_log_probs(pairs)
    return -logsigmoid(section.beta * (chosen - rejected) - section.margin)


LOSSES: dict[str, Callable[[Pairs, Any], Tensor]] = {
    "sigmoid": sigmoid,
    "robust": robust,
    "ipo": ipo,
    "hinge": hinge,
    "exo": exo,
    "nca": nca,
    "sppo": sppo,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
    "simpo": simpo,
}
