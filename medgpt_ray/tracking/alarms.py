"""Alarms of a reinforcement-learning run: metrics that mean that it no longer learns, or learns the
wrong thing.

A rule has to hold for `PERSIST` steps in a row, since a single step of few prompts proves nothing;
it is raised once, and again only after it has not held for as many steps. The thresholds are meant
to be quiet in a healthy run: an alarm is a reason to look, it stops nothing.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from medgpt_ray.tracking.metrics import Record
from medgpt_ray.tracking.page import Alarm

PERSIST = 3
WINDOW = 5
"""Steps averaged: the first ones as the level at the start, the last ones as that of now."""

NOT_FINITE = "a metric is not a finite number"
KL_NATS = 0.5
"""A token. Runs that stay readable have 0.01 to 0.1; at 0.5 the policy gives its own tokens 1.6
times the probability that the reference gives them, at every token of an answer."""
ENTROPY_LEFT = 0.1
"""Of the entropy at the start, which differs tenfold between models, so that no absolute level
would do. With a tenth left, a group's completions are nearly the same, and teach nothing more."""
LENGTH_GROWTH, LENGTH_CUT = 2.0, 0.5
"""Longer answers may be what is learned; twice the length with half of them cut off at the limit is
rambling, whose reward cannot be right."""
REWARD_EFFECT, REWARD_SHARE = 0.5, 0.3
"""From the best level: half a standard deviation of the samples then, which the mean of some
hundred samples does not lose by chance, and 30% of the level, so that high and steady rewards do
not alarm."""
MISMATCH_NATS = 0.1
"""Mean over tokens. Engine and learner differ by 5e-5 in float32 and 0.035 in bfloat16 on the same
weights; 0.1 is a weight of 10% on each token, so a wrong sync, another dtype or stale samples."""


class History:
    """What the checks look at: the steps so far, as far as they matter."""

    def __init__(self) -> None:
        self._first: list[Mapping[str, float]] = []
        self._last: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self.best_reward: tuple[float, float] | None = None
        """Highest mean over a window, and the standard deviation of its samples."""

    def add(self, metrics: Mapping[str, float]) -> None:
        if len(self._first) < WINDOW:
            self._first.append(metrics)
        self._last.append(metrics)
        reward, spread = self.now("reward/mean"), self.now("reward/std")
        if reward is not None and spread is not None and len(self._last) == WINDOW:
            self.best_reward = max(self.best_reward or (reward, spread), (reward, spread))

    @property
    def latest(self) -> Mapping[str, float]:
        return self._last[-1]

    def now(self, name: str) -> float | None:
        return _mean(self._last, name)

    def start(self, name: str) -> float | None:
        """The level of the first steps, once they are over."""
        return _mean(self._first, name) if len(self._first) == WINDOW else None


Check = Callable[[History], str | None]
"""What is wrong with the latest step, or None."""


