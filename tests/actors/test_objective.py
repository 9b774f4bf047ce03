"""The losses over micro-batches of real packing; log-probs and scores are plain float64 leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medgpt_ray.actors import objective
from medgpt_ray.config.supervised import Beta, Kto, Orpo, RewardModelling, Sigmoid, SimPo
from medgpt_ray.models.packing import Sequence, collate

PAIRS = 4
Cut = list[list[list[int]]]
"""Micro-batches of stretches of sequences."""
WHOLE: Cut = [[[0, 1, 4, 5], [2, 3], [6, 7]]]
CUTS: list[Cut] = [
    [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]],
    [[[6, 7], [2, 3]], [[4, 5, 0, 1]]],
    [[[2, 3]], [], [[6, 7], [0, 1, 4, 5]], []],
]
"""The last one has idle micro-batches, as a rank without work does."""
SINGLES: Cut = [[[5], [1]], [[0]], [[2], [7], [3]], [[4, 6]]]
"""For objectives that know no pairs."""


def make_batch() -> list[Sequence]:
    """Pairs 0 and 2 share a prompt. Some tokens of an answer, as of a tool, are not learned."""
    rng = np.random.default_rng(3)
    batch = []
    for number in range(2 * PAIRS):
        prompt = (7, 8, 9) if number in (0, 1, 4, 5) else (number // 2, 11)
        count = int(rng.integers(2, 7))
        trained = (rng.random(count) < 0.7).astype(np.float32)
        trained[-1] = 1.0
        fields = {
            "trained": trained,
            "reference_log_probs": -rng.uniform(0.1, 3, count).astype(np.float32),
            "margin": np.full(count, 0.1 * (number // 2), dtype=np.float32),
            "desirable": np.full(count, float(number in (0, 3, 4)), dtype=np.float32),
        }
        completion = tuple(int(t) for t in rng.integers(5, 260, count))
        batch.append(Sequence(prompt, completion, fields))
    return batch


BATCH = make_batch()
TOKENS = int(sum(s.fields["trained"].sum() for s in BATCH))
Z0 = torch.tensor(0.25)
OBJECTIVES: dict[str, Callable[..., Any]] = {
    "likelihood": objective.likelihood(TOKENS),
    "dpo": objective.dpo(Sigmoid(label_smoothing=0.1), PAIRS),
    "ipo": objective.dpo(Beta(kind="ipo"), PAIRS),
    "simpo": objective.dpo(SimPo(), PAIRS),
    "orpo": objective.orpo(Orpo(), PAIRS),
    "kto": objective.kto(Kto(desirable_weight=1.3), 2 * PAIRS, Z0),
    "reward_model": objective.reward_model(RewardModelling(centring=0.1), PAIRS),
}


def log_probs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [-rng.uniform(0.1, 3, len(s.completion_ids)) for s in BATCH]


def run(name: str, cut: Cut) -> tuple[float, list[list[float]], dict[str, float]]:
    """Loss, gradient of each sequence's log-probs (or score), and metrics, as the learner adds."""
    kept = 1 if name == "reward_model" else None
    leaves = [torch.tensor(row[:kept], requires_grad=True) for row in log_probs()]
    total, sums = 0.0, dict[str, float]()
    for stretches in cut:
        micro = collate(stretches, BATCH)
        outputs: list[Any] = [torch.cat([leaves[i] for i in micro.index])]
        if name != "reward_model":
            outputs.append(torch.ones(len(outputs[0])))  # every token hit
        loss, metrics = OBJECTIVES[name](*outputs, micro)
        counts = 0 if micro.idle else 1
        (loss * counts).backward()
        total += loss.item() * counts
        for key, value in metrics.items():
            assert not value.requires_grad
            sums[key] = sums.get(key, 0.0) + value.item() * counts
    return total, [leaf.grad.tolist() for leaf in leaves], sums


def sums_of(table: list[np.ndarray]) -> np.ndarray:
    """[2 P] over the trained tokens."""
    return np.array([row @ s.fields["trained"] for row, s in zip(table, BATCH, strict=True)])


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


POLICY = sums_of(log_probs())
REFERENCE = sums_of([s.fields["reference_log_probs"] for s in BATCH])
LENGTHS = np.array([s.fields["trained"].sum() for s in BATCH])
DESIRABLE = np.isin(np.arange(2 * PAIRS), (0, 3, 4))


def test_likelihood_is_the_mean_over_trained_tokens() -> None:
    loss, _, metrics = run("likelihood", WHOLE)
    assert loss == pytest.approx(-POLICY.sum() / TOKENS)
    hits = TOKENS  # run() gives the policy a hit everywhere; only trained ones count
    assert metrics == pytest.approx({"nll": -POLICY.sum(), "tokens": TOKENS, "accuracy": hits})


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo"])
def test_dpo_is_the_mean_over_pairs_of_the_loss_of_its_kind(name: str) -> None:
    if name == "simpo":
        implied = 2.0 * POLICY / LENGTHS
        difference = implied[0::2] - implied[1::2]
        losses = -np.log(logistic(difference - 1.0))
    else:
        ratio = POLICY - REFERENCE
        implied = 0.1 * ratio
        difference = implied[0::2] - implied[1::2]
        means = ratio / LENGTHS
        losses = {
            "dpo": -0.9 * np.log(logistic(difference)) - 0.1 * np.log(logistic(-difference)),
            "ipo": (means[0::2] - means[1::2] - 5) ** 2,
        }[name]
    loss, _, metrics = run(name, WHOLE)
    assert loss == pytest.approx(losses.mean(), rel=1e-6)
    assert 0 < (difference > 0).sum() < PAIRS
    assert metrics == pytest.approx(
        {
            "rewards/chosen": implied[0::2].sum(),
            "rewards/rejected": implied[1::2].sum(),
            "rewards/margin": difference.sum(),
            "rewards/accuracy": (difference > 0).sum(),
            "logps/chosen": POLICY[0::2].sum(),
            "logps/rejected": POLICY[1::2].sum(),
            "pairs": PAIRS,
        },
        rel=1e-6,
    )


