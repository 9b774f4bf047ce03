import math
from dataclasses import dataclass
from itertools import product
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgpt_ray.algos import ALGORITHMS
from medgpt_ray.algos.grpo import Grpo
from medgpt_ray.algos.policy_gradient import Rollouts
from medgpt_ray.algos.policy_loss import Normaliser, TokenBatch
from medgpt_ray.config import algorithms as schema

CORRECTIONS = [
    schema.NoCorrection(),
    schema.Truncate(cap=1.1),
    schema.Mask(low=0.8, high=1.2),
    schema.SequenceMask(low=0.97, high=1.03),
]
PENALTIES = [
    schema.Kl(),
    schema.Kl(coefficient=0.07, estimator="k2"),
    schema.Kl(coefficient=0.07, estimator="k3"),
    schema.Kl(coefficient=0.07, estimator="k1", placement="reward"),
]
AGGREGATIONS = ["sequence", "token", "constant"]
MAX_COMPLETION_TOKENS = 9


@dataclass(frozen=True)
class Completions:
    """Ragged lists, a row a completion: the input of the loops that check the tensor code."""

    policy: list[list[float]]
    old: list[list[float]]
    rollout: list[list[float]]
    reference: list[list[float]]
    advantages: list[float]
    trained: list[bool]
    """False: the completion was truncated and is masked."""

    @property
    def normaliser(self) -> Normaliser:
        lengths = [len(row) for row, kept in zip(self.policy, self.trained, strict=True) if kept]
        return Normaliser(sum(lengths), len(lengths), MAX_COMPLETION_TOKENS)

    def micro_batch(self, rows: list[int]) -> TokenBatch:
        def flat(table: list[list[float]]) -> torch.Tensor:
            return torch.tensor([x for row in rows for x in table[row]], dtype=torch.float64)

        lengths = torch.tensor([len(self.policy[row]) for row in rows])
        sequence = torch.arange(len(rows)).repeat_interleave(lengths)
        trained = torch.tensor([self.trained[row] for row in rows])
        advantages = torch.tensor([self.advantages[row] for row in rows], dtype=torch.float64)
        return TokenBatch(
            log_probs=flat(self.policy).requires_grad_(),
            old_log_probs=flat(self.old),
            rollout_log_probs=flat(self.rollout),
            reference_log_probs=flat(self.reference),
            advantages=advantages[sequence],
            mask=trained.double()[sequence],
            sequence=sequence,
            sequence_lengths=lengths * trained,
        )


def random_rollouts(seed: int) -> Completions:
    generator = torch.Generator().manual_seed(seed)
    lengths = [int(n) for n in torch.randint(1, MAX_COMPLETION_TOKENS, (6,), generator=generator)]

    def table(around: list[list[float]], spread: float) -> list[list[float]]:
        return [
            [x + spread * float(torch.randn((), generator=generator)) for x in row]
            for row in around
        ]

    old = table([[-2.0] * length for length in lengths], 1.0)
    return Completions(
        policy=table(old, 0.3),
        old=old,
        rollout=table(old, 0.1),
        reference=table(old, 0.5),
        advantages=torch.randn(6, generator=generator).tolist(),
        trained=[True, False, True, True, True, False],
    )


def loop_loss(data: Completions, config: schema.Grpo) -> tuple[float, list[float]]:
    """Loss and gradient of the global batch, token by token from the formulas."""
    kept = [i for i, trained in enumerate(data.trained) if trained]
    tokens = sum(len(data.policy[i]) for i in kept)
    loss, gradient = 0.0, []
    for i, row in enumerate(data.policy):
        share = {
            "sequence": 1 / (len(row) * len(kept)),
            "token": 1 / tokens,
            "constant": 1 / (len(kept) * MAX_COMPLETION_TOKENS),
        }[config.aggregation]
        share *= data.trained[i]
        log_weights = [o - r for o, r in zip(data.old[i], data.rollout[i], strict=True)]
        for t, log_prob in enumerate(row):
            a, r = data.advantages[i], math.exp(log_prob - data.old[i][t])
            limited = min(max(r, 1 - config.clip_low), 1 + config.clip_high)
            w = loop_weight(math.exp(log_weights[t]), log_weights, config.rollout_correction)
            token_loss = w * -min(r * a, limited * a)
            token_gradient = 0.0 if limited * a < r * a else w * -a * r
            if config.kl.placement == "loss" and config.kl.coefficient:
                d = log_prob - data.reference[i][t]
                value = d * d / 2 if config.kl.estimator == "k2" else math.exp(-d) - 1 + d
                token_loss += config.kl.coefficient * value
                token_gradient += config.kl.coefficient * d
            loss += share * token_loss
            gradient.append(share * token_gradient)
    return loss, gradient


