"""From samples to the learner's batch: who is trained on, who is counted, who is left out."""

import numpy as np
import pytest
import torch

from medgpt_ray import batch
from medgpt_ray.algos.dapo import Dapo, teaches
from medgpt_ray.algos.grpo import Grpo
from medgpt_ray.algos.policy_gradient import Targets
from medgpt_ray.algos.rloo import Rloo
from medgpt_ray.config import algorithms as schema
from medgpt_ray.step_metrics import average, clock, per_token
from medgpt_ray.types import Completion, Prompt, Sample, VersionSpan


def sample(prompt: int, index: int, reward: float, tokens: int, truncated: bool = False) -> Sample:
    completion = Completion(
        prompt_id=f"f:{prompt}",
        index=index,
        token_ids=tuple(range(10, 10 + tokens)),
        log_probs=(-0.5,) * tokens,
        text="",
        finish_reason="length" if truncated else "stop",
        versions=(VersionSpan(0, 0, tokens),),
    )
    return Sample(Prompt(f"f:{prompt}", (), (1, 2, prompt), {}), completion, {}, reward)


SAMPLES = [
    sample(0, 0, 1.0, 3),
    sample(0, 1, 0.0, 5, truncated=True),
    sample(1, 0, 0.5, 4),
    sample(1, 1, 0.5, 2),
]
GROUP = torch.tensor([0, 0, 1, 1])


def update(samples=SAMPLES, group=GROUP, **settings) -> batch.Update:
    algorithm = Grpo(schema.Grpo(**settings))
    sequences = batch.to_sequences(algorithm, samples)
    rollouts = batch.rollouts(algorithm, samples, sequences, group, max_tokens=8)
    sequences = batch.with_targets(sequences, algorithm.targets(rollouts, kl_coefficient=0.0))
    return batch.policy_update(algorithm, sequences, max_tokens=8)


def test_samples_without_gradient_are_counted_and_left_out() -> None:
    made = update()
    assert [len(s.completion_ids) for s in made.sequences] == [3, 5]
    assert (made.normaliser.tokens, made.normaliser.sequences) == (14, 4)
    assert made.tokens == 8
    first = made.sequences[0].fields
    assert first["advantage"] == pytest.approx(np.full(3, 0.7071), abs=1e-4)
    assert first["mask"].tolist() == [1, 1, 1]


def test_a_kl_term_gives_every_sample_a_gradient() -> None:
    made = update(kl=schema.Kl(coefficient=0.1))
    assert len(made.sequences) == 4


def test_truncated_samples_can_be_masked_and_then_count_nowhere() -> None:
    made = update(mask_truncated=True)
    assert [len(s.completion_ids) for s in made.sequences] == [3]
    assert (made.normaliser.tokens, made.normaliser.sequences) == (9, 3)


def test_without_any_gradient_one_sample_keeps_the_optimiser_going() -> None:
    made = update(SAMPLES[2:], GROUP[2:])
    assert len(made.sequences) == 1
    assert made.sequences[0].fields["advantage"].tolist() == [0.0] * 4


def test_minibatches_keep_groups_whole() -> None:
    group = torch.tensor([0, 0, 1, 2, 2, 3])
    assert batch.split_minibatches(group, 2) == [[0, 1, 2], [3, 4, 5]]


def test_overlong_completions_lose_reward() -> None:
    algorithm = Dapo(schema.Dapo(overlong=schema.Overlong(buffer_share=0.5)))
    sequences = batch.to_sequences(algorithm, SAMPLES)
    rollouts = batch.rollouts(algorithm, SAMPLES, sequences, GROUP, max_tokens=6)
    # Lengths 3, 5, 4, 2; the buffer is 3 of 6 tokens.
    assert rollouts.rewards.tolist() == pytest.approx([1.0, -2 / 3, 0.5 - 1 / 3, 0.5])


def test_token_targets_find_their_tokens_again() -> None:
    algorithm = Grpo(schema.Grpo())
    sequences = batch.to_sequences(algorithm, SAMPLES)
    numbers = torch.arange(14, dtype=torch.float64)
    filled = batch.with_targets(sequences, Targets(numbers, numbers + 100))
    assert filled[1].fields["advantage"].tolist() == [3, 4, 5, 6, 7]
    assert filled[3].fields["return"].tolist() == [112, 113]
    assert [s.advantage for s in batch.with_advantages(SAMPLES, filled)] == [1, 5, 9.5, 12.5]


def test_what_is_cut_off_drifts_as_much_as_what_is_not() -> None:
    """With the KL in the reward, a completion that is left out of the loss pays for it too."""
    algorithm = Rloo(schema.Rloo())  # its KL is in the reward
    samples = [sample(0, 0, 1.0, 4), sample(0, 1, 0.0, 4)]
    samples += [sample(0, index, 0.0, 4, truncated=True) for index in (2, 3)]
    found = {}
    for masked in (False, True):
        config = algorithm.config.model_copy(update={"mask_truncated": masked})
        sequences = batch.to_sequences(Rloo(config), samples)
        drift = [np.full(4, value, dtype=np.float32) for value in (0.0, -5.0)]
        for name, values in zip(("old_log_probs", "reference_log_probs"), drift, strict=True):
            sequences = batch.with_field(sequences, name, [values] * 4)
        made = batch.rollouts(Rloo(config), samples, sequences, torch.zeros(4).long(), 8)
        found[masked] = Rloo(config).targets(made, 0.05).advantages
        assert Rloo(config).completion_kl(made).unique().numel() == 1
    torch.testing.assert_close(found[True][:8], found[False][:8])
    assert found[True][:5].tolist() == pytest.approx([1, 1, 1, 1, -1 / 3])


def test_rewards_that_differ_by_rounding_are_equal() -> None:
    assert not teaches([0.1 + 0.2, 0.3])
    assert not teaches([0.0, 0.0])
    assert teaches([0.3, 0.300001])


def test_without_a_trained_token_there_are_no_means() -> None:
    sums = {"loss": 0.0, "grad_norm": 0.0, "entropy": 0.0, "kl/max": 0.0}
    assert per_token(sums, 0) == {"loss": 0.0, "grad_norm": 0.0}
    assert per_token(sums | {"entropy": 6.0}, 3)["entropy"] == 2.0
    both = average([per_token(sums, 0), per_token(sums | {"entropy": 6.0}, 3)])
    assert both["entropy"] == 2.0
    assert both["loss"] == 0.0


def test_generation_beside_learning_is_timed_by_the_step() -> None:
    times = {"generate": 0.004, "reward": 1.0, "learn": 8.0, "sync": 0.5}
    metrics = {"tokens/generated": 1000.0, "tokens/learned": 800.0}
    assert clock(times, 10.0, metrics, beside=True)["tokens_per_s/generate"] == 100
    times["generate"] = 2.0
    assert clock(times, 11.0, metrics, beside=False)["tokens_per_s/generate"] == 500
