"""From samples to the learner's batch: who is trained on, who is counted, who is left out."""

import numpy as np
import pytest
import torch

from medgpt_ray import batch
from medgpt_ray.algos.grpo import Grpo
from medgpt_ray.config import schema
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


def update(**settings) -> batch.Update:
    algorithm = Grpo(schema.Grpo(**settings))
    rewards = torch.tensor([s.reward for s in SAMPLES]).double()
    samples = batch.with_advantages(algorithm, SAMPLES, GROUP, rewards)
    return batch.make_update(algorithm, samples, batch.to_sequences(samples), max_tokens=8)


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
    algorithm = Grpo(schema.Grpo())
    samples = SAMPLES[2:]
    made = batch.make_update(algorithm, samples, batch.to_sequences(samples), max_tokens=8)
    assert len(made.sequences) == 1
    assert made.sequences[0].fields["advantage"].tolist() == [0.0] * 4


def test_minibatches_keep_groups_whole() -> None:
    group = torch.tensor([0, 0, 1, 2, 2, 3])
    assert batch.split_minibatches(group, 2) == [[0, 1, 2], [3, 4, 5]]


def test_kl_in_the_reward_is_summed_over_the_completion() -> None:
    kl = schema.Kl(coefficient=0.5, estimator="k1", placement="reward")
    algorithm = Grpo(schema.Grpo(kl=kl))
    old = [np.array([-1.0, -2.0], np.float32), np.array([-1.0], np.float32)]
    reference = [np.array([-1.5, -2.5], np.float32), np.array([-0.5], np.float32)]
    shaped = batch.shaped_rewards(algorithm, torch.tensor([1.0, 1.0]).double(), old, reference)
    assert shaped.tolist() == pytest.approx([1.0 - 0.5 * 1.0, 1.0 + 0.5 * 0.5])
