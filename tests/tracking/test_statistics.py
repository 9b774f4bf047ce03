import math

import numpy as np
import pytest

from medgpt_ray.tracking.statistics import bootstrap_interval, paired_bootstrap


def test_interval_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, size=400)
    mean, low, high = bootstrap_interval(values.tolist())
    error = 1.96 * values.std() / math.sqrt(400)
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(mean - error, abs=0.02)
    assert high == pytest.approx(mean + error, abs=0.02)


def test_interval_holds_the_true_mean_about_95_times_in_100() -> None:
    random = np.random.default_rng(0)
    draws = [random.binomial(1, 0.4, size=100).tolist() for _ in range(300)]
    intervals = [bootstrap_interval(draw, resamples=1000) for draw in draws]
    covered = np.mean([low <= 0.4 <= high for _, low, high in intervals])
    assert 0.91 <= covered <= 0.98


def test_a_higher_level_is_wider() -> None:
    values = list(range(30))
    _, low, high = bootstrap_interval(values)
    _, lower, higher = bootstrap_interval(values, level=0.99)
    assert lower < low < high < higher


def test_the_seed_decides() -> None:
    values = list(range(30))
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_pairs_that_all_rise_by_the_same_have_no_uncertainty() -> None:
    before = [0.0, 0.2, 0.9, 0.4, 0.5]
    after = [value + 0.125 for value in before]
    assert paired_bootstrap(before, after) == pytest.approx((0.125, 0.125, 0.125))
    assert bootstrap_interval(after).low < bootstrap_interval(before).high


def test_a_single_value_is_its_own_interval() -> None:
    assert bootstrap_interval([0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_interval_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values"):
        bootstrap_interval(values)


def test_unequal_lengths_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="2 values before and 1 after"):
        paired_bootstrap([1.0, 2.0], [1.0])


def test_weights_count_like_repeated_values() -> None:
    values, weights = [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]
    mean, low, high = bootstrap_interval(values, weights=weights)
    assert mean == pytest.approx(8 / 6)
    assert (low, high) == (0.0, 2.0)
    assert bootstrap_interval(values, weights=[5.0] * 3) == bootstrap_interval(values)


def test_a_heavy_value_widens_the_weighted_interval() -> None:
    values = [0.0, 1.0] * 50
    equal = bootstrap_interval(values)
    skewed = bootstrap_interval(values, weights=[1.0, 1.0] * 49 + [1.0, 80.0])
    assert skewed.high - skewed.low > 1.5 * (equal.high - equal.low)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0]])
def test_weights_must_fit(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="positive weight for each value"):
        bootstrap_interval([1.0, 2.0], weights=weights)
