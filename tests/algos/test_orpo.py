import numpy as np
import pytest
import torch

from medgpt_ray.algos.orpo import log_odds_ratio, orpo
from medgpt_ray.config.supervised import Orpo


def mean_log_probs(seed=0, pairs=9):
    return -np.random.default_rng(seed).uniform(0.01, 6.0, (2, pairs))


@pytest.mark.parametrize("coefficient", [0.1, 1.5])
def test_agrees_with_the_papers_formula(coefficient):
    means = mean_log_probs()
    p = np.exp(means)
    odds = p / (1 - p)
    expected = -means[0] + coefficient * -np.log(1 / (1 + odds[1] / odds[0]))
    losses = orpo(*torch.tensor(means), Orpo(coefficient=coefficient))
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9)
    ratio = log_odds_ratio(*torch.tensor(means))
    np.testing.assert_allclose(ratio.numpy(), np.log(odds[0] / odds[1]), rtol=1e-9)


def test_gradient_agrees_with_finite_differences():
    chosen, rejected = torch.tensor(mean_log_probs())
    leaves = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda c, r: orpo(c, r, Orpo(coefficient=0.5)), leaves)


def test_certain_and_impossible_answers_give_finite_gradients():
    """In float32 the odds of an answer with log-prob 0 would be infinite."""
    ends = torch.tensor([0.0, -1e-9, -3e-8, -1e-7, -1e-5, -1.0, -30.0, -1e4])
    chosen, rejected = torch.cartesian_prod(ends, ends).T
    chosen, rejected = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    losses = orpo(chosen, rejected, Orpo())
    losses.sum().backward()
    for values in (losses, chosen.grad, rejected.grad):
        assert values.isfinite().all()


@pytest.mark.parametrize("log_prob", [-1e-5, -1e-3, -0.5, -0.7, -20.0, -200.0])
def test_float32_keeps_the_odds_of_nearly_certain_and_of_unlikely_answers(log_prob):
    exact = log_odds_ratio(*torch.tensor([log_prob, -0.6], dtype=torch.float64))
    single = log_odds_ratio(*torch.tensor([log_prob, -0.6], dtype=torch.float32))
    assert single.item() == pytest.approx(exact.item(), rel=1e-5)
