"""Padding-free micro-batches: completions of one prompt share the prompt's tokens.

Legend: L = tokens of a micro-batch, N = completion tokens in it, S = completions in it.

A group of G completions becomes one stretch of tokens, prompt first, completions after it:

    tokens     p p p p a a a b b        positions  0 1 2 3 4 5 6 4 5
    segment    0 0 0 0 1 1 1 2 2        (a and b both continue after the prompt)

A token attends to its own segment and to the prompt of its stretch, causally. Several stretches
stand in one row of L tokens; attention never crosses them. So a group costs P + sum(T) tokens
instead of G * P + sum(T), with the same log-probs.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sequence:
    """One prompt and completion to learn from or to score.

    `fields` are per-token values of the completion (advantages, old log-probs, mask ...), each [T].
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    fields: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class MicroBatch:
    """Tensors of one forward pass. `index` says which sequences of the batch it holds.

    An `idle` one repeats the first sequence, to keep a rank without work in step; it counts
    nothing.
    """

    input_ids: Tensor  # [1, L]
    position_ids: Tensor  # [1, L]
    segments: Tensor  # [L, 2]: stretch, and 0 for its prompt or 1.. for its completions
    predict_at: Tensor  # [N] position in the row whose hidden state predicts the token
    targets: Tensor  # [N]
    sequence: Tensor  # [N] 0 .. S-1
    fields: dict[str, Tensor]  # name -> [N]
    index: tuple[int, ...]  # [S] positions of the sequences in the batch
    chunks: int = 1  # to project the completion tokens in, the same number on every rank
    idle: bool = False

    @property
    def tokens(self) -> int:
        return self.input_ids.shape[1]

    def attention_mask(self) -> Tensor:
        """[1, 1, L, L] bool, True where a row's token may look."""
        stretch, part = self.segments[:, 0], self.segments[:, 1]
        same = stretch[:, None] == stretch[None, :]
        own = (part[:, None] == part[None, :]) | (part[None, :] == 0)
        order = torch.arange(self.tokens, device=stretch.device)
        return (same & own & (order[:, None] >= order[None, :]))[None, None]

    def spans(self) -> list[tuple[int, int, Tensor | None]]:
        """First token, end and mask [1, 1, n, n] of each stretch; no mask where it is causal."""
        stretch, part = self.segments[:, 0], self.segments[:, 1]
        starts = torch.cat([stretch.new_zeros(1), (stretch.diff() != 0).nonzero()[:, 0] + 1])
        ends = [*starts[1:].tolist(), self.tokens]
        found: list[tuple[int, int, Tensor | None]] = []
        for start, end in zip(starts.tolist(), ends, strict=True):
            parts = part[start:end]
            mask = None
            if int(parts.max()) > 1:
                own = (parts[:, None] == parts[None, :]) | (parts[None, :] == 0)
                mask = own.tril()[None, None]
            found.append((start, end, mask))
        return found

    def to(self, device: torch.device) -> "MicroBatch":
        moved = {
            name: getattr(self, name).to(device)
            for name in (
                "input_ids",
                "position_ids",
                "segments",
                "predict_at",
                "targets",
                "sequence",
            )
        }
        fields = {name: values.to(device) for name, values in self.fields.items()}
        return replace(self, **moved, fields=fields)


Stretch = list[int]
"""Indices of sequences that share one prompt."""


