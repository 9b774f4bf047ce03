"""ORPO (arXiv 2403.07691): likelihood of the chosen answer plus an odds ratio, no reference.

Legend: P = pairs of a micro-batch. The probability p of an answer is the geometric mean over its
trained tokens, so that log p is their mean log-prob; its odds are p / (1 - p).
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from medgpt_ray.config.supervised import Orpo

MAX_LOG_PROB = -1e-6
"""Odds are those of an answer no more certain than this: at 0 they are infinite, and float32
log-probs say nothing about smaller differences."""


def log_odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """[P] log odds(chosen) - log odds(rejected), from the mean log-probs [P] of both."""
    return _log_odds(chosen) - _log_odds(rejected)


def _log_odds(log_prob: Tensor) -> Tensor:
    """log p - log(1 - p). An answer beyond `MAX_LOG_PROB` gets no gradient from its odds."""
    log_prob = log_prob.clamp(max=MAX_LOG_PROB)
    return log_prob - (-log_prob.expm1()).log()


def orpo(chosen: Tensor, rejected: Tensor, section: Orpo) -> Tensor:
    """[P] -log p(chosen) - lambda log sigmoid(log odds ratio), from the mean log-probs [P] of both.

    As in the paper, the likelihood is the mean over an answer's own tokens, and every pair counts
    the same. TRL learns the prompt too, and takes the mean over the tokens of a micro-batch.
    """
    return -chosen - section.coefficient * logsigmoid(log_odds_ratio(chosen, rejected))
