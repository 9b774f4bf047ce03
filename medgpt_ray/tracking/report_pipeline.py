"""The summary of a pipeline: what each stage gained, with the way to its own report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgpt_ray.config.schema import RlRun
from medgpt_ray.tracking import report_rl, report_supervised
from medgpt_ray.tracking.format import number
from medgpt_ray.tracking.measures import STAGES
from medgpt_ray.tracking.metrics import read_metrics
from medgpt_ray.tracking.report import templates
from medgpt_ray.tracking.rundir import RunDirectory, write_atomically
from medgpt_ray.tracking.statistics import Interval

MEASURES_SHOWN = 2


@dataclass(frozen=True)
class Gain:
    """One measure of a stage, before and after, and whether the change is to the good.

    Example: `Gain("Perplexity", "17.2", "15.4", "-1.8", "good")`
    """

    name: str
    before: str
    after: str = ""
    change: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Summary:
    name: str
    title: str
    state: str
    """`done`, `not finished` or `not begun`."""
    steps: int
    seconds: float
    gains: tuple[Gain, ...]
    alarms: int
    report: str
    """Its report, from the folder of the summary; empty where there is none yet."""


def summarise(name: str, rundir: RunDirectory) -> Summary:
    """Everything is read from the run directory."""
    if not rundir.holds_run:
        return Summary(name, "", "not begun", 0, 0.0, (), 0, "")
    config, records = rundir.read_config(), read_metrics(rundir.metrics)
    if isinstance(config, RlRun):
        page = report_rl.page(rundir, config, records)
        title, gains = config.algorithm.name.upper(), _rewards(page.values["comparisons"])
    else:
        page = report_supervised.page(rundir, config, records)
        title, gains = STAGES[config.stage].title, _validation(page.values["rows"])
    steps = [record for record in records if "time/step" in record]
    done = rundir.model.is_dir() and rundir.report.exists()
    return Summary(
        name,
        title,
        "done" if done else "not finished",
        int(max((record["step"] for record in steps), default=0)),
        sum(record["time/step"] for record in steps),
        gains,
        len(page.alarms),
        f"{name}/{rundir.report.name}" if rundir.report.exists() else "",
    )


def write_pipeline_report(output_dir: Path, stages: Sequence[Summary]) -> Path:
    """`report.html` of the whole; those of the stages lie in their folders."""
    html = (
        templates()
        .get_template("report_pipeline.html.j2")
        .render(
            name=output_dir.resolve().name,
            stages=stages,
            source=(output_dir / "pipeline.yaml").read_text(encoding="utf-8"),
        )
    )
    path = output_dir / "report.html"
    write_atomically(path, html)
    return path


def _rewards(comparisons: Sequence[report_rl.Comparison]) -> tuple[Gain, ...]:
    """The held-out reward with its 95% intervals; that of the change pairs the questions."""
    if not comparisons:
        return ()
    reward = comparisons[0]
    if not reward.after or not reward.difference:
        return (Gain("Held-out reward", _interval(reward.before)),)
    change = reward.difference
    verdict = "good" if change.low > 0 else "bad" if change.high < 0 else ""
    return (
        Gain(
            "Held-out reward",
            _interval(reward.before),
            _interval(reward.after),
            _interval(change, sign=True),
            verdict,
        ),
    )


def _validation(rows: Sequence[report_supervised.Row]) -> tuple[Gain, ...]:
    return tuple(
        Gain(
            f"Validation: {row.name}",
            number(row.first.value),
            number(row.last.value) if row.last else "",
            _signed(row.last.value - row.first.value) if row.last else "",
            row.verdict,
        )
        for row in rows[:MEASURES_SHOWN]
    )


def _interval(value: Interval, sign: bool = False) -> str:
    mean = _signed(value.mean) if sign else number(value.mean)
    return f"{mean} [{number(value.low)}, {number(value.high)}]"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"
