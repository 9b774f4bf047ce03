"""Packed rows give the log-probs of each sequence on its own, and cuts lose nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from medgpt_ray.config.schema import Model
from medgpt_ray.models.load import load_frozen, load_policy
from medgpt_ray.models.packing import MicroBatch, Sequence, collate, micro_batches, split
from medgpt_ray.models.policy import Policy, score


def sequences_of(groups: list[tuple[int, list[int]]]) -> list[Sequence]:
    """Prompt length and completion lengths of each group -> sequences with distinct tokens."""
    rng = np.random.default_rng(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(5, 260, count))

    made = []
    for prompt_length, lengths in groups:
        prompt = tokens(prompt_length)
        made += [Sequence(prompt, tokens(length)) for length in lengths]
    return made


@pytest.fixture(scope="module")
def policy(tiny_model) -> Policy:
    network = load_frozen(Model(path=str(tiny_model), dtype="float32"))
    return Policy(network, temperature=0.5)


@torch.no_grad()
def test_bfloat16_rows_are_those_of_float32_rounded(policy: Policy, tiny_model) -> None:
    """Stretches on both sides of the length from which attention is computed in bfloat16."""
    rounded = load_frozen(Model(path=str(tiny_model), dtype="bfloat16"))
    batch = sequences_of([(7, [3, 9]), (300, [20])])
    (micro,) = micro_batches(batch, max_tokens=1000, chunk_tokens=1000)
    expected, _ = policy(micro)
    found, _ = Policy(rounded, temperature=0.5)(micro)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


@torch.no_grad()
def test_packed_log_probs_equal_those_of_each_sequence_alone(policy: Policy) -> None:
    batch = sequences_of([(7, [3, 1, 9]), (2, [4]), (12, [6, 6])])
    (micro,) = micro_batches(batch, max_tokens=1000, chunk_tokens=5)
    assert micro.chunks == 6
    log_probs, entropies = policy(micro)
    for place, index in enumerate(micro.index):
        prompt, completion = batch[index].prompt_ids, batch[index].completion_ids
        logits = policy.network(torch.tensor([prompt + completion])).logits[0].double()
        rows = logits[len(prompt) - 1 : -1].div(0.5).log_softmax(-1)
        expected = rows.gather(-1, torch.tensor(completion)[:, None])[:, 0]
        entropy = -(rows.exp() * rows).sum(-1)
        mine = micro.sequence == place
        torch.testing.assert_close(log_probs[mine].double(), expected, atol=2e-5, rtol=0)
        torch.testing.assert_close(entropies[mine].double(), entropy, atol=2e-5, rtol=0)


def pairs(micro: MicroBatch) -> list[tuple[int, int]]:
    """Neighbours in a micro-batch."""
    return list(zip(micro.index[::2], micro.index[1::2], strict=True))


@torch.no_grad()
def test_prompts_that_are_not_shared_change_no_log_prob(policy: Policy) -> None:
    """As for flash attention: each sequence begins at position 0 and sees nothing before it."""
    batch = sequences_of([(7, [3, 1]), (7, [9, 2]), (12, [6, 6])])
    for unit in (1, 2):
        micros = micro_batches(batch, 60, 5, unit=unit, shared=False)
        assert sum(micro.tokens for micro in micros) == 2 * (7 + 7 + 12) + 3 + 1 + 9 + 2 + 6 + 6
        assert sum(int((m.position_ids == 0).sum()) for m in micros) == 6
    assert sorted(pair for micro in micros for pair in pairs(micro)) == [(0, 1), (2, 3), (4, 5)]
    alone, together = (score(policy, micro_batches(batch, 80, 5, shared=s)) for s in (False, True))
    for index, values in together.items():
        np.testing.assert_allclose(alone[index], values, atol=2e-5)


def test_a_pair_is_never_torn() -> None:
    batch = sequences_of([(5, [9, 9]), (5, [1, 2]), (5, [8, 8]), (5, [3, 3])])
    for ranks in (1, 2, 3):
        micros = [m for r in range(ranks) for m in micro_batches(batch, 40, 5, r, ranks, unit=2)]
        found = [pair for micro in micros if not micro.idle for pair in pairs(micro)]
        assert sorted(found) == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_a_group_pays_for_its_prompt_once() -> None:
    batch = sequences_of([(50, [2, 3, 4, 5])])
    (cut,) = split(batch, max_tokens=64, ranks=1)
    assert [collate(micro, batch).tokens for micro in cut] == [50 + 2 + 3 + 4 + 5]


@settings(max_examples=60)
@given(
    groups=st.lists(
        st.tuples(st.integers(1, 12), st.lists(st.integers(1, 12), min_size=1, max_size=6)),
        min_size=1,
        max_size=8,
    ),
    ranks=st.integers(1, 3),
)
def test_every_sequence_is_in_one_micro_batch_and_none_is_too_long(
    groups: list[tuple[int, list[int]]], ranks: int
) -> None:
    batch = sequences_of(groups)
    cut = split(batch, max_tokens=40, ranks=ranks)
    assert len({len(share) for share in cut}) == 1
    micros = [collate(stretches, batch) for share in cut for stretches in share]
    micros = [micro for micro in micros if not micro.idle]
    assert all(0 < micro.tokens <= 40 for micro in micros)
    assert sorted(i for micro in micros for i in micro.index) == list(range(len(batch)))


def test_one_token_is_not_worth_a_run() -> None:
    """That of BOS, with which all documents begin."""
    batch = [Sequence((1,), (5, 6, 7 + n)) for n in range(3)]
    (micro,) = micro_batches(batch, max_tokens=100, chunk_tokens=100)
    assert [run.before for run in micro.runs] == [()] * 3


def test_every_rank_gets_a_part_of_those_who_share_a_long_prompt() -> None:
    system = tuple(range(1000))
    batch = [Sequence((*system, 2000 + n), (5,) * 49) for n in range(32)]
    for ranks, most in ((1, 2600), (2, 1800), (4, 1400), (8, 1200)):
        cut = split(batch, 4096, ranks)
        assert [len(share) for share in cut] == [1] * ranks
        assert all(collate(share[0], batch).tokens <= most for share in cut)


def test_who_begins_alike_need_not_be_neighbours_in_the_batch() -> None:
    one, other = tuple(range(10, 50)), tuple(range(60, 100))
    batch = [Sequence((*(one, other)[n % 2], n), (5, 6)) for n in range(8)]
    (micro,) = micro_batches(batch, 1000, 1000)
    assert micro.tokens == 2 * 40 + 8 * 3


def test_little_in_common_is_not_worth_a_mask() -> None:
    head = tuple(range(10, 34))
    for length, tokens in ((100, 24 + 2 * 100), (300, 2 * (24 + 300))):
        batch = [Sequence((*head, 40 + n), (5,) * (length - 1)) for n in range(2)]
        (micro,) = micro_batches(batch, 1000, 1000)
        assert micro.tokens == tokens


SYSTEM, QUESTION = tuple(range(10, 30)), tuple(range(100, 111))
ALIKE = [
    Sequence((*SYSTEM, 31, 32), (5, 6, 7)),
    Sequence((*SYSTEM, *QUESTION), (7, 8)),
    Sequence((*SYSTEM, *QUESTION), (9, 10, 11, 12)),
    Sequence((*SYSTEM, *QUESTION, 40, 41), (13,)),
    Sequence((90, *SYSTEM), (14, 15)),
]
"""One system prompt, one question of two answers, one dialogue that goes on, and a stranger."""


def test_what_prompts_begin_with_is_computed_once() -> None:
    """Whole blocks of 8 tokens where prompts differ, all of a prompt where they are equal."""
    (micro,) = micro_batches(ALIKE, max_tokens=1000, chunk_tokens=1000)
    system, question = 16, len(SYSTEM + QUESTION)
    rest_of_0, rest_of_3 = 6 + 3, question + 3 - 24
    together = system + rest_of_0 + 8 + rest_of_3 + (question - 24) + 2 + 4
    assert micro.tokens == together + len(ALIKE[4])
    assert micro.tokens_of_sequences == sum(len(sequence) for sequence in ALIKE)


@pytest.mark.parametrize("unit", [1, 2])
@pytest.mark.parametrize("max_tokens", [45, 60, 1000])
def test_log_probs_and_gradients_are_those_of_each_sequence_alone(
    tiny_model: Path, max_tokens: int, unit: int
) -> None:
    batch = [ALIKE[1], ALIKE[2], ALIKE[3], replace(ALIKE[3], completion_ids=(5, 6))]
    batch += [] if unit == 2 else [ALIKE[4], ALIKE[0]]
    network = load_policy(Model(path=str(tiny_model), dtype="float32"), 0)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    expected = []
    for sequence in batch:
        row = torch.tensor([sequence.prompt_ids + sequence.completion_ids])
        logits = plain(row).logits[0, len(sequence.prompt_ids) - 1 : -1].log_softmax(-1)
        expected.append(logits.gather(-1, torch.tensor(sequence.completion_ids)[:, None])[:, 0])
    weights = [torch.linspace(-1, 2, len(values)) for values in expected]
    sum((w * e).sum() for w, e in zip(weights, expected, strict=True)).backward()
    for micro in micro_batches(batch, max_tokens, 1000, unit=unit):
        assert unit == 1 or {*pairs(micro)} <= {(0, 1), (2, 3)}
        log_probs, _ = Policy(network, 1.0)(micro)
        loss = torch.zeros(())
        for place, index in enumerate(micro.index):
            mine = log_probs[micro.sequence == place]
            torch.testing.assert_close(mine.double(), expected[index], atol=2e-5, rtol=0)
            loss = loss + (mine * weights[index]).sum()
        loss.backward()
    for (name, mine), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=1e-4, rtol=1e-4, msg=name)


prompts = st.lists(st.sampled_from([5, 6]), min_size=1, max_size=30)


@settings(max_examples=200)
@given(
    rows=st.lists(
        st.tuples(prompts, st.lists(st.integers(7, 9), min_size=1, max_size=4)),
        min_size=1,
        max_size=12,
    ),
    shared=st.booleans(),
)
def test_every_sequence_can_be_read_off_its_runs(
    rows: list[tuple[list[int], list[int]]], shared: bool
) -> None:
    batch = [Sequence(tuple(prompt), tuple(answer)) for prompt, answer in rows]
    micros = micro_batches(batch, 60, 10, shared=shared)
    assert sorted(i for micro in micros for i in micro.index) == list(range(len(batch)))
    for micro in micros:
        assert micro.tokens <= 60
        ids = micro.input_ids[0].tolist()
        assert sum(len(run) for run in micro.runs) == len(ids)
        for place, index in enumerate(micro.index):
            (last,) = (run for run in micro.runs if run.end - 1 == micro.ends[place])
            path = [*(micro.runs[each] for each in last.before), last]
            row = [at for run in path for at in range(run.start, run.end)]
            prompt, answer = rows[index]
            assert [ids[at] for at in row] == prompt + answer
            assert micro.position_ids[0, row].tolist() == list(range(len(row)))
            mine = micro.sequence == place
            assert micro.targets[mine].tolist() == answer
            assert micro.predict_at[mine].tolist() == row[len(prompt) - 1 : -1]


def test_a_sequence_longer_than_a_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens_per_microbatch"):
        split(sequences_of([(30, [11])]), max_tokens=40, ranks=1)


def test_a_large_group_feeds_every_rank() -> None:
    batch = sequences_of([(4, [20] * 6)])
    cut = split(batch, max_tokens=1000, ranks=3)
    assert [sum(len(stretch) for stretch in share[0]) for share in cut] == [2, 2, 2]


def test_ranks_project_in_equally_many_chunks() -> None:
    batch = sequences_of([(2, [12]), (12, [2])])
    chunks = [
        [micro.chunks for micro in micro_batches(batch, 14, 5, rank, ranks=2)] for rank in (0, 1)
    ]
    assert chunks == [[3], [3]]
