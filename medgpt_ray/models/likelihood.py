"""How likely a model finds texts: per sequence its loss, its hits and its trained tokens.

Rows are packed without padding and projected chunk by chunk, as in training, so the numbers are
those of the run's own validation; how sequences are packed changes none of them.
"""

from collections.abc import Sequence as Seq
from typing import Any, NamedTuple

import torch

from medgpt_ray.models.attention import varlen
from medgpt_ray.models.packing import Sequence, micro_batches
from medgpt_ray.models.policy import Policy

CHUNK_TOKENS = 512


class Likelihood(NamedTuple):
    """Of the trained tokens of one sequence."""

    nll: float
    """Sum of the negative log-probs, in nats."""
    hits: int
    """Tokens that were the model's likeliest."""
    tokens: int


@torch.no_grad()
def likelihoods(network: Any, sequences: Seq[Sequence], max_tokens: int) -> list[Likelihood]:
    """Of each sequence, in order, by its field `trained` [T]; a forward pass holds at most
    `max_tokens` tokens, or the longest sequence."""
    policy = Policy(network, temperature=1.0, beside="hit").eval()
    longest = max(len(s.prompt_ids) + len(s.completion_ids) for s in sequences)
    limits = max(max_tokens, longest), CHUNK_TOKENS
    found: dict[int, Likelihood] = {}
    for micro in micro_batches(sequences, *limits, shared=not varlen(network)):
        micro = micro.to(network.device)
        log_probs, hits = policy(micro)
        trained = micro.fields["trained"]
        sums = [
            torch.zeros(len(micro.index), dtype=torch.float64).index_add_(
                0, micro.sequence.cpu(), (values * trained).double().cpu()
            )
            for values in (-log_probs, hits, torch.ones_like(trained))
        ]
        for place, index in enumerate(micro.index):
            nll, hit, tokens = (float(values[place]) for values in sums)
            found[index] = Likelihood(nll, round(hit), round(tokens))
    return [found[index] for index in range(len(sequences))]
