"""A pipeline is checked as a whole before anything starts, and told what each stage starts from."""

import json
from pathlib import Path
from typing import Any

import pytest
from supervised_runs import write_supervised
from typer.testing import CliRunner

from medgpt_ray.cli import app

Change = dict[str, Any]


def medgpt(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    for stage in ("sft", "rm", "dpo"):
        write_supervised(tmp_path / stage, tiny_model, stage)
    return tmp_path


def write(folder: Path, *stages: Change) -> Path:
    """YAML in which a stage takes a line, the first of them the fourth."""
    lines = [
        json.dumps({"config": str(folder / stage["name"] / "run.yaml"), **stage})
        for stage in stages
    ]
    head = f"stage: pipeline\noutput_dir: {folder}/out\nstages:\n"
    (folder / "pipeline.yaml").write_text(head + "".join(f"- {line}\n" for line in lines))
    return folder / "pipeline.yaml"


SFT, RM, DPO = {"name": "sft"}, {"name": "rm", "model": "sft"}, {"name": "dpo", "model": "sft"}


def test_a_dry_run_shows_the_stages_and_starts_nothing(folder: Path, tiny_model: Path) -> None:
    status, output, errors = medgpt("train", write(folder, SFT, RM, DPO), "--dry-run")
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"sft: sft, {folder}/sft/run.yaml, model from {tiny_model}: not begun"
    assert lines[1] == f"rm: rm, {folder}/rm/run.yaml, model from stage sft: not begun"
    assert lines[2] == f"dpo: dpo, {folder}/dpo/run.yaml, model from stage sft: not begun"
    assert output.count("106,816 parameters") == 3
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("stages", "line", "problem"),
    [
        ([RM, SFT], 4, "stages.0.model: 'sft' is no earlier stage, there are none"),
        ([SFT, {**RM, "model": "stf"}], 5, "stages.1.model: 'stf' is no earlier stage, those are"),
        ([SFT, {**DPO, "name": "sft"}], 5, "stages.1.name: 'sft' is the name of two stages"),
        ([{**SFT, "name": "a/b"}], 4, "stages.0.name: expected text"),
        ([{**SFT, "modle": "x"}], 4, "stages.0.modle: unknown field, did you mean 'model'?"),
        (
            [SFT, RM, {**DPO, "model": "rm"}],
            6,
            "stage dpo: model: stage rm makes a reward model, which writes no text",
        ),
        (
            [SFT, {**DPO, "overrides": {"learner": {"lerning_rate": 1}}}],
            5,
            "stage dpo: learner.lerning_rate: unknown field, did you mean 'learning_rate'?",
        ),
        (
            [SFT, {**DPO, "overrides": {"output_dir": "elsewhere"}}],
            5,
            "stage dpo: output_dir: given twice, keep one",
        ),
        (
            [{**SFT, "config": "demo/ppo-pipeline"}],
            4,
            "stage sft: config: demo/ppo-pipeline is a pipeline itself: name its stages here",
        ),
        ([{**SFT, "config": "nowhere.yaml"}], 4, "stage sft: nowhere.yaml: no such file or preset"),
    ],
)
def test_mistakes_are_told_where_they_are(
    folder: Path, stages: list[Change], line: int, problem: str
) -> None:
    file = write(folder, *stages)
    status, _, errors = medgpt("train", file, "--dry-run")
    assert status == 2
    assert len(errors.splitlines()) == 1
    assert errors.startswith(f"{file}:{line}: {problem}")


def test_later_stages_are_checked_before_the_first_one_starts(folder: Path) -> None:
    """Data of the third, a setting of the second that the machine shows."""
    missing = {"data": {"train": [{"path": "nowhere.jsonl"}]}}
    masters = {"learner": {"zero_stage": 0}, "model": {"dtype": "bfloat16"}}
    file = write(folder, SFT, {**RM, "overrides": masters}, {**DPO, "overrides": missing})
    status, _, errors = medgpt("train", file)
    assert status == 2
    first, second = errors.splitlines()
    assert first.startswith(f"{file}:5: stage rm: learner.zero_stage: 0 keeps no float32 masters")
    assert second.startswith(f"{file}:6: stage dpo: nowhere.jsonl: no such file")
    assert not (folder / "out").exists()


def test_resume_and_what_is_there(folder: Path) -> None:
    file = write(folder, SFT, RM)
    status, _, errors = medgpt("train", file, "--resume")
    assert status == 2
    assert "holds no stage to resume: leave --resume out" in errors
    (folder / "out" / "sft").mkdir(parents=True)
    (folder / "out" / "sft" / "config.yaml").write_text("stage: sft\n")
    status, _, errors = medgpt("train", file)
    assert status == 2
    assert "already holds stages of a pipeline (sft): continue it with --resume" in errors


def test_a_finished_stage_must_be_the_one_of_the_file(folder: Path, tiny_model: Path) -> None:
    from medgpt_ray.config.loader import load
    from medgpt_ray.config.stages import expand
    from medgpt_ray.tracking.rundir import RunDirectory

    file = write(folder, SFT, RM)
    sft = expand(load(file))[0].loaded
    run = RunDirectory.create(folder / "out" / "sft", sft.config, sft.source, {}, {})
    (run.model).symlink_to(tiny_model)
    run.report.write_text("")
    status, output, errors = medgpt("train", file, "--resume", "--dry-run")
    assert (status, errors) == (0, "")
    assert output.splitlines()[0].endswith(": done")
    status, _, errors = medgpt("train", file, "stages.0.overrides.epochs=3.0", "--resume")
    assert status == 2
    assert errors == (
        "command line: stage sft: epochs: is 3.0, but the stage was done with 2.0: put that back, "
        "or choose another output_dir\n"
    )
