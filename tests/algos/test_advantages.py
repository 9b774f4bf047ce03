import statistics

import pytest
import torch

from medgpt_ray.algos.advantages import group_advantages, zero_variance_groups


@pytest.mark.parametrize(
    ("reference", "scale_by_std"),
    [
        ("verl_std", True),
        ("skyrl_std", True),
        ("openrlhf_group_norm", True),
        ("slime", True),
        ("nemo_noloo_std", True),
        ("verl_nostd", False),
    ],
)
def test_agrees_with_reference(golden, reference, scale_by_std):
    ours = group_advantages(golden.inputs["rewards"], golden.inputs["group"], scale_by_std)
    theirs = golden.advantages(f"grpo/{reference}")
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_agrees_with_loop_over_interleaved_groups_of_unequal_size(scale_by_std):
    rewards = [0.3, 1.5, -2.0, 0.25, 0.9, 4.0, 0.0]
    group = [7, -1, 7, -1, 7, 7, -1]
    expected = []
    for reward, prompt in zip(rewards, group, strict=True):
        peers = [r for r, g in zip(rewards, group, strict=True) if g == prompt]
        scale = statistics.stdev(peers) + 1e-6 if scale_by_std else 1.0
        expected.append((reward - statistics.mean(peers)) / scale)
    ours = group_advantages(
        torch.tensor(rewards, dtype=torch.float64), torch.tensor(group), scale_by_std
    )
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_group_of_one_and_equal_rewards_give_exactly_zero(scale_by_std):
    # The float32 mean of seven times 0.1 is not 0.1: divided by eps the error would be seen.
    rewards = torch.tensor([5.0] + [0.1] * 7)
    assert rewards[1:].mean() != rewards[1]
    group = torch.tensor([0] + [1] * 7)
    assert torch.equal(group_advantages(rewards, group, scale_by_std), torch.zeros(8))


def test_zero_variance_groups_are_counted():
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.2, 0.3, 9.0])
    group = torch.tensor([3, 3, 3, 1, 1, 2])
    assert zero_variance_groups(rewards, group) == 2
