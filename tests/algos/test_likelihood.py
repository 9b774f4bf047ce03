import pytest
import torch

from medgpt_ray.algos.likelihood import negative_log_likelihood


def test_only_trained_tokens_count_and_the_normaliser_is_the_global_one():
    log_probs = torch.tensor([-1.0, -2.0, -4.0, -8.0], dtype=torch.float64, requires_grad=True)
    trained = torch.tensor([0.0, 1.0, 0.0, 1.0])
    loss = negative_log_likelihood(log_probs, trained, tokens=5)
    loss.backward()
    assert loss.item() == pytest.approx(10 / 5)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([0.0, -1 / 5, 0.0, -1 / 5])


def test_equals_cross_entropy_of_the_trained_tokens():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 11, generator=generator, dtype=torch.float64)
    targets = torch.tensor([3, 0, 10, 7, 7, 1])
    trained = torch.tensor([1, 1, 0, 1, 0, 1])
    log_probs = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    labels = targets.where(trained > 0, -100)
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(negative_log_likelihood(log_probs, trained, 4), expected)
