import math

import pytest
import torch

from medgpt_ray.algos.kl import kl_estimate, kl_loss

K1, K2, K3 = "k1", "k2", "k3"


@pytest.mark.parametrize("reference", ["openrlhf", "verl", "slime", "nemo", "skyrl"])
@pytest.mark.parametrize("estimator", [K1, K2, K3])
def test_agrees_with_reference(golden, estimator, reference):
    ours = kl_estimate(golden.flat("new_logp"), golden.flat("ref_logp"), estimator)
    theirs = torch.tensor(golden.results[f"kl/{estimator}/{reference}"])[golden.mask]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("estimator", [K1, K2, K3])
def test_agrees_with_formula_and_clamps(estimator):
    differences = [-1e3, -25.0, -3.0, -0.1, 0.0, 0.1, 3.0, 12.0, 25.0, 1e3]
    expected = []
    for difference in differences:
        d = min(max(difference, -20.0), 20.0)
        value = {K1: d, K2: d * d / 2, K3: math.exp(-d) - 1 + d}[estimator]
        expected.append(min(max(value, -10.0), 10.0))
    log_probs = torch.tensor(differences, dtype=torch.float64)
    ours = kl_estimate(log_probs, torch.zeros_like(log_probs), estimator)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("estimator", [K2, K3])
def test_loss_has_the_estimators_value_and_in_expectation_the_gradient_of_the_kl(estimator):
    """Over a vocabulary of 11 tokens the expectation can be written out."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(11, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(11, generator=generator, dtype=torch.float64).log_softmax(0)

    log_probs = logits.log_softmax(0)
    exact = (log_probs.exp() * (log_probs - reference)).sum()
    (exact_gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)

    per_token = kl_loss(log_probs, reference, estimator)
    torch.testing.assert_close(per_token, kl_estimate(log_probs, reference, estimator))
    sampled = (log_probs.detach().exp() * per_token).sum()
    (gradient,) = torch.autograd.grad(sampled, logits)
    torch.testing.assert_close(gradient, exact_gradient)


@pytest.mark.parametrize("estimator", [K2, K3])
def test_loss_still_pulls_back_a_token_beyond_the_clamps(estimator):
    log_probs = torch.tensor([-1.0, -31.0, -1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-31.0, -1.0, -8.0], dtype=torch.float64)
    loss = kl_loss(log_probs, reference, estimator)
    loss.sum().backward()
    assert loss.abs().max() <= 10.0
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [20.0, -20.0, 7.0]