def loop_weight(w: float, log_weights: list[float], correction) -> float:
    if correction.kind == "none":
        return 1.0
    if correction.kind == "truncate":
        return min(w, correction.cap)
    judged = w
    if correction.kind == "sequence_mask":
        judged = math.exp(sum(log_weights) / len(log_weights))
    return w if correction.low <= judged <= correction.high else 0.0


@pytest.mark.parametrize(
    ("aggregation", "correction", "kl"), list(product(AGGREGATIONS, CORRECTIONS, PENALTIES))
)
def test_every_option_agrees_with_loop(aggregation, correction, kl):
    config = schema.Grpo(
        aggregation=aggregation, rollout_correction=correction, kl=kl, clip_high=0.28
    )
    data = random_rollouts(seed=1)
    batch = data.micro_batch(list(range(6)))
    loss, _ = Grpo(config).loss(batch, data.normaliser)
    loss.backward()
    expected_loss, expected_gradient = loop_loss(data, config)
    assert loss.item() == pytest.approx(expected_loss, rel=1e-9)
    assert batch.log_probs.grad is not None
    assert batch.log_probs.grad.tolist() == pytest.approx(expected_gradient, rel=1e-9, abs=1e-12)


def test_the_random_data_reach_each_option():
    """Otherwise two options could agree with the loop by doing nothing."""
    data = random_rollouts(seed=1)
    settings_of_each = [
        schema.Grpo(aggregation=aggregation, rollout_correction=correction, kl=kl, clip_high=0.28)
        for aggregation, correction, kl in product(AGGREGATIONS, CORRECTIONS, PENALTIES[:3])
    ]
    losses = {round(loop_loss(data, config)[0], 12) for config in settings_of_each}
    assert len(losses) == len(settings_of_each)


@pytest.mark.parametrize(
    ("name", "correction"),
    [
        ("openrlhf/tis/0.5_2.0", schema.Truncate(cap=2.0)),
        ("openrlhf/icepop/0.5_2.0", schema.Mask(low=0.5, high=2.0)),
        ("openrlhf/seq-mask-tis/0.9_1.1", schema.SequenceMask(low=0.9, high=1.1)),
        ("verl/token_tis2", schema.Truncate(cap=2.0)),
        ("verl/token_icepop", schema.Mask(low=0.5, high=2.0)),
    ],
)
def test_corrected_loss_agrees_with_reference(golden, name, correction):
    log_probs = golden.inputs["new_logp"].clone().requires_grad_()
    config = schema.Grpo(aggregation="token", rollout_correction=correction, clip_high=0.28)
    loss, _ = Grpo(config).loss(golden.batch(log_probs), golden.normaliser())
    golden.assert_matches(f"iscorr/{name}", loss, log_probs)


