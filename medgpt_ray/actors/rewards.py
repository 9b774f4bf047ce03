"""Reward functions as Ray tasks: one that raises, hangs or dies costs its sample, never the run.

A function gets its samples in one streaming task, which yields score after score. When a score does not
come in time, or the process dies, that sample has failed; the task is killed and a new one goes on with
the next sample.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from medgpt_ray.config.schema import Reward
from medgpt_ray.types import Completion, Prompt, RewardFailure, Sample

START_SECONDS = 120.0
"""For the process to start and the function to be imported."""

Item = tuple[str, str, dict[str, Any]]


@ray.remote(num_cpus=0, max_retries=0)
def _score(function_name: str, items: list[Item]) -> Iterator[float | str | None]:
    """Yield None when ready, then a score, or what went wrong as text, for each item."""
    from medgpt_ray.rewards import resolve

    function = resolve(function_name)
    yield None
    for prompt, completion, row in items:
        try:
            score = float(function(prompt, completion, row))
        except Exception as error:  # the user's code: reported with its prompt by the caller
            yield f"{type(error).__name__}: {error}"
            continue
        yield score if math.isfinite(score) else f"returned {score}, not a finite number"


class _Stream:
    """The scores of one function, in order."""

    def __init__(self, reward: Reward, items: list[Item]) -> None:
        self.reward, self.items = reward, items
        self._start(0)

    def _start(self, first: int) -> None:
        self._fresh = True
        self._task = _score.options(num_returns="streaming").remote(
            self.reward.function, self.items[first:]
        )

    def collect(self) -> list[float | str]:
        results: list[float | str] = []
        while len(results) < len(self.items):
            if self._fresh:
                started = self._next(START_SECONDS)
                if started is not None:
                    raise RuntimeError(f"reward {self.reward.function} did not start: {started}")
                self._fresh = False
            result = self._next(self.reward.timeout_s)
            if isinstance(result, _Lost):
                ray.cancel(self._task, force=True)
                results.append(result.why)
                self._start(len(results))
            else:
                assert result is not None
                results.append(result)
        return results

    def _next(self, seconds: float) -> "float | str | None | _Lost":
        ready, _ = ray.wait([self._task], timeout=seconds)
        if not ready:
            return _Lost(f"no score within {seconds:g} s")
        try:
            return ray.get(next(self._task), timeout=60)  # type: ignore[no-any-return]
        except ray.exceptions.RayError as error:
            return _Lost(f"the process died: {str(error).splitlines()[0]}")


class _Lost:
    """A sample whose score will never come."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __str__(self) -> str:
        return self.why


def score_completions(
    rewards: Sequence[Reward], prompts: Sequence[Prompt], groups: Sequence[Sequence[Completion]]
) -> list[list[Sample]]:
    """Score every completion of every prompt's group; functions run beside each other."""
    flat = [(p, c) for p, group in zip(prompts, groups, strict=True) for c in group]
    items = [(_last_user_message(p), c.text, p.row) for p, c in flat]
    streams = [_Stream(reward, items) for reward in rewards]
    columns = [stream.collect() for stream in streams]
    samples = [
        _sample(prompt, completion, rewards, scores)
        for (prompt, completion), *scores in zip(flat, *columns, strict=True)
    ]
    size = len(groups[0]) if groups else 0
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _sample(
    prompt: Prompt, completion: Completion, rewards: Sequence[Reward], scores: list[float | str]
) -> Sample:
    parts: dict[str, float] = {}
    total = 0.0
    failure = None
    for reward, score in zip(rewards, scores, strict=True):
        if isinstance(score, str):
            failure = failure or RewardFailure(
                reward.function, prompt.id, completion.index, score
            )
        else:
            parts[reward.function.partition(":")[2]] = score
            total += reward.weight * score
    return Sample(prompt, completion, parts, math.nan if failure else total, failure=failure)


def _last_user_message(prompt: Prompt) -> str:
    return next(m["content"] for m in reversed(prompt.messages) if m["role"] == "user")
