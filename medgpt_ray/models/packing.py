"""Padding-free micro-batches: what prompts begin with in common is computed once.

Legend: L = tokens of a micro-batch, N = completion tokens in it, S = sequences in it, P and T =
tokens of a prompt and of its completion.

Sequences whose prompts begin alike, as the completions of one prompt do and rows with one system
prompt, form a stretch: a prefix tree, laid out as runs of tokens.

    sequences  s s p a a, s s p b and s s q c  (prompts of s, p and q; completions of a, b and c)
    row        s s | p | q c | a a | b
    run        0     1   2     3     4
    before     -     0   0     0 1   0 1
    positions  0 1 | 2 | 2 3 | 3 4 | 3

A token attends to its own run and to the runs before it, causally, and so to its own sequence up to
itself. Several stretches stand in one row of L tokens. A group of G completions costs P + sum(T)
tokens instead of G * P + sum(T), with the same log-probs.
"""

from bisect import bisect_left
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import pairwise, starmap

import numpy as np
import torch
from torch import Tensor

BLOCK = 8
"""Prompts that differ are shared by blocks of so many tokens: fewer would not pay for an attention
call of their own."""
WORTH = 1 / 8
"""The least part of a sequence that is shared with one of another prompt: tokens that go on from
others need a mask, and attention with one computes the square that causal attention halves."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """One prompt and completion to learn from or to score.

    `fields` are per-token values of the completion (advantages, old log-probs, mask ...), each [T].
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    fields: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class Run:
    """The tokens from `start` to before `end` of a row, which go on from the runs `before`, the
    first of a sequence first."""

    start: int
    end: int
    before: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class MicroBatch:
    """Tensors of one forward pass. `index` says which sequences of the batch it holds.

    An `idle` one repeats the first sequence, to keep a rank without work in step; it counts
    nothing.
    """

    input_ids: Tensor  # [1, L]
    position_ids: Tensor  # [1, L]
    runs: tuple[Run, ...]  # in the order of the row, all of it
    ends: Tensor  # [S] last token of each sequence
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

    @property
    def tokens_of_sequences(self) -> int:
        """What `tokens` would be if nothing were shared."""
        return int((self.position_ids[0, self.ends] + 1).sum())

    def attention_mask(self) -> Tensor:
        """[1, 1, L, L] bool, True where a token of the row may look; knows no windows."""
        mask = torch.zeros(self.tokens, self.tokens, dtype=torch.bool)
        for run in self.runs:
            for before in run.before:
                mask[run.start : run.end, self.runs[before].start : self.runs[before].end] = True
            mask[run.start : run.end, run.start : run.end].fill_(True).tril_()
        return mask[None, None].to(self.input_ids.device)

    def to(self, device: torch.device) -> "MicroBatch":
        tensors = ("input_ids", "position_ids", "ends", "predict_at", "targets", "sequence")
        moved = {name: getattr(self, name).to(device) for name in tensors}
        fields = {name: values.to(device) for name, values in self.fields.items()}
        return replace(self, **moved, fields=fields)