@given(
    seed=st.integers(0, 10_000),
    cut=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    aggregation=st.sampled_from(AGGREGATIONS),
    correction=st.sampled_from(CORRECTIONS),
    kl=st.sampled_from(PENALTIES),
)
@settings(max_examples=60)
def test_loss_gradient_and_metrics_do_not_depend_on_the_cut(seed, cut, aggregation, correction, kl):
    """Sequences are dealt out to up to four micro-batches; `cut` says which gets which."""
    algorithm = Grpo(schema.Grpo(aggregation=aggregation, rollout_correction=correction, kl=kl))
    data = random_rollouts(seed)

    def run(parts: list[list[int]]) -> tuple[float, dict[int, list[float]], dict[str, float]]:
        total, gradients, metrics = 0.0, {}, {}
        for rows in parts:
            batch = data.micro_batch(rows)
            loss, sums = algorithm.loss(batch, data.normaliser)
            loss.backward()
            total += loss.item()
            for index, row in enumerate(rows):
                gradients[row] = batch.log_probs.grad[batch.sequence == index].tolist()
            for name, value in sums.items():
                before = metrics.get(name, 0.0)
                grown = (
                    max(before, value.item()) if name.endswith("/max") else before + value.item()
                )
                metrics[name] = grown
        return total, gradients, metrics

    whole = run([list(range(6))])
    parts = [[row for row in range(6) if cut[row] == part] for part in range(4)]
    loss, gradients, metrics = run([rows for rows in parts if rows])
    assert loss == pytest.approx(whole[0], rel=1e-9, abs=1e-12)
    assert metrics == pytest.approx(whole[2], rel=1e-9, abs=1e-12)
    for row, gradient in whole[1].items():
        assert gradients[row] == pytest.approx(gradient, rel=1e-9, abs=1e-12)


def test_metrics_are_sums_over_trained_tokens():
    config = schema.Grpo(rollout_correction=schema.Truncate(cap=1.1), kl=PENALTIES[2])
    data = random_rollouts(seed=3)
    _, metrics = Grpo(config).loss(data.micro_batch(list(range(6))), data.normaliser)

    clipped, deviations, differences, kl, weights = 0, [], [], 0.0, 0.0
    for i, row in enumerate(data.policy):
        if not data.trained[i]:
            continue
        for t, log_prob in enumerate(row):
            r, a = math.exp(log_prob - data.old[i][t]), data.advantages[i]
            clipped += min(max(r, 0.8), 1.2) * a < r * a
            deviations.append(abs(r - 1))
            differences.append(abs(data.old[i][t] - data.rollout[i][t]))
            weights += min(math.exp(data.old[i][t] - data.rollout[i][t]), 1.1)
            d = log_prob - data.reference[i][t]
            kl += math.exp(-d) - 1 + d
    assert clipped > 0
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {
            "clip_fraction": clipped,
            "correction_weight/mean": weights,
            "ratio_deviation/mean": sum(deviations),
            "ratio_deviation/max": max(deviations),
            "logprob_difference/mean": sum(differences),
            "logprob_difference/max": max(differences),
            "kl": kl,
        }
    )


def test_kl_in_the_reward_is_subtracted_before_groups_are_normalised():
    kl = schema.Kl(coefficient=0.5, estimator="k1", placement="reward")
    algorithm = Grpo(schema.Grpo(kl=kl, scale_by_std=False))
    rollouts = Rollouts(
        rewards=torch.tensor([1.0, 1.0], dtype=torch.float64),
        group=torch.tensor([4, 4]),
        sequence=torch.tensor([0, 0, 1]),
        mask=torch.ones(3, dtype=torch.float64),
        old_log_probs=torch.tensor([-1.0, -1.0, -2.0], dtype=torch.float64),
        reference_log_probs=torch.tensor([-1.2, -1.4, -1.0], dtype=torch.float64),
    )
    # Summed k1: 0.2 + 0.4 and -1.0.
    shaped = algorithm.penalised(rollouts, kl_coefficient=0.5)
    assert shaped.tolist() == pytest.approx([1 - 0.3, 1 + 0.5])
    advantages = algorithm.targets(rollouts, kl_coefficient=0.5).advantages
    assert advantages.tolist() == pytest.approx([-0.4, -0.4, 0.4])


def test_no_reference_is_needed_without_a_coefficient():
    assert not Grpo(schema.Grpo()).needs_reference
    assert all(Grpo(schema.Grpo(kl=kl)).needs_reference for kl in PENALTIES[1:])


def test_every_algorithm_of_the_configuration_has_its_record():
    sections = [*get_args(get_args(schema.CriticFree)[0]), schema.Ppo]
    assert [section().name for section in sections] == list(ALGORITHMS)
    for section in sections:
        assert ALGORITHMS[section().name](section()).config == section()