def micro_batches(
    sequences: Seq[Sequence],
    max_tokens: int,
    chunk_tokens: int,
    rank: int = 0,
    ranks: int = 1,
    unit: int = 1,
    shared: bool = True,
) -> list[MicroBatch]:
    """One rank's micro-batches. The n-th of every rank is projected in the same number of chunks of
    at most `chunk_tokens` completion tokens: under ZeRO-3 each chunk gathers the head on all ranks.
    """
    cut = split(sequences, max_tokens, ranks, unit, shared)
    mine = []
    for together in zip(*cut, strict=True):
        most = max(_completion_tokens(stretches, sequences) for stretches in together)
        micro = collate(together[rank], sequences, shared)
        mine.append(replace(micro, chunks=-(-most // chunk_tokens)))
    return mine


def _completion_tokens(stretches: list[Stretch], sequences: Seq[Sequence]) -> int:
    members = [i for stretch in stretches for i in stretch] or [0]  # the first one where idle
    return sum(len(sequences[i].completion_ids) for i in members)


def split(
    sequences: Seq[Sequence], max_tokens: int, ranks: int, unit: int = 1, shared: bool = True
) -> list[list[list[Stretch]]]:
    """Cut a batch into micro-batches: [rank][micro-batch] -> stretches, balanced by tokens.

    Each `unit` sequences that follow each other in the batch (2: the chosen and the rejected of a
    pair), which share their prompt, stay neighbours in one micro-batch. With `shared` False every
    sequence gets a prompt of its own, for attention that knows no block mask. Every rank gets the
    same number of micro-batches, because collectives run in each; where there is not enough work,
    some are empty. ValueError when a unit is longer than `max_tokens`.
    """

    def cost(stretch: Stretch) -> int:
        return sum(_tokens(piece, sequences) for piece in _pieces([stretch], shared))

    units = [list(range(i, i + unit)) for i in range(0, len(sequences), unit)]
    longest = max(cost(members) for members in units)
    if longest > max_tokens:
        raise ValueError(f"{longest} tokens that belong together exceed max_tokens_per_microbatch")
    total = sum(cost(stretch) for stretch in _stretches(units, sequences, cost, max_tokens))
    share = max(longest, min(max_tokens, -(-total // ranks)))  # a large group feeds several ranks
    stretches = _stretches(units, sequences, cost, share)
    count = -(-total // (max_tokens * ranks))
    while True:
        bins = _balance(stretches, cost, count * ranks)
        if all(sum(cost(s) for s in bin) <= max_tokens for bin in bins):
            return [bins[rank::ranks] for rank in range(ranks)]
        count += 1


Cost = Callable[[Stretch], int]


def _stretches(
    units: Seq[Stretch], sequences: Seq[Sequence], cost: Cost, limit: int
) -> list[Stretch]:
    """Group units by prompt, in order of appearance, none longer than `limit` tokens. To share a
    BOS token alone would save nothing, and cost a mask."""
    open_stretch: dict[tuple[int, ...], Stretch] = {}
    stretches: list[Stretch] = []
    for members in units:
        prompt = sequences[members[0]].prompt_ids
        stretch = open_stretch.get(prompt) if len(prompt) > 1 else None
        if stretch is None or cost([*stretch, *members]) > limit:
            stretch = open_stretch[prompt] = []
            stretches.append(stretch)
        stretch += members
    return stretches


def _pieces(stretches: Seq[Stretch], shared: bool) -> Seq[Stretch]:
    """What stands in a row: stretches or, where prompts are not shared, each sequence alone."""
    return stretches if shared else [[member] for stretch in stretches for member in stretch]


def _tokens(stretch: Stretch, sequences: Seq[Sequence]) -> int:
    prompt = len(sequences[stretch[0]].prompt_ids)
    return prompt + sum(len(sequences[i].completion_ids) for i in stretch)


def _balance(stretches: list[Stretch], cost: Cost, bins: int) -> list[list[Stretch]]:
    """Longest first into the lightest bin; ties by order, so that the cut is reproducible."""
    filled: list[list[Stretch]] = [[] for _ in range(bins)]
    load = [0] * bins
    for stretch in sorted(stretches, key=lambda s: (-cost(s), s[0])):
        lightest = load.index(min(load))
        filled[lightest].append(stretch)
        load[lightest] += cost(stretch)
    return filled


def collate(stretches: Seq[Stretch], sequences: Seq[Sequence], shared: bool = True) -> MicroBatch:
    """Lay the stretches of one micro-batch out as a row; without any, an idle one."""
    if not stretches:
        return replace(collate([[0]], sequences), idle=True)
    stretches = _pieces(stretches, shared)
    ids: list[int] = []
    positions: list[int] = []
    segments: list[tuple[int, int]] = []
    predict_at: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    index: list[int] = []
    for number, stretch in enumerate(stretches):
        prompt = sequences[stretch[0]].prompt_ids
        last_of_prompt = len(ids) + len(prompt) - 1
        ids += prompt
        positions += range(len(prompt))
        segments += [(number, 0)] * len(prompt)
        for part, member in enumerate(stretch, start=1):
            completion = sequences[member].completion_ids
            start = len(ids)
            predict_at += [last_of_prompt, *range(start, start + len(completion) - 1)]
            ids += completion
            positions += range(len(prompt), len(prompt) + len(completion))
            segments += [(number, part)] * len(completion)
            targets += completion
            owner += [len(index)] * len(completion)
            index.append(member)
    names = sequences[index[0]].fields.keys()
    return MicroBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        segments=torch.tensor(segments),
        predict_at=torch.tensor(predict_at),
        targets=torch.tensor(targets),
        sequence=torch.tensor(owner),
        fields={
            name: torch.from_numpy(np.concatenate([sequences[i].fields[name] for i in index]))
            for name in names
        },
        index=tuple(index),
    )
