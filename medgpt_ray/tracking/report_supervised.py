"""The report of a supervised run: losses, validation rows before and after, what was read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, stdev

from medgpt_ray.config.supervised import DpoRun, KtoRun, OrpoRun, RmRun, SimPo, SupervisedRun
from medgpt_ray.tracking.curves import Chart, Line, chart, line, thinned
from medgpt_ray.tracking.format import duration, number, percent
from medgpt_ray.tracking.measures import STAGES, Measure, Stage
from medgpt_ray.tracking.metrics import Record
from medgpt_ray.tracking.page import NOTHING_YET, Alarm, Page, not_finite
from medgpt_ray.tracking.rundir import RunDirectory

_VALIDATION = "validation/"
_MANY = 0.05
_PARTS = 10
_PART_STEPS = 5
"""The mean loss of fewer steps says nothing."""
_PARTS_RAISED = 3
_UNITS = ("tokens", "pairs", "examples")
"""Metrics that count what was measured; each stage has one of them."""
_FATES = (
    ("rejected", "cannot be read as rows of their format", _MANY),
    ("dropped", "valid, but too long for data.max_tokens", _MANY),
    ("cut", "trained on without their last turns, too long for data.max_tokens", _MANY),
    ("held out", "measured, never trained on", 1.0),
    (
        "near duplicates",
        "trained on, though they differ from a validation row in case, punctuation or spaces only",
        0.0,
    ),
)
"""What becomes of rows that are not simply trained on, and the share above which it is an alarm."""


@dataclass(frozen=True)
class Point:
    step: int
    value: float


@dataclass(frozen=True)
class Row:
    """A measure of the validation rows; `last` is none before the second validation."""

    name: str
    first: Point
    best: Point | None
    last: Point | None
    verdict: str
    """`good` or `bad` as the last is better or worse than the first, where that can be said."""


@dataclass(frozen=True)
class Fate:
    name: str
    rows: int
    share: float
    """Of the rows read."""
    meaning: str
    alarming: bool


def page(rundir: RunDirectory, config: SupervisedRun, records: Sequence[Record]) -> Page:
    stage = STAGES[config.stage]
    training = [record for record in records if not _is_validation(record)]
    validation = [
        {name.removeprefix(_VALIDATION): value for name, value in record.items()}
        for record in records
        if _is_validation(record)
    ]
    rows = _rows(stage, validation)
    now = training[-1] if training else {}
    return Page(
        template="report_supervised.html.j2",
        kind=config.stage,
        facts=_facts(stage, config),
        charts=_charts(stage, training, validation),
        alarms=[*not_finite(records), *_raised(training), *_worse(rows), *_left_out(now)],
        quiet="None: all numbers are finite, no loss has risen, few rows were left out."
        if training
        else NOTHING_YET,
        values={
            "now": now,
            "trained_s": sum(record.get("time/step", 0.0) for record in training),
            "rows": rows,
            "measured": _measured(validation),
            "best_checkpoint": _best_checkpoint(rundir, rows),
            "fates": _fates(now),
            "rejects": (rundir.path / "rejected.jsonl").exists(),
        },
    )


def _is_validation(record: Record) -> bool:
    return any(name.startswith(_VALIDATION) for name in record)


def _facts(stage: Stage, config: SupervisedRun) -> dict[str, str]:
    learner = config.learner
    workers = f"{learner.workers} worker{'s' if learner.workers > 1 else ''}"
    facts = {
        "Stage": stage.title,
        "Training": f"{config.examples_per_step} examples a step, learning rate "
        f"{number(learner.learning_rate)} ({learner.schedule}), {workers}",
    }
    if isinstance(config, RmRun | DpoRun | OrpoRun | KtoRun):
        settings = config.objective.model_dump()
        facts["Objective"] = ", ".join(f"{name} {value}" for name, value in settings.items())
    if isinstance(config, DpoRun | KtoRun) and not isinstance(config.objective, SimPo):
        facts["Reference"] = config.reference.path or "the model before training"
    return facts


def _rows(stage: Stage, validation: Sequence[Record]) -> list[Row]:
    found = []
    for measure in stage.measures:
        for label, metric in measure.metrics.items():
            values = line(validation, "", metric)
            points = [
                Point(int(step), value)
                for step, value in zip(values.steps, values.values, strict=True)
            ]
            if points:
                found.append(_row(measure, label, points))
    return found


def _row(measure: Measure, label: str, points: Sequence[Point]) -> Row:
    sign = {"lower": -1.0, "higher": 1.0, None: 0.0}[measure.better]
    first, last = points[0], points[-1] if len(points) > 1 else None
    finite = [point for point in points if math.isfinite(point.value)]
    gain = sign * (last.value - first.value) if last else 0.0
    return Row(
        name=f"{measure.title}, {label}" if label else measure.title,
        first=first,
        best=max(finite, key=lambda point: sign * point.value) if sign and finite else None,
        last=last,
        verdict="good" if gain > 0 else "bad" if gain < 0 else "",
    )


def _measured(validation: Sequence[Record]) -> str:
    """How much was measured, such as `34 tokens`."""
    counts = validation[-1] if validation else {}
    return next((f"{counts[unit]:,.0f} {unit}" for unit in _UNITS if unit in counts), "")


def _best_checkpoint(rundir: RunDirectory, rows: Sequence[Row]) -> str | None:
    """The checkpoint with the best validation loss, where it is kept and not the last."""
    if not rows or not rows[0].best or not rows[0].last or rows[0].best == rows[0].last:
        return None
    folder = rundir.checkpoints / f"step_{rows[0].best.step}"
    return f"{rundir.checkpoints.name}/{folder.name}" if folder.is_dir() else None


def _charts(stage: Stage, training: Sequence[Record], validation: Sequence[Record]) -> list[Chart]:
    """All curves that have at least one value."""
    names = dict.fromkeys(name for record in training for name in record)
    phases = [name for name in names if name.startswith("time/") and name != "time/step"]
    seconds = [thinned(line(training, n.removeprefix("time/"), n))[0] for n in phases]
    found = [
        *(chart(each.title, _lines(each, training, validation)) for each in stage.measures),
        chart("Learning rate", [line(training, "rate", "learning_rate")]),
        chart("Gradient norm", [line(training, "norm", "grad_norm")]),
        chart("Tokens per second", [line(training, "learn", "tokens_per_s/learn")]),
        chart("Seconds a step, by phase", seconds, duration, stacked=True),
    ]
    return [one for one in found if one]


def _lines(
    measure: Measure, training: Sequence[Record], validation: Sequence[Record]
) -> list[Line]:
    """Means over some steps where there are too many to draw, which the names then say."""
    lines = []
    for side, records in (("training", training), ("validation", validation)):
        for label, metric in measure.metrics.items():
            drawn, steps = thinned(line(records, "", metric))
            means = f"means of {steps} steps" if steps > 1 else ""
            name = ", ".join(filter(None, (label, side, means)))
            lines.append(replace(drawn, name=name))
    return lines


def _rows_read(now: Record) -> int:
    """Over all sources and epochs."""
    return int(
        sum(
            value
            for name, value in now.items()
            if name.startswith("data/") and name.endswith("/rows")
        )
    )


def _fates(now: Record) -> list[Fate]:
    fates = []
    for name, meaning, limit in _FATES:
        rows = int(now.get(f"data/{name.replace(' ', '_')}", 0))
        share = rows / max(_rows_read(now), 1)
        fates.append(Fate(name, rows, share, meaning, alarming=share > limit))
    return fates


def _raised(training: Sequence[Record]) -> list[Alarm]:
    """The loss of the last tenths of the run is above that of an earlier one, by three times the
    noise at least."""
    losses = [r for r in training if math.isfinite(r.get("loss", math.nan))]
    if len(losses) < _PARTS * _PART_STEPS:
        return []
    cuts = [len(losses) * part // _PARTS for part in range(_PARTS + 1)]
    parts = [losses[start:end] for start, end in pairwise(cuts)]
    values = [[record["loss"] for record in part] for part in parts]
    means = [fmean(part) for part in values]
    errors = [stdev(part) / math.sqrt(len(part)) for part in values]
    low = means.index(min(means))
    above = [
        mean - means[low] > 3 * math.hypot(error, errors[low])
        for mean, error in zip(means, errors, strict=True)
    ]
    if low >= _PARTS - _PARTS_RAISED or not all(above[-_PARTS_RAISED:]):
        return []
    levels = [
        f"{number(means[i])} on average over steps {parts[i][0]['step']} to {parts[i][-1]['step']}"
        for i in (low, _PARTS - 1)
    ]
    detail = f"{levels[0]}, {levels[1]}"
    return [Alarm(int(losses[-1]["step"]), "the training loss has risen for long", detail)]


def _worse(rows: Sequence[Row]) -> list[Alarm]:
    if not rows or not rows[0].last or rows[0].verdict != "bad":
        return []
    first, last = rows[0].first, rows[0].last
    detail = f"{number(first.value)} after step {first.step}, {number(last.value)} now"
    return [Alarm(last.step, "the validation loss is worse than at the start", detail)]


def _left_out(now: Record) -> list[Alarm]:
    return [
        Alarm(
            int(now["step"]),
            f"{fate.name}: {fate.rows:,} rows, {percent(fate.share)} of those read",
            fate.meaning,
        )
        for fate in _fates(now)
        if fate.alarming
    ]
