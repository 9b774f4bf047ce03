"""The learning rate over a run, by updates and by shares of the data."""

import math

import pytest

from medgpt_ray.config.schema import Learner
from medgpt_ray.models.schedule import learning_rate


def rates(updates: int, **settings: object) -> list[float]:
    config = Learner(learning_rate=1.0, **settings)
    return [learning_rate(config, u, (u / updates, (u + 1) / updates)) for u in range(updates)]


def test_a_warm_up_in_updates_and_the_same_as_a_share() -> None:
    by_steps = rates(10, warmup_steps=2, schedule="linear")
    assert by_steps == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert rates(10, warmup_share=0.2, schedule="linear") == pytest.approx(by_steps)


def test_cosine_falls_to_zero_and_constant_stays() -> None:
    assert rates(4, schedule="cosine") == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    )
    assert rates(3, warmup_share=0.1) == [1, 1, 1]


def test_updates_that_take_more_of_the_data_move_further() -> None:
    config = Learner(learning_rate=1.0, schedule="linear", warmup_share=0.5)
    spans = [(0.0, 0.1), (0.1, 0.4), (0.4, 0.6), (0.6, 1.0)]
    found = [learning_rate(config, u, span) for u, span in enumerate(spans)]
    assert found == pytest.approx([0.2, 0.8, 1.0, 0.8])
