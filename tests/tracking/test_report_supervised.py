import html
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from medgpt_ray.actors.stages import STAGES as TRAINED_STAGES
from medgpt_ray.config.run import RunConfig
from medgpt_ray.tracking.measures import STAGES
from medgpt_ray.tracking.metrics import MetricsLog, Record
from medgpt_ray.tracking.report import write_report
from medgpt_ray.tracking.rundir import RunDirectory, file_sha256

MakeRun = Callable[..., RunDirectory]
Validations = dict[int, dict[str, float]]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(stage: str, **sections: Any) -> RunDirectory:
        file = tmp_path / "notes.jsonl"
        file.write_text('{"text": "Pain since Monday."}\n')
        data = {
            "train": [{"path": str(file)}, {"path": "dialogues.jsonl", "weight": 2}],
            "max_tokens": 512,
            "validation": {"share": 0.1},
        }
        values = {
            "stage": stage,
            "output_dir": str(tmp_path / "run"),
            "model": {"path": "models/base"},
            "data": data | sections.pop("data", {}),
        }
        config = TypeAdapter(RunConfig).validate_python(values | sections)
        hashes = {"train": {str(file): file_sha256(file)}}
        return RunDirectory.create(values["output_dir"], config, "", hashes, {})

    return make


def step_metrics(progress: float) -> dict[str, float]:
    """What every stage records of a step."""
    return {
        "grad_norm": 1.5,
        "learning_rate": 1e-5,
        "tokens/learned": 4000.0,
        "tokens_per_s/learn": 1000.0,
        "time/data": 0.5,
        "time/learn": 4.0,
        "time/step": 4.5,
        "progress": progress,
        "epoch": progress,
        "data/0/rows": 600.0,
        "data/1/rows": 400.0,
        "data/rejected": 0.0,
        "data/dropped": 7.0,
        "data/held_out": 100.0,
        "data/near_duplicates": 0.0,
    }


def stage_metrics(stage: str, value: float) -> dict[str, float]:
    """The metrics that the workers of a stage make of their sums, all of one value."""
    per = TRAINED_STAGES[stage].per
    sums = {"loss": value, **dict.fromkeys(per, value), **dict.fromkeys(per.values(), 1.0)}
    return TRAINED_STAGES[stage].means(sums) | dict.fromkeys(per.values(), 32.0)


def logged(run: RunDirectory, losses: list[float], validation: Validations, **last: float) -> None:
    """A step for each loss, of which the last has other metrics `last` too."""
    log = MetricsLog(run, tensorboard=False, resume_after=None)
    for step in range(len(losses) + 1):
        if step:
            metrics = step_metrics(step / len(losses)) | {"loss": losses[step - 1]}
            log.log(step, metrics | (last if step == len(losses) else {}))
        if step in validation:
            measured = validation[step]
            log.log(step, {f"validation/{name}": value for name, value in measured.items()})
    log.close()


def words(run: RunDirectory) -> str:
    """The text of the page as one reads it, without pictures and configuration."""
    page = write_report(run).read_text(encoding="utf-8")
    text = re.sub(r"(?s)<(style|svg|pre).*?</\1>|<[^>]+>", " ", page)
    return " ".join(html.unescape(text).split())


def test_every_measure_is_a_metric_of_its_stage() -> None:
    assert STAGES.keys() == TRAINED_STAGES.keys()
    for name, stage in STAGES.items():
        for measure in stage.measures:
            assert set(measure.metrics.values()) <= stage_metrics(name, 0.5).keys(), name


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_report(make_run: MakeRun, stage: str) -> None:
    run = make_run(stage)
    log = MetricsLog(run, tensorboard=False, resume_after=None)
    for step, value in enumerate([0.7, 0.6, 0.5]):
        measured = stage_metrics(stage, value)
        if step:
            log.log(step, step_metrics(step / 4) | measured)
        log.log(step, {f"validation/{name}": value for name, value in measured.items()})
    log.close()
    found = words(run)
    assert f"{stage.upper()} run run 2 steps, 0.500 of 1 epochs, 9.00 s in them" in found
    assert f"Stage {STAGES[stage].title}" in found
    assert "Validation loss 0.700 → 0.500" in found
    assert "Loss 0.700 step 0 0.500 step 2 0.500 step 2 -0.200" in found
    assert re.search(r"never trained on: 32 (tokens|pairs|examples)\.", found)
    curves = found[found.index("Curves") :]
    for measure in STAGES[stage].measures:
        for label in measure.metrics:
            row = f"{measure.title}, {label}" if label else measure.title
            assert re.search(rf"{row} [\d.]+ step 0 ", found), row
            side = f"{label}, " if label else ""
            assert re.search(rf"{measure.title} .*{side}training [\d.]+ .*{side}validation", curves)
    for title in ("Learning rate", "Gradient norm", "Tokens per second", "Seconds a step"):
        assert title in curves
    assert "notes.jsonl auto 1 600 dialogues.jsonl auto 2 400" in found
    assert "held out 100 10% measured" in found
    assert "None: all numbers are finite" in found


def test_the_best_validation_is_not_the_last(make_run: MakeRun) -> None:
    run = make_run("sft")
    validation = {
        0: {"loss": 3.0, "accuracy": 0.25, "tokens": 64.0},
        1: {"loss": 2.0, "accuracy": 0.75, "tokens": 64.0},
        2: {"loss": 2.5, "accuracy": 0.5, "tokens": 64.0},
    }
    logged(run, [2.9, 2.1], validation)
    found = words(run)
    assert "First Best Last Change" in found
    assert "Loss 3 step 0 2 step 1 2.5 step 2 -0.500" in found
    assert "Token accuracy 0.250 step 0 0.750 step 1 0.500 step 2 +0.250" in found
    assert "keeps that model" not in found
    (run.checkpoints / "step_1").mkdir()
    expected = "The loss was at its best after step 1: checkpoints/step_1 keeps that model."
    assert expected in words(run)
    assert "Loss training 2.1 validation 2.5" in found  # in one picture


