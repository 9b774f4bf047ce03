"""Confidence intervals of held-out scores: Efron's percentile bootstrap over the prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_DRAWS_AT_ONCE = 1_000_000
"""Bounds the memory of the resampling to about 16 MB, however many prompts there are."""


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: Sequence[float],
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
    weights: Sequence[float] | None = None,
) -> Interval:
    """Mean of `values`, one for each prompt, and its confidence interval.

    The prompts are the sample: average several completions of one prompt before. With `weights`
    (tokens of each text, say) every mean is the weighted one. The same seed gives the same
    interval. ValueError without values, or with one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"a bootstrap needs finite values: got {len(values)}, {array}")
    weight = np.ones_like(array) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != array.shape or not (weight > 0).all():
        raise ValueError(f"a bootstrap needs a positive weight for each value: got {weight}")
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // array.size)
    draws = (
        random.integers(array.size, size=(count, array.size))
        for count in _blocks(resamples, at_once)
    )
    means = np.concatenate(
        [(array * weight)[drawn].sum(axis=1) / weight[drawn].sum(axis=1) for drawn in draws]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.average(array, weights=weight)), float(low), float(high))


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
    weights: Sequence[float] | None = None,
) -> Interval:
    """Mean of `after - before` with its interval, where both have the same prompts in order.

    Narrower than the two intervals apart, because a prompt is as hard before as after.
    """
    if len(before) != len(after):
        raise ValueError(f"not pairs: {len(before)} values before and {len(after)} after")
    difference = np.subtract(after, before, dtype=np.float64)
    return bootstrap_interval(difference.tolist(), seed, resamples, level, weights)


def _blocks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
