"""A whole pipeline of tiny runs: SFT, a reward model from it, PPO from both; killed and resumed."""

import json
import re
from pathlib import Path

import pytest
from runs import finish, start, steps, train, wait_for_step, write_run
from supervised_runs import write_supervised

PPO = {
    "stage": "ppo",
    "steps": 40,
    "rewards": [],
    "algorithm": {"prompts_per_step": 4, "completions_per_prompt": 1},
    "checkpoint": {"every_steps": 2},
}


def write_pipeline(folder: Path, tiny: Path) -> Path:
    once = {"epochs": 1, "data": {"validation": {"share": 0.2}}}
    stages = [
        {"name": "sft", "config": str(write_supervised(folder / "a", tiny, "sft", **once))},
        {
            "name": "rm",
            "config": str(write_supervised(folder / "b", tiny, "rm", **once)),
            "model": "sft",
        },
        {
            "name": "ppo",
            "config": str(write_run(folder / "c", tiny, **PPO)),
            "model": "sft",
            "reward_model": "rm",
            "overrides": {"steps": 8},
        },
    ]
    pipeline = {"stage": "pipeline", "output_dir": str(folder / "out"), "stages": stages}
    (folder / "pipeline.yaml").write_text(json.dumps(pipeline, indent=1))
    return folder / "pipeline.yaml"


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output directory, and what the command that finished the pipeline printed."""
    folder = tmp_path_factory.mktemp("pipeline")
    config = write_pipeline(folder, tiny_model)
    process = start(config)
    wait_for_step(process, folder / "out" / "ppo", 3)
    process.kill()
    finish(process)
    return folder / "out", train(config, "--resume")


def lineage(run: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((run / "lineage.json").read_text())
    return found


def test_each_stage_starts_from_the_one_before(run: tuple[Path, str]) -> None:
    out, _ = run
    assert lineage(out / "rm")["parent"] == lineage(out / "ppo")["parent"] == str(out / "sft")
    config = (out / "ppo" / "config.yaml").read_text()
    assert f"path: {out}/rm" in config
    assert len(steps(out / "ppo")) == 8


def test_what_was_done_is_not_done_again(run: tuple[Path, str]) -> None:
    out, printed = run
    assert "stage 1 of 3: sft (done already)" in printed
    assert "stage 2 of 3: rm (done already)" in printed
    assert "resumed after step 2" in printed
    assert list(steps(out / "sft")) == [*range(1, len(steps(out / "sft")) + 1)]


def test_one_report_sums_it_up(run: tuple[Path, str]) -> None:
    out, printed = run
    html = (out / "report.html").read_text()
    assert "3 of 3 stages done" in html
    for stage in ("sft", "rm", "ppo"):
        assert f'<a href="{stage}/report.html">{stage}</a>' in html
        assert (out / stage / "report.html").is_file()
    assert "Pairs in the right order" in html
    assert re.search(r"ppo: Held-out reward \S+ \[\S+ \S+\] -> \S+ \[", printed)
    assert re.search(r"sft: Validation: Loss [\d.]+ -> [\d.]+ \(-", printed)
    assert (out / "pipeline.yaml").is_file()