def test_orpo_weighs_every_pair_the_same() -> None:
    means = POLICY / LENGTHS
    log_odds = means - np.log(1 - np.exp(means))
    ratio = log_odds[0::2] - log_odds[1::2]
    loss, _, metrics = run("orpo", WHOLE)
    assert loss == pytest.approx((-means[0::2] - 0.1 * np.log(logistic(ratio))).mean())
    assert metrics == pytest.approx(
        {
            "nll": -means[0::2].sum(),
            "log_odds_ratio": ratio.sum(),
            "accuracy": (ratio > 0).sum(),
            "pairs": PAIRS,
        }
    )


def test_kto_weighs_by_label_and_uses_the_baseline_of_the_step() -> None:
    ratio = POLICY - REFERENCE
    good = 1.3 * (1 - logistic(0.1 * (ratio - 0.25)))
    bad = 1 - logistic(0.1 * (0.25 - ratio))
    loss, _, metrics = run("kto", WHOLE)
    assert loss == pytest.approx(np.where(DESIRABLE, good, bad).mean(), rel=1e-6)
    assert metrics == pytest.approx(
        {
            "rewards/desirable": 0.1 * ratio[DESIRABLE].sum(),
            "rewards/undesirable": 0.1 * ratio[~DESIRABLE].sum(),
            "examples/desirable": 3,
            "examples/undesirable": 5,
            "kl": 0.25 * 2 * PAIRS,
            "examples": 2 * PAIRS,
        },
        rel=1e-6,
    )


def test_reward_model_takes_margins_and_centres() -> None:
    scores = np.array([row[0] for row in log_probs()])
    difference = scores[0::2] - scores[1::2]
    losses = -np.log(logistic(difference - 0.1 * np.arange(PAIRS)))
    losses = losses + 0.1 * (scores[0::2] + scores[1::2]) ** 2
    loss, _, metrics = run("reward_model", WHOLE)
    assert loss == pytest.approx(losses.mean(), rel=1e-6)
    assert metrics == pytest.approx(
        {
            "accuracy": (difference > 0).sum(),
            "margin": difference.sum(),
            "scores/chosen": scores[0::2].sum(),
            "scores/rejected": scores[1::2].sum(),
            "pairs": PAIRS,
        }
    )


def test_reward_model_without_margins() -> None:
    bare = [Sequence(s.prompt_ids, s.completion_ids, {}) for s in BATCH]
    scores = torch.arange(2.0 * PAIRS)
    loss, _ = objective.reward_model(RewardModelling(), PAIRS)(scores, collate(WHOLE[0], bare))
    order = torch.tensor(collate(WHOLE[0], bare).index)
    assert order.tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert loss.item() == pytest.approx(np.log1p(np.exp(1.0)))


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        *((name, cut) for name in OBJECTIVES for cut in CUTS),
        ("likelihood", SINGLES),
        ("kto", SINGLES),
    ],
)
def test_neither_loss_nor_gradient_nor_metrics_depend_on_the_cut(name: str, cut: Cut) -> None:
    loss, gradients, metrics = run(name, WHOLE)
    other_loss, other_gradients, other_metrics = run(name, cut)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert other_metrics == pytest.approx(metrics, rel=1e-6)
    for mine, theirs in zip(other_gradients, gradients, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-9)
    assert sum(any(row) for row in gradients) >= PAIRS


def test_tokens_that_are_not_trained_get_no_gradient() -> None:
    for name in OBJECTIVES.keys() - {"reward_model"}:
        _, gradients, _ = run(name, WHOLE)
        for row, sequence in zip(gradients, BATCH, strict=True):
            assert not np.array(row)[sequence.fields["trained"] == 0].any()


@pytest.mark.parametrize("stretches", [[[0, 2], [1, 3]], [[1, 0]], [[0, 1, 2]], [[1, 2]]])
def test_pairs_that_are_torn_apart_are_not_compared(stretches: list[list[int]]) -> None:
    with pytest.raises(AssertionError, match="torn apart"):
        run("dpo", [stretches])


def test_dpo_through_a_model_equals_plain_torch_on_single_rows(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    from medgpt_ray.models.policy import Policy

    network = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    exact = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)

    def plain(sequence: Sequence) -> Tensor:
        logits = exact(torch.tensor([sequence.prompt_ids + sequence.completion_ids])).logits[0]
        rows = logits[len(sequence.prompt_ids) - 1 : -1].log_softmax(-1)
        answer = rows.gather(-1, torch.tensor(sequence.completion_ids)[:, None])[:, 0]
        return (answer * torch.from_numpy(sequence.fields["trained"])).sum()

    ratio = torch.stack([plain(s) for s in BATCH]) - torch.from_numpy(REFERENCE)
    margin = 0.1 * (ratio[0::2] - ratio[1::2])
    expected = -torch.nn.functional.logsigmoid(margin).mean()
    expected.backward()

    total = 0.0
    for stretches in ([[0, 1, 4, 5]], [[6, 7], [2, 3]]):
        micro = collate(stretches, BATCH)
        loss, _ = objective.dpo(Sigmoid(), PAIRS)(*Policy(network, 1.0)(micro), micro)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(expected.item(), rel=1e-6)
    for mine, theirs in zip(network.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=1e-6, rtol=1e-4)
