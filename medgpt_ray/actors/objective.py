"""From a micro-batch of the learner to the losses of the supervised stages.

Each function returns a loss function of the learner, which gives its micro-batch's part of the
global loss, divided by a count over the whole optimiser step, and sums for the metrics. Sums of
several micro-batches and ranks are added; dividing one by its count among them gives the mean:

    likelihood                 nll and accuracy by tokens
    dpo, orpo, reward_model    everything by pairs
    kto                        kl by examples; rewards/desirable by examples/desirable, and the
                               other label likewise

Legend: N = completion tokens of the micro-batch, S = sequences, P = pairs. Pairs lie in the batch
as chosen, rejected, chosen, rejected ...: sequences 2k and 2k + 1. A micro-batch holds both members
of a pair, one right after the other. `micro.fields["trained"]` is 1.0 for learned tokens, else 0.0;
what belongs to a whole sequence, such as a margin, is repeated over its tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medgpt_ray.algos.kto import kto as kto_losses
from medgpt_ray.algos.likelihood import negative_log_likelihood
from medgpt_ray.algos.orpo import log_odds_ratio
from medgpt_ray.algos.orpo import orpo as orpo_losses
from medgpt_ray.algos.preference import LOSSES, Pairs, rewards
from medgpt_ray.algos.reward_model import bradley_terry
from medgpt_ray.config.supervised import Beta, Kto, Orpo, RewardModelling, Robust, Sigmoid, SimPo
from medgpt_ray.models.packing import MicroBatch

Part = tuple[Tensor, dict[str, Tensor]]
"""Part of the global loss, and sums for the metrics."""
PolicyLoss = Callable[[Tensor, Any, MicroBatch], Part]
"""Of the policy's log-probs [N] and what else it returns, which these losses do not use."""
ScoreLoss = Callable[[Tensor, MicroBatch], Part]
"""Of a reward model's scores [S], in the order of `micro.index`."""


def likelihood(tokens: int) -> PolicyLoss:
    """PT and SFT; `tokens`: trained tokens of the optimiser step. `hits` [N] are 1.0 where the
    policy's likeliest token is the right one."""

    def loss(log_probs: Tensor, hits: Tensor, micro: MicroBatch) -> Part:
        trained = micro.fields["trained"]
        value = negative_log_likelihood(log_probs, trained, tokens)
        metrics = {
            "nll": value.detach() * tokens,
            "accuracy": (hits * trained).sum(),
            "tokens": trained.sum(),
        }
        return value, metrics

    return loss


def dpo(section: Sigmoid | Robust | Beta | SimPo, pairs: int) -> PolicyLoss:
    """`pairs` of the optimiser step. Needs the field `reference_log_probs`, except for SimPO."""

    def loss(log_probs: Tensor, extras: Any, micro: MicroBatch) -> Part:
        chosen, rejected = _halves(_sums(log_probs, micro), micro)
        if isinstance(section, SimPo):
            references: tuple[Tensor | None, Tensor | None] = (None, None)
        else:
            references = _halves(_sums(micro.fields["reference_log_probs"], micro), micro)
        batch = Pairs(chosen, rejected, *references, *_halves(_lengths(micro), micro))
        losses = LOSSES[section.kind](batch, section)
        better, worse = rewards(batch, section.beta)
        metrics = {
            "rewards/chosen": better.sum(),
            "rewards/rejected": worse.sum(),
            "rewards/margin": (better - worse).sum(),
            "rewards/accuracy": (better > worse).sum(),
            "logps/chosen": chosen.detach().sum(),
            "logps/rejected": rejected.detach().sum(),
            "pairs": _count(losses),
        }
        return losses.sum() / pairs, metrics

    return loss


def orpo(section: Orpo, pairs: int) -> PolicyLoss:
    """`pairs` of the optimiser step."""

    def loss(log_probs: Tensor, extras: Any, micro: MicroBatch) -> Part:
        chosen, rejected = _halves(_sums(log_probs, micro) / _lengths(micro), micro)
        losses = orpo_losses(chosen, rejected, section)
        metrics = {
            "nll": -chosen.detach().sum(),
            "log_odds_ratio": log_odds_ratio(chosen.detach(), rejected.detach()).sum(),
            "accuracy": (chosen > rejected).sum(),
            "pairs": _count(losses),
        }
        return losses.sum() / pairs, metrics

    return loss


def kto(section: Kto, examples: int, z0: Tensor) -> PolicyLoss:
    """`examples` of the optimiser step, `z0` from `algos.kto.kl_baseline` over all of them.

    Needs the fields `reference_log_probs` and `desirable` (1.0 or 0.0).
    """

    def loss(log_probs: Tensor, extras: Any, micro: MicroBatch) -> Part:
        policy = _sums(log_probs, micro)
        reference = _sums(micro.fields["reference_log_probs"], micro).to(policy.dtype)
        desirable = _of_sequences("desirable", micro) > 0
        losses = kto_losses(policy, reference, desirable, z0, section)
        implied = section.beta * (policy.detach() - reference)
        metrics = {
            "rewards/desirable": implied[desirable].sum(),
            "rewards/undesirable": implied[~desirable].sum(),
            "examples/desirable": desirable.sum(),
            "examples/undesirable": (~desirable).sum(),
            "kl": z0 * _count(losses),
            "examples": _count(losses),
        }
        return losses.sum() / examples, metrics

    return loss


def reward_model(section: RewardModelling, pairs: int) -> ScoreLoss:
    """`pairs` of the optimiser step. The field `margin` may be missing."""

    def loss(scores: Tensor, micro: MicroBatch) -> Part:
        chosen, rejected = _halves(scores, micro)
        margin = None
        if "margin" in micro.fields:
            margin, _ = _halves(_of_sequences("margin", micro), micro)
        losses = bradley_terry(chosen, rejected, margin, section.centring)
        better, worse = chosen.detach(), rejected.detach()
        metrics = {
            "accuracy": (better > worse).sum(),
            "margin": (better - worse).sum(),
            "scores/chosen": better.sum(),
            "scores/rejected": worse.sum(),
            "pairs": _count(losses),
        }
        return losses.sum() / pairs, metrics

    return loss


def _sums(log_probs: Tensor, micro: MicroBatch) -> Tensor:
    """[S] sum over the trained tokens of each sequence."""
    sums = log_probs.new_zeros(len(micro.index))
    return sums.index_add(0, micro.sequence, log_probs * micro.fields["trained"])


def _lengths(micro: MicroBatch) -> Tensor:
    """[S] trained tokens of each sequence."""
    return _sums(torch.ones_like(micro.fields["trained"]), micro)


def _of_sequences(name: str, micro: MicroBatch) -> Tensor:
    """[S] a field that repeats one value over all tokens of a sequence."""
    values = micro.fields[name]
    return values.new_zeros(len(micro.index)).scatter(0, micro.sequence, values)


def _halves(values: Tensor, micro: MicroBatch) -> tuple[Tensor, Tensor]:
    """[S] -> [P] of the chosen, [P] of the rejected. An idle micro-batch may hold half a pair."""
    chosen, rejected = micro.index[0::2], micro.index[1::2]
    together = all(c % 2 == 0 for c in chosen) and rejected == tuple(c + 1 for c in chosen)
    assert together or micro.idle, f"pairs are torn apart: {micro.index}"
    pairs = len(rejected)
    return values[0::2][:pairs], values[1::2]


def _count(losses: Tensor) -> Tensor:
    return torch.tensor(losses.numel(), device=losses.device)
