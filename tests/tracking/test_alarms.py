"""Alarms on series as runs record them: quiet in a sound run, once an episode in others."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from medgpt_ray.tracking.alarms import RULES, Alarms
from medgpt_ray.tracking.metrics import Record
from medgpt_ray.tracking.report import write_report
from medgpt_ray.tracking.rundir import RunDirectory

FOLDER = Path(__file__).parent
"""With the metrics of two GRPO runs of the tiny model, at learning rates 0.003 and 0.01."""


def recorded(name: str) -> list[Record]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture
def sound() -> list[Record]:
    """The training steps of a run that learns and stays near its reference."""
    return [record for record in recorded("recorded_sound") if "reward/mean" in record]


def raised(records: list[Record]) -> dict[str, list[int]]:
    """Alarm -> the steps that raised it."""
    found: dict[str, list[int]] = {}
    for alarm in Alarms(records).raised:
        found.setdefault(alarm.what, []).append(alarm.step)
    return found


def changed(records: list[Record], change: Callable[[Record], Record]) -> list[Record]:
    """The same run with other numbers from step 9 on."""
    return [{**r, **change(r)} if r["step"] >= 9 else r for r in records]


def test_a_sound_run_raises_nothing(sound: list[Record]) -> None:
    assert len(sound) == 20
    assert raised(sound) == {}
    assert raised(recorded("recorded_sound")) == {}


def test_a_run_that_left_its_reference() -> None:
    """Its KL is above 0.5 from step 9 on, while its reward rises."""
    assert raised(recorded("recorded_blow_up")) == {"KL to the reference has blown up": [11]}


@pytest.mark.parametrize(
    ("what", "change", "step"),
    [
        ("a metric is not a finite number", lambda r: {"kl": math.nan}, 9),
        ("the gradient is zero", lambda r: {"grad_norm": 0.0}, 11),
        ("no group has any variance in its rewards", lambda r: {"advantage/abs_mean": 0.0}, 11),
        ("the reward has collapsed", lambda r: {"reward/mean": 0.02}, None),
        ("KL to the reference has blown up", lambda r: {"kl": 0.1 * 2 ** (r["step"] - 8)}, 13),
        ("the entropy has collapsed", lambda r: {"entropy": r["entropy"] * 0.05}, 11),
        (
            "completions have exploded in length",
            lambda r: {
                "completion_length/mean": 3 * r["completion_length/mean"],
                "truncated_share": 0.8,
            },
            11,
        ),
        (
            "learner and engines disagree on log-probs",
            lambda r: {"logprob_difference/mean": 0.3},
            11,
        ),
    ],
)
def test_each_fault_is_raised_and_nothing_else(
    sound: list[Record], what: str, change: Callable[[Record], Record], step: int | None
) -> None:
    found = raised(changed(sound, change))
    assert list(found) == [what]
    assert len(found[what]) == 1
    if step is not None:
        assert found[what] == [step]
    assert what in RULES


def test_without_any_variance_the_gradient_is_explained(sound: list[Record]) -> None:
    dead = changed(sound, lambda r: {"advantage/abs_mean": 0.0, "grad_norm": 0.0})
    assert list(raised(dead)) == ["no group has any variance in its rewards"]


def test_two_bad_steps_are_no_alarm(sound: list[Record]) -> None:
    for first in (3, 9):
        few = [
            {**r, "advantage/abs_mean": 0.0} if r["step"] in (first, first + 1) else r
            for r in sound
        ]
        assert raised(few) == {}


def test_an_episode_is_told_once_and_the_next_one_again(sound: list[Record]) -> None:
    def mismatch(step: int) -> Record:
        return {**sound[0], "step": step, "logprob_difference/mean": 0.3 if step in bad else 0.03}

    bad = {*range(4, 8), *range(9, 13), *range(30, 40)}  # step 8 ends nothing
    found = raised([mismatch(step) for step in range(1, 45)])
    assert found == {"learner and engines disagree on log-probs": [6, 32]}


def test_the_number_of_alarms_that_hold(sound: list[Record]) -> None:
    alarms, held = Alarms(), []
    for step in range(1, 13):
        bad = {"kl": 2.0, "logprob_difference/mean": 0.3} if 4 <= step < 8 else {}
        alarms.watch(step, {**sound[0], **bad})
        held.append(alarms.active)
    assert held == [0] * 5 + [2] * 4 + [0] * 3


def test_longer_answers_that_end_are_no_explosion(sound: list[Record]) -> None:
    longer = changed(
        sound,
        lambda r: {
            "completion_length/mean": 3 * r["completion_length/mean"],
            "truncated_share": 0.1,
        },
    )
    assert raised(longer) == {}


def test_a_run_that_goes_on_remembers_how_it_began(sound: list[Record]) -> None:
    collapsed = changed(sound, lambda r: {"entropy": r["entropy"] * 0.05})
    before, after = collapsed[:9], collapsed[9:]
    alarms = Alarms(before)
    assert alarms.raised == []
    found = [alarm for r in after for alarm in alarms.watch(int(r["step"]), r)]
    assert [(alarm.step, alarm.what) for alarm in found] == [(11, "the entropy has collapsed")]


def test_metrics_that_an_algorithm_does_not_have(sound: list[Record]) -> None:
    only = [{k: r[k] for k in ("step", "reward/mean", "reward/std")} for r in sound]
    assert raised(only) == {}


def test_the_report_has_them(rundir: RunDirectory) -> None:
    for name, there in (("recorded_sound", False), ("recorded_blow_up", True)):
        rundir.metrics.write_text((FOLDER / f"{name}.jsonl").read_text())
        html = write_report(rundir).read_text()
        assert ("KL to the reference has blown up" in html) == there
        assert ("1.06 nats a token, more than 0.5" in html) == there
        assert ("None: every sample has a score" in html) != there
