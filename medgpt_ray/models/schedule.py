"""The learning rate over a run: a linear warm-up, then constant or down to zero."""

import math

from medgpt_ray.config.schema import Learner

Span = tuple[float, float]
"""Share of the run that was done before an update, and will be after it; 0 to 1."""


def learning_rate(config: Learner, update: int, span: Span) -> float:
    """Of the update with `update` others before it.

    The warm-up lasts `warmup_steps` updates or, where that is 0, `warmup_share` of the run. A run
    over a stream knows what share of its rows is done, not how many updates will come.
    """
    before, after = span
    peak, warmup = config.learning_rate, config.warmup_share
    if config.warmup_steps:
        if update < config.warmup_steps:
            return peak * (update + 1) / config.warmup_steps
        warmup = config.warmup_steps * before / update
    elif before < warmup:
        return peak * min(after / warmup, 1.0)
    done = (before - warmup) / (1 - warmup) if warmup < 1 else 0.0
    if config.schedule == "linear":
        return peak * (1 - done)
    if config.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    return peak
