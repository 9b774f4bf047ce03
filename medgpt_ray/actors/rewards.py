"""Reward functions as Ray tasks: one that raises, hangs or dies costs its sample, never the run.

A function gets its samples in one streaming task, which hands over what it has every tenth of a
second. When nothing comes in time, or the process dies, the task is killed and a new one goes on
score by score: so the sample at fault is found, reported, and stepped over.
"""

import math
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from medgpt_ray.actors.wait import RunFailed, cause
from medgpt_ray.config.schema import Reward
from medgpt_ray.types import Completion, Prompt, RewardFailure, Sample

START_SECONDS = 120.0
"""For the process to start and the function to be imported."""

HOLD_SECONDS = 0.1
"""How long a task collects scores before it hands them over; each message costs some 10 ms."""

Item = tuple[str, str, dict[str, Any]]


@ray.remote(num_cpus=0, max_retries=0)
def _score(reward: Reward, items: list[Item], hold_seconds: float) -> Iterator[list[float | str]]:
    """Yield [] when ready, then the next scores, each a number or what went wrong as text."""
    from medgpt_ray.rewards import resolve

    function = resolve(reward.function)
    yield []
    scores: list[float | str] = []
    handed_over = time.monotonic()
    for prompt, completion, row in items:
        try:
            score = float(function(prompt, completion, row, **reward.arguments))
        except Exception as error:  # noqa: BLE001  the user's code: reported by the caller
            scores.append(f"{type(error).__name__}: {error}{_place(error)}")
        else:
            scores.append(score if math.isfinite(score) else f"returned {score}, not finite")
        if time.monotonic() - handed_over >= hold_seconds:
            yield scores
            scores, handed_over = [], time.monotonic()
    yield scores


def _place(error: Exception) -> str:
    """Where a function of the user's raised; ours say in words what they lack."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(frame.filename).is_relative_to(Path(__file__).parents[1])
    return "" if ours else f" ({Path(frame.filename).name}:{frame.lineno})"


class _Scores:
    """What one function says of all samples: its workers take every n-th each."""

    def __init__(self, reward: Reward, items: list[Item]) -> None:
        self.streams = [
            _Stream(reward, items[first :: reward.workers])
            for first in range(min(reward.workers, len(items)))
        ]
        self.count = len(items)

    def collect(self) -> list[float | str]:
        scores: list[float | str] = [""] * self.count
        for first, stream in enumerate(self.streams):
            scores[first :: len(self.streams)] = stream.collect()
        return scores


class _Stream:
    """The scores of one function by one process, in order."""

    def __init__(self, reward: Reward, items: list[Item]) -> None:
        self.reward, self.items = reward, items
        self._start(0, HOLD_SECONDS)

    def _start(self, first: int, hold_seconds: float) -> None:
        self._one_by_one = hold_seconds == 0
        options: dict[str, Any] = {"num_returns": "streaming"}
        if self._one_by_one:
            # Each score is here before the next sample begins: whoever dies then is to blame.
            options["_generator_backpressure_num_objects"] = 1
        self._task = _score.options(**options).remote(self.reward, self.items[first:], hold_seconds)
        self._started = False

    def collect(self) -> list[float | str]:
        results: list[float | str] = []
        while len(results) < len(self.items):
            limit = self.reward.timeout_s + HOLD_SECONDS if self._started else START_SECONDS
            scores = self._next(limit)
            if not isinstance(scores, _Lost):
                self._started = True
                results += scores
                continue
            ray.cancel(self._task, force=True)
            if self._one_by_one and not self._started:
                raise RunFailed(f"reward {self.reward.function} did not start: {scores.why}")
            if self._one_by_one:
                results.append(scores.why)
            self._start(len(results), hold_seconds=0)
        return results

    def _next(self, seconds: float) -> "list[float | str] | _Lost":
        ready, _ = ray.wait([self._task], timeout=seconds)
        if not ready:
            return _Lost(f"no score within {self.reward.timeout_s:g} s")
        try:
            return ray.get(next(self._task), timeout=60)  # type: ignore[no-any-return]
        except ray.exceptions.RayTaskError as error:
            return _Lost(cause(error))
        except ray.exceptions.RayError as error:
            return _Lost(f"the process died: {str(error).splitlines()[0]}")


class _Lost:
    """A sample whose score will never come."""

    def __init__(self, why: str) -> None:
        self.why = why


def score_completions(
    rewards: Sequence[Reward], prompts: Sequence[Prompt], groups: Sequence[Sequence[Completion]]
) -> list[list[Sample]]:
    """Score every completion of every prompt's group; functions run beside each other."""
    flat = [(p, c) for p, group in zip(prompts, groups, strict=True) for c in group]
    items = [(_last_user_message(p), c.text, p.row) for p, c in flat]
    by_function = [_Scores(reward, items) for reward in rewards]
    columns = [scores.collect() for scores in by_function]
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
    if completion.error:
        failure = RewardFailure("environment", prompt.id, completion.index, completion.error)
    for reward, score in zip(rewards, scores, strict=True):
        if isinstance(score, str):
            failure = failure or RewardFailure(reward.function, prompt.id, completion.index, score)
        else:
            parts[reward.function.partition(":")[2]] = score
            total += reward.weight * score
    return Sample(prompt, completion, parts, math.nan if failure else total, failure=failure)


def _last_user_message(prompt: Prompt) -> str:
    return next(m["content"] for m in reversed(prompt.messages) if m["role"] == "user")