class Alarms:
    """Fed with the metrics of each training step, in order.

    Example: `Alarms().watch(7, {"kl": 3.1, ...})` after two such steps is
    `[Alarm(7, "KL to the reference has blown up", "3.1 nats a token ...")]`.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        """`records` are those of the run so far; what they raised is `raised`."""
        self._history = History()
        self._episodes = [_Episode(what, check) for what, check in RULES.items()]
        self.raised = [
            alarm
            for record in records
            if "reward/mean" in record  # none of a held-out evaluation
            for alarm in self.watch(int(record["step"]), record)
        ]

    def watch(self, step: int, metrics: Mapping[str, float]) -> list[Alarm]:
        """The alarms that are new with this step."""
        self._history.add(metrics)
        seen = [(episode.what, episode.see(self._history)) for episode in self._episodes]
        return [Alarm(step, what, detail) for what, detail in seen if detail]

    @property
    def active(self) -> float:
        """How many hold, for the log."""
        return float(sum(episode.raised for episode in self._episodes))


@dataclass
class _Episode:
    """One rule and whether it holds: from `PERSIST` steps with it to as many without it."""

    what: str
    check: Check
    raised: bool = False
    streak: int = 0
    """Steps in a row that speak against `raised`."""

    def see(self, history: History) -> str | None:
        """The detail, when the alarm is new."""
        detail = self.check(history)
        self.streak = self.streak + 1 if bool(detail) != self.raised else 0
        needed = 1 if self.what == NOT_FINITE and not self.raised else PERSIST
        if self.streak < needed:
            return None
        self.raised, self.streak = not self.raised, 0
        return detail


def _not_finite(history: History) -> str | None:
    wrong = [name for name, value in history.latest.items() if not math.isfinite(value)]
    return ", ".join(wrong) or None


def _no_variance(history: History) -> str | None:
    if history.latest.get("advantage/abs_mean") != 0:
        return None
    return (
        "all completions of each prompt have the same reward, so nothing is learned: the prompts "
        "are too easy or too hard, the reward too coarse, or the temperature too low"
    )


def _zero_gradient(history: History) -> str | None:
    if history.latest.get("grad_norm") != 0 or _no_variance(history):
        return None
    return (
        "the updates change nothing although advantages differ: is every token masked or clipped, "
        "or nothing trainable?"
    )


def _reward_collapse(history: History) -> str | None:
    now, best = history.now("reward/mean"), history.best_reward
    if now is None or best is None:
        return None
    level, spread = best
    if level - now <= max(REWARD_EFFECT * spread, REWARD_SHARE * abs(level)):
        return None
    return f"{now:.3g} over the last {WINDOW} steps, after {level:.3g}: go back to that checkpoint"


def _kl_blow_up(history: History) -> str | None:
    value = history.latest.get("kl")
    if value is None or not value > KL_NATS:
        return None
    return (
        f"{value:.3g} nats a token, more than {KL_NATS}: raise algorithm.kl.coefficient or lower "
        "learner.learning_rate"
    )


def _entropy_collapse(history: History) -> str | None:
    value, start = history.latest.get("entropy"), history.start("entropy")
    if value is None or start is None or not value < ENTROPY_LEFT * start:
        return None
    return (
        f"{value:.3g} nats a token, {start:.3g} at the start: completions are hardly sampled any "
        "more; raise algorithm.clip_high, the KL coefficient or rollout.temperature"
    )


def _length_explosion(history: History) -> str | None:
    length, start = (
        history.latest.get("completion_length/mean"),
        history.start("completion_length/mean"),
    )
    cut = history.latest.get("truncated_share")
    if length is None or start is None or cut is None:
        return None
    if not (length > LENGTH_GROWTH * start and cut >= LENGTH_CUT):
        return None
    return (
        f"{length:.0f} tokens on average, {start:.0f} at the start, and {cut:.0%} are cut off at "
        "the limit: reward brevity, or mask what is cut off"
    )


def _mismatch(history: History) -> str | None:
    value = history.latest.get("logprob_difference/mean")
    if value is None or not value > MISMATCH_NATS:
        return None
    return (
        f"{value:.3g} nats a token on average, more than {MISMATCH_NATS}: lower "
        "algorithm.max_staleness, or give model.dtype and rollout.dtype one type"
    )


RULES: dict[str, Check] = {
    NOT_FINITE: _not_finite,
    "no group has any variance in its rewards": _no_variance,
    "the gradient is zero": _zero_gradient,
    "the reward has collapsed": _reward_collapse,
    "KL to the reference has blown up": _kl_blow_up,
    "the entropy has collapsed": _entropy_collapse,
    "completions have exploded in length": _length_explosion,
    "learner and engines disagree on log-probs": _mismatch,
}


def _mean(records: Iterable[Mapping[str, float]], name: str) -> float | None:
    values = [record[name] for record in records if math.isfinite(record.get(name, math.nan))]
    return fmean(values) if values else None
