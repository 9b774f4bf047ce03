import numpy as np
import pytest
import torch

from medgpt_ray.algos.kto import kl_baseline, kto
from medgpt_ray.config.supervised import Kto


def examples(seed=0, count=8):
    rng = np.random.default_rng(seed)
    policy = -rng.uniform(1, 40, count)
    return policy, policy + rng.normal(0, 4, count), rng.random(count) < 0.5


@pytest.mark.parametrize("z0", [0.0, 1.7])
def test_agrees_with_the_papers_formula(z0):
    section = Kto(beta=0.3, desirable_weight=1.4, undesirable_weight=0.6)
    policy, reference, desirable = examples()
    expected = []
    for pi, ref, good in zip(policy, reference, desirable, strict=True):
        if good:
            value = 1.4 / (1 + np.exp(-0.3 * (pi - ref - z0)))
            expected.append(1.4 - value)
        else:
            value = 0.6 / (1 + np.exp(-0.3 * (z0 - (pi - ref))))
            expected.append(0.6 - value)
    baseline = torch.tensor(z0, dtype=torch.float64)
    losses = kto(*map(torch.tensor, (policy, reference, desirable)), baseline, section)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9)
    assert 0 < desirable.sum() < len(desirable)


def test_gradient_agrees_with_finite_differences():
    policy, reference, desirable = map(torch.tensor, examples())
    section, z0 = Kto(beta=0.3, undesirable_weight=2.0), torch.tensor(0.4)
    assert torch.autograd.gradcheck(
        lambda leaf: kto(leaf, reference, desirable, z0, section), policy.requires_grad_()
    )


def test_baseline_is_the_mean_log_ratio_and_a_constant_of_the_loss():
    policy = torch.tensor([-3.0, -5.0, -2.0], requires_grad=True)
    z0 = kl_baseline(policy, torch.tensor([-4.0, -9.0, -1.0]))
    assert z0.item() == pytest.approx((1 + 4 - 1) / 3)
    assert not z0.requires_grad


def test_baseline_is_clamped_after_the_mean():
    assert kl_baseline(torch.tensor([-3.0, -5.0]), torch.tensor([-4.0, -3.0])).item() == 0.0


def test_far_from_the_reference_gradients_stay_finite():
    policy = torch.tensor([-9000.0, -3.0, -9000.0, -3.0], requires_grad=True)
    desirable = torch.tensor([True, True, False, False])
    losses = kto(policy, torch.full((4,), -4000.0), desirable, torch.tensor(0.0), Kto())
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([1.0, 0.0, 0.0, 1.0])
    assert policy.grad.isfinite().all()