def test_the_words_tell_how_far_the_run_is(make_run: MakeRun) -> None:
    run = make_run("pt", steps=2500)
    assert "No steps yet" in words(run)
    assert "There is no validation yet." in words(run)
    assert "No steps are recorded yet." in words(run)
    logged(run, [3.0] * 1200, {0: {"loss": 3.0}})
    found = words(run)
    assert "1,200 of 2,500 steps, 1 epochs, 1h 30m in them" in found
    assert "There is no validation after training yet." in found
    assert "Best" not in found


def test_a_run_without_validation_rows_says_so(make_run: MakeRun) -> None:
    run = make_run("sft", data={"validation": {}})
    logged(run, [3.0, 2.0], {})
    found = words(run)
    assert "This run has no validation rows" in found
    assert "Loss training 2 Learning" in found


@pytest.mark.parametrize(
    ("stage", "sections", "expected"),
    [
        ("rm", {}, "Objective centring 0.0"),
        ("dpo", {}, "label_smoothing 0.0 Reference the model before training"),
        ("dpo", {"objective": {"kind": "simpo"}}, "Objective kind simpo, beta 2.0, margin 1.0"),
        ("kto", {"reference": {"path": "models/other"}}, "Reference models/other"),
    ],
)
def test_the_head_tells_what_ran(
    make_run: MakeRun, stage: str, sections: dict[str, Any], expected: str
) -> None:
    found = words(make_run(stage, **sections))
    assert expected in found
    assert "Model models/base (full, auto) Data, train " in found
    assert "notes.jsonl (sha256 " in found
    assert ("Reference" in found) == ("Reference" in expected)


def alarms(run: RunDirectory) -> str:
    return words(run).partition(" Alarms ")[2].removeprefix("Step What ")


def noisy(levels: list[float]) -> list[float]:
    draw = random.Random(0)
    return [level + draw.gauss(0, 0.1) for level in levels]


FLAT = [2.0] * 100
FALLING = [3.0 - step / 100 for step in range(100)]
VALLEY = [2.0 + abs(step - 40) / 60 for step in range(100)]
SPIKE = [2.0 + (2.0 if 40 <= step < 60 else 0.0) for step in range(100)]


@pytest.mark.parametrize("levels", [FLAT, FALLING, SPIKE, VALLEY[:45]])
def test_noise_and_a_passing_spike_are_no_rise(make_run: MakeRun, levels: list[float]) -> None:
    run = make_run("sft")
    logged(run, noisy(levels), {})
    assert alarms(run).startswith("None: all numbers are finite, no loss has risen")


def test_a_loss_that_rises_for_long_is_an_alarm(make_run: MakeRun) -> None:
    run = make_run("sft")
    logged(run, noisy(VALLEY), {})
    found = alarms(run)
    assert "100 the training loss has risen for long" in found
    assert re.search(r"2\.\d+ on average over steps 31 to 40, 2\.\d+ .* steps 91 to 100", found)


def test_a_validation_that_ends_worse_than_it_began_is_an_alarm(make_run: MakeRun) -> None:
    run = make_run("sft")
    logged(run, [2.0, 2.0], {0: {"loss": 2.0}, 1: {"loss": 1.5}, 2: {"loss": 2.25}})
    expected = "2 the validation loss is worse than at the start 2 after step 0, 2.25 now"
    assert expected in alarms(run)


def test_numbers_that_are_not_finite_are_alarms(make_run: MakeRun) -> None:
    run = make_run("sft")
    logged(run, [2.0, math.nan], {0: {"loss": 2.0}, 2: {"loss": math.nan}})
    found = words(run)
    assert "2 not a finite number loss 2 not a finite number validation/loss" in found
    assert "Loss 2 step 0 2 step 0 not finite step 2" in found


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"data/rejected": 60.0}, "3 rejected: 60 rows, 6.0% of those read cannot be read"),
        ({"data/dropped": 800.0}, "3 dropped: 800 rows, 80% of those read valid, but too long"),
        ({"data/cut": 80.0}, "3 cut: 80 rows, 8.0% of those read trained on without their last"),
        ({"data/near_duplicates": 1.0}, "3 near duplicates: 1 rows, 0.1% of those read trained on"),
        ({"data/rejected": 50.0, "data/dropped": 50.0, "data/held_out": 900.0}, "None: "),
    ],
)
def test_rows_that_go_missing_are_alarms(make_run: MakeRun, counts: Record, expected: str) -> None:
    run = make_run("sft")
    logged(run, [2.0, 2.0, 2.0], {}, **counts)
    assert alarms(run).startswith(expected)


def test_rejected_rows_can_be_looked_up(make_run: MakeRun) -> None:
    run = make_run("sft")
    assert "rejected.jsonl" not in words(run)
    (run.path / "rejected.jsonl").touch()
    assert "The rejected rows are in rejected.jsonl, each with its reason." in words(run)


def test_a_long_run_is_drawn_as_means(make_run: MakeRun) -> None:
    run = make_run("sft")
    logged(run, noisy([2.0] * 4000), {0: {"loss": 2.0}, 4000: {"loss": 1.0}})
    assert re.search(r"Loss training, means of 10 steps [12]\.?\d* validation 1 ", words(run))
    assert run.report.stat().st_size < 500_000


def test_names_of_files_are_text(make_run: MakeRun) -> None:
    run = make_run("sft", data={"train": [{"path": "<script>alert(1)</script>"}]})
    page = write_report(run).read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2  # data, configuration