Stretch = list[int]
"""Indices of sequences that stand together; each shares with the one before it."""


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
    token stands as often as it occurs, for attention that knows no runs. Every rank gets the same
    number of micro-batches, because collectives run in each; where there is not enough work, some
    are empty. ValueError when a unit is longer than `max_tokens`.
    """

    def saved(one: int, other: int) -> int:
        return _common(sequences[one], sequences[other]) if shared else 0

    units = [list(range(i, i + unit)) for i in range(0, len(sequences), unit)]
    if shared:  # who begins alike stands side by side
        units.sort(key=lambda members: sequences[members[0]].prompt_ids)
    alone = [
        sum(len(sequences[i]) for i in members) - sum(starmap(saved, pairwise(members)))
        for members in units
    ]
    joined = [0, *(saved(before[-1], members[0]) for before, members in pairwise(units))]
    longest = max(alone)
    if longest > max_tokens:
        raise ValueError(f"{longest} tokens that belong together exceed max_tokens_per_microbatch")

    def stretches(limit: int) -> list[tuple[int, Stretch]]:
        """Of at most `limit` tokens: their tokens, and who is in them."""
        found: list[tuple[int, Stretch]] = []
        for members, own, common in zip(units, alone, joined, strict=True):
            if common and found[-1][0] + own - common <= limit:
                tokens, others = found[-1]
                found[-1] = tokens + own - common, [*others, *members]
            else:
                found.append((own, members))
        return found

    count = -(-sum(tokens for tokens, _ in stretches(max_tokens)) // (max_tokens * ranks))
    while _balance(stretches(max_tokens), count * ranks)[1] > max_tokens:
        count += 1
    # The shorter the stretches, the more even the bins; what is shared stands in each of them.
    limits = range(longest, max_tokens + 1)
    fitting = bisect_left(
        limits[:-1], True, key=lambda limit: _balance(stretches(limit), count * ranks)[1] <= limit
    )
    bins, _ = _balance(stretches(limits[fitting]), count * ranks)
    return [bins[rank::ranks] for rank in range(ranks)]


def _common(one: Sequence, other: Sequence) -> int:
    """How many tokens both begin with that are computed once. BOS alone would not be worth it."""
    mine, theirs = one.prompt_ids, other.prompt_ids
    if mine == theirs:
        return len(mine) if len(mine) > 1 else 0
    ends = range(BLOCK, min(len(mine), len(theirs)) + 1, BLOCK)
    common = bisect_left(ends, True, key=lambda end: mine[:end] != theirs[:end]) * BLOCK
    return common if common >= WORTH * max(len(one), len(other)) else 0


def _balance(stretches: list[tuple[int, Stretch]], bins: int) -> tuple[list[list[Stretch]], int]:
    """Longest first into the lightest bin, and the tokens of the fullest; ties by order, so that
    the cut is reproducible."""
    filled: list[list[Stretch]] = [[] for _ in range(bins)]
    load = [(0, number) for number in range(bins)]
    for tokens, stretch in sorted(stretches, key=lambda each: (-each[0], each[1][0])):
        lightest, number = heappop(load)
        filled[number].append(stretch)
        heappush(load, (lightest + tokens, number))
    return filled, max(load)[0]


def collate(stretches: Seq[Stretch], sequences: Seq[Sequence], shared: bool = True) -> MicroBatch:
    """Lay the stretches of one micro-batch out as a row; without any, an idle one."""
    if not stretches:
        return replace(collate([[0]], sequences), idle=True)
    if not shared:
        stretches = [[member] for stretch in stretches for member in stretch]
    ids: list[int] = []
    positions: list[int] = []
    runs: list[Run] = []
    predict_at: list[int] = []
    ends: list[int] = []
    index: list[int] = []

    def lay(member: int, first: int, last: int, before: tuple[int, ...]) -> Run:
        """The tokens of a sequence from `first` to before `last`, as a run."""
        both = sequences[member].prompt_ids + sequences[member].completion_ids
        runs.append(Run(len(ids), len(ids) + last - first, before))
        ids.extend(both[first:last])
        positions.extend(range(first, last))
        return runs[-1]

    for stretch in stretches:
        common = [0, *(_common(sequences[a], sequences[b]) for a, b in pairwise(stretch))]
        # Breadth first: from and to which place of the stretch sequences share how many tokens, and
        # the runs that these are in.
        alike: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(stretch), 0, ())]
        for start, stop, depth, before in alike:
            cuts = [place for place in range(start + 1, stop) if common[place] <= depth]
            for here, there in pairwise([start, *cuts, stop]):
                member = stretch[here]
                if there - here > 1:
                    deeper = min(common[here + 1 : there])
                    lay(member, depth, deeper, before)
                    alike.append((here, there, deeper, (*before, len(runs) - 1)))
                    continue
                run = lay(member, depth, len(sequences[member]), before)
                began = run.end - len(sequences[member].completion_ids)
                last_of_prompt = began - 1 if began > run.start else runs[before[-1]].end - 1
                predict_at += [last_of_prompt, *range(began, run.end - 1)]
                ends.append(run.end - 1)
                index.append(member)
    held = [sequences[member] for member in index]
    lengths = torch.tensor([len(each.completion_ids) for each in held])
    return MicroBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        runs=tuple(runs),
        ends=torch.tensor(ends),
        predict_at=torch.tensor(predict_at),
        targets=torch.tensor([token for each in held for token in each.completion_ids]),
        sequence=torch.arange(len(held)).repeat_interleave(lengths),
        fields={
            name: torch.from_numpy(np.concatenate([each.fields[name] for each in held]))
            for name in held[0].fields
        },
        index=tuple(index),
    )
