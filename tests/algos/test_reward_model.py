import numpy as np
import pytest
import torch

from medgpt_ray.algos.reward_model import bradley_terry


def scores(seed=0, pairs=8):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, pairs), rng.normal(0, 2, pairs), rng.uniform(0, 3, pairs)


@pytest.mark.parametrize("centring", [0.0, 0.3])
@pytest.mark.parametrize("with_margin", [False, True])
def test_agrees_with_the_formula(with_margin, centring):
    chosen, rejected, margin = scores()
    wanted = margin if with_margin else 0.0
    probability = 1 / (1 + np.exp(-(chosen - rejected - wanted)))
    expected = -np.log(probability) + centring * (chosen + rejected) ** 2
    losses = bradley_terry(
        torch.tensor(chosen),
        torch.tensor(rejected),
        torch.tensor(margin) if with_margin else None,
        centring,
    )
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9)


def test_gradient_agrees_with_finite_differences():
    chosen, rejected, margin = map(torch.tensor, scores())
    leaves = chosen.requires_grad_(), rejected.requires_grad_()
    assert torch.autograd.gradcheck(lambda c, r: bradley_terry(c, r, margin, 0.2), leaves)


def test_a_wrong_order_by_far_gives_finite_gradients():
    chosen = torch.tensor([-5e3, 5e3], requires_grad=True)
    losses = bradley_terry(chosen, torch.tensor([5e3, -5e3]), None, 0.0)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([1e4, 0.0])
    assert chosen.grad.tolist() == pytest.approx([-1.0, 0.0])
