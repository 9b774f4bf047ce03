import math

import pytest
import torch

from medgpt_ray.algos.policy_loss import (
    Normaliser,
    TokenBatch,
    aggregate,
    policy_ratio,
    ppo_clip,
)


@pytest.mark.parametrize(
    ("name", "aggregation", "dual_clip"),
    [
        ("verl/token-mean/dualclip3", "token", 3.0),
        ("verl/seq-mean-token-mean/dualclip3", "sequence", 3.0),
        ("verl/seq-mean-token-sum/dualclip3", "constant", 3.0),
        ("openrlhf/token", "token", None),
        ("openrlhf/token/dualclip3", "token", 3.0),
        ("openrlhf/seq", "sequence", None),
        ("areal/token", "token", None),
        ("slime_token_mean/dualclip3", "token", 3.0),
    ],
)
def test_agrees_with_reference(golden, name, aggregation, dual_clip):
    log_probs = golden.inputs["new_logp"].clone().requires_grad_()
    batch = golden.batch(log_probs)
    # A constant of one token makes it the mean over sequences of token sums: seq-mean-token-sum.
    normaliser = golden.normaliser(max_completion_tokens=1)
    ratio = policy_ratio(batch.log_probs, batch.old_log_probs)
    per_token, _ = ppo_clip(ratio, batch.advantages, 0.2, 0.28, dual_clip)
    loss = aggregate(per_token, batch, aggregation, normaliser)
    golden.assert_matches(f"ppo/{name}", loss, log_probs)


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_clip_agrees_with_loop(dual_clip):
    """Every combination of sign and of a ratio below, inside and above each bound."""
    cases = [
        (r, a) for a in (-1.5, 0.0, 2.0) for r in (0.01, 0.79, 0.81, 1.0, 1.27, 1.29, 2.9, 50.0)
    ]
    losses, gradients = [], []
    for r, a in cases:
        within = min(max(r, 0.8), 1.28)
        loss = -min(r * a, within * a)
        gradient = 0.0 if within * a < r * a else -a
        if dual_clip is not None and a < 0 and loss > -dual_clip * a:
            loss, gradient = -dual_clip * a, 0.0
        losses.append(loss)
        gradients.append(gradient)

    ratio = torch.tensor([r for r, _ in cases], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([a for _, a in cases], dtype=torch.float64)
    per_token, clipped = ppo_clip(ratio, advantages, 0.2, 0.28, dual_clip)
    per_token.sum().backward()
    assert per_token.tolist() == pytest.approx(losses)
    assert ratio.grad is not None
    assert ratio.grad.tolist() == pytest.approx(gradients)
    trains = (advantages != 0).tolist()
    assert [c for c, t in zip(clipped.tolist(), trains, strict=True) if t] == [
        g == 0.0 for g, t in zip(gradients, trains, strict=True) if t
    ]


def test_ratio_is_clamped():
    ratio = policy_ratio(torch.tensor([1e4, -1e4], dtype=torch.float64), torch.zeros(2))
    assert ratio.tolist() == pytest.approx([math.exp(20.0), math.exp(-20.0)])


def batch_of(mask, sequence):
    n = len(mask)
    mask = torch.tensor(mask, dtype=torch.float64)
    sequence = torch.tensor(sequence)
    lengths = torch.zeros(int(sequence.max()) + 1, dtype=torch.float64).index_add(0, sequence, mask)
    zeros = torch.zeros(n, dtype=torch.float64)
    return TokenBatch(zeros, zeros, zeros, None, zeros, mask, sequence, lengths.long())


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token", (1 + 2 + 4 + 16 + 32) / 10),
        ("sequence", ((1 + 2 + 4) / 3 + (16 + 32) / 2) / 5),
        ("constant", (1 + 2 + 4 + 16 + 32) / (5 * 20)),
    ],
)
def test_aggregation_uses_the_global_normaliser_and_leaves_out_the_mask(aggregation, expected):
    # The middle sequence is left out whole; the global batch has 10 tokens in 5 sequences.
    batch = batch_of([1, 1, 1, 0, 1, 1, 0], [0, 0, 0, 1, 2, 2, 2])
    per_token = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], dtype=torch.float64)
    loss = aggregate(per_token, batch, aggregation, Normaliser(10, 5, 20))
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_a_global_batch_without_trained_tokens_has_loss_and_gradient_zero(aggregation):
    batch = batch_of([0, 0], [0, 1])
    per_token = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    loss = aggregate(per_token, batch, aggregation, Normaliser(0, 0, 20))
    loss.backward()
    assert loss.item() == 0.0
    assert per_token.grad is not None
    assert per_token.grad.tolist() == [0.0, 0.0]
