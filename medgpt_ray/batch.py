"""From scored samples to what the learners take: targets, masks, the global counts."""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import numpy as np
import torch

from medgpt_ray.algos.dapo import overlong_penalty
from medgpt_ray.algos.policy_gradient import PolicyGradient, Rollouts, Targets
from medgpt_ray.algos.policy_loss import Normaliser
from medgpt_ray.models.packing import Sequence
from medgpt_ray.types import Completion, Sample


@dataclass(frozen=True)
class Update:
    """One optimiser update: sequences with their fields, and the counts of its whole batch.

    Sequences without any gradient are left out; `normaliser` counts them all the same.
    """

    sequences: list[Sequence]
    normaliser: Normaliser
    tokens: int
    """Trained tokens in `sequences`: what the sums of the metrics are divided by."""


def to_sequences(algorithm: PolicyGradient, samples: Seq[Sample]) -> list[Sequence]:
    """One per sample; `rollout_log_probs` [T] and `mask` [T] are there from the start.

    The mask is 1.0 on the tokens that are trained: all of them, but for what an environment said
    and for a truncated completion's where the algorithm leaves it out.
    """
    return [
        Sequence(
            sample.prompt.token_ids,
            sample.completion.token_ids,
            {
                "rollout_log_probs": np.asarray(sample.completion.log_probs, dtype=np.float32),
                "mask": _mask(sample.completion, algorithm.config.mask_truncated),
            },
        )
        for sample in samples
    ]


def _mask(completion: Completion, mask_truncated: bool) -> np.ndarray:
    trained = not (mask_truncated and completion.truncated)
    mask = np.full(len(completion.token_ids), float(trained), dtype=np.float32)
    for start, end in completion.observed:
        mask[start:end] = 0.0
    return mask


def with_field(sequences: Seq[Sequence], name: str, values: Seq[np.ndarray]) -> list[Sequence]:
    return [
        replace(sequence, fields={**sequence.fields, name: value})
        for sequence, value in zip(sequences, values, strict=True)
    ]


def rollouts(
    algorithm: PolicyGradient,
    samples: Seq[Sample],
    sequences: Seq[Sequence],
    group: torch.Tensor,
    max_tokens: int,
) -> Rollouts:
    """The step's batch as the algorithm's targets see it; `group` [B] numbers the prompts."""
    rewards = torch.tensor([sample.reward for sample in samples], dtype=torch.float64)
    lengths = torch.tensor([len(sequence.completion_ids) for sequence in sequences])
    if algorithm.config.overlong:
        rewards = rewards + overlong_penalty(lengths, max_tokens, algorithm.config.overlong)

    def flat(name: str) -> torch.Tensor | None:
        if name not in sequences[0].fields:
            return None
        return torch.from_numpy(np.concatenate([s.fields[name] for s in sequences])).double()

    mask = flat("mask")
    assert mask is not None
    return Rollouts(
        rewards=rewards,
        group=group,
        sequence=torch.arange(len(samples)).repeat_interleave(lengths),
        mask=mask,
        old_log_probs=flat("old_log_probs"),
        reference_log_probs=flat("reference_log_probs"),
        values=flat("old_values"),
        generated=torch.from_numpy(
            np.concatenate([_mask(sample.completion, mask_truncated=False) for sample in samples])
        ).double(),
    )


def with_targets(sequences: Seq[Sequence], targets: Targets) -> list[Sequence]:
    """The sequences with `advantage` [T] and, where a critic learns, `return` [T]."""
    lengths = [len(sequence.completion_ids) for sequence in sequences]
    for name, values in (("advantage", targets.advantages), ("return", targets.returns)):
        if values is not None:
            parts = values.float().split(lengths)
            sequences = with_field(sequences, name, [part.numpy() for part in parts])
    return list(sequences)


def with_advantages(samples: Seq[Sample], sequences: Seq[Sequence]) -> list[Sample]:
    """The samples with the mean advantage of their trained tokens, for the record; 0 of none."""
    means = [
        float(s.fields["advantage"] @ s.fields["mask"]) / max(float(s.fields["mask"].sum()), 1.0)
        for s in sequences
    ]
    return [replace(s, advantage=mean) for s, mean in zip(samples, means, strict=True)]


def policy_update(algorithm: PolicyGradient, sequences: Seq[Sequence], max_tokens: int) -> Update:
    """The global counts of one mini-batch, and the sequences that have a gradient.

    One whose advantages are 0 has none unless the loss holds a KL term, and a masked truncated one
    never has: they cost no forward pass, but for one that keeps the optimiser going.
    """
    kl = algorithm.config.kl
    kl_in_loss = kl.coefficient > 0 and kl.placement == "loss"
    lengths = [int(sequence.fields["mask"].sum()) for sequence in sequences]
    useful = [
        length > 0 and (kl_in_loss or bool(sequence.fields["advantage"].any()))
        for sequence, length in zip(sequences, lengths, strict=True)
    ]
    order = sorted(range(len(sequences)), key=lambda i: not useful[i])
    kept = sorted(order[: max(sum(useful), 1)])
    normaliser = _normaliser(lengths, max_tokens)
    return Update([sequences[i] for i in kept], normaliser, sum(lengths[i] for i in kept))


def critic_update(sequences: Seq[Sequence], max_tokens: int) -> Update:
    """The critic learns the value of every trained token."""
    lengths = [int(sequence.fields["mask"].sum()) for sequence in sequences]
    return Update(list(sequences), _normaliser(lengths, max_tokens), sum(lengths))


def _normaliser(lengths: Seq[int], max_tokens: int) -> Normaliser:
    return Normaliser(
        tokens=sum(lengths),
        sequences=sum(length > 0 for length in lengths),
        max_completion_tokens=max_tokens,
    )


def split_minibatches(group: torch.Tensor, count: int) -> list[list[int]]:
    """Indices of the samples of each mini-batch; `group` [B] ascends, groups stay whole."""
    size = math.ceil((int(group.max()) + 1) / count)
    parts: list[list[int]] = [[] for _ in range(count)]
    for index, number in enumerate(group.tolist()):
        parts[number // size].append(index)
    return [part for part in parts if part]
