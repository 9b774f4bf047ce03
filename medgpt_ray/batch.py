"""From scored samples to what the learner takes: advantages, masks, the global counts."""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import numpy as np
import torch

from medgpt_ray.algos.grpo import Grpo
from medgpt_ray.algos.policy_loss import Normaliser
from medgpt_ray.models.packing import Sequence
from medgpt_ray.types import Sample


@dataclass(frozen=True)
class Update:
    """One optimiser update: sequences with their fields, and the counts of its whole batch.

    Sequences without any gradient are left out; `normaliser` counts them all the same.
    """

    sequences: list[Sequence]
    normaliser: Normaliser
    tokens: int
    """Trained tokens in `sequences`: what the sums of the metrics are divided by."""


def to_sequences(samples: Seq[Sample]) -> list[Sequence]:
    """One per sample; `rollout_log_probs` [T] is there from the start."""
    return [
        Sequence(
            sample.prompt.token_ids,
            sample.completion.token_ids,
            {"rollout_log_probs": np.asarray(sample.completion.log_probs, dtype=np.float32)},
        )
        for sample in samples
    ]


def with_field(sequences: Seq[Sequence], name: str, values: Seq[np.ndarray]) -> list[Sequence]:
    return [
        replace(sequence, fields={**sequence.fields, name: value})
        for sequence, value in zip(sequences, values, strict=True)
    ]


def with_advantages(
    algorithm: Grpo, samples: Seq[Sample], group: torch.Tensor, rewards: torch.Tensor
) -> list[Sample]:
    """The samples with their advantage; `rewards` [B] may differ from the samples' (KL-shaped)."""
    advantages = algorithm.advantages(rewards, group).tolist()
    return [replace(s, advantage=a) for s, a in zip(samples, advantages, strict=True)]


def shaped_rewards(
    algorithm: Grpo,
    rewards: torch.Tensor,
    old_log_probs: Seq[np.ndarray],
    reference_log_probs: Seq[np.ndarray],
) -> torch.Tensor:
    """[B] rewards less the KL penalty of each completion."""
    owner = np.repeat(np.arange(len(rewards)), [len(values) for values in old_log_probs])
    return algorithm.shaped_rewards(
        rewards,
        torch.from_numpy(np.concatenate(old_log_probs)),
        torch.from_numpy(np.concatenate(reference_log_probs)),
        torch.from_numpy(owner),
    )


def make_update(
    algorithm: Grpo, samples: Seq[Sample], sequences: Seq[Sequence], max_tokens: int
) -> Update:
    """Masks, advantages and global counts of one mini-batch.

    A sample whose advantage is 0 has no gradient unless the loss holds a KL term, and a masked
    truncated one never has: they cost no forward pass, but for one that keeps the optimiser going.
    """
    config = algorithm.config
    trained = [not (config.mask_truncated and s.completion.truncated) for s in samples]
    lengths = [len(s.completion.token_ids) * t for s, t in zip(samples, trained, strict=True)]
    kl_in_loss = config.kl.coefficient > 0 and config.kl.placement == "loss"
    useful = [
        length > 0 and (kl_in_loss or sample.advantage != 0)
        for sample, length in zip(samples, lengths, strict=True)
    ]
    order = sorted(range(len(samples)), key=lambda i: not useful[i])
    kept = sorted(order[: max(sum(useful), 1)])
    filled = []
    for i in kept:
        count = len(samples[i].completion.token_ids)
        fields = {
            **sequences[i].fields,
            "advantage": np.full(count, samples[i].advantage, dtype=np.float32),
            "mask": np.full(count, float(trained[i]), dtype=np.float32),
        }
        filled.append(replace(sequences[i], fields=fields))
    normaliser = Normaliser(
        tokens=sum(lengths),
        sequences=sum(length > 0 for length in lengths),
        max_completion_tokens=max_tokens,
    )
    return Update(filled, normaliser, sum(lengths[i] for i in kept))


def split_minibatches(group: torch.Tensor, count: int) -> list[list[int]]:
    """Indices of the samples of each mini-batch; `group` [B] ascends, groups stay whole."""
    size = math.ceil((int(group.max()) + 1) / count)
    parts: list[list[int]] = [[] for _ in range(count)]
    for index, number in enumerate(group.tolist()):
        parts[number // size].append(index)
    return [part for part in parts if part]
