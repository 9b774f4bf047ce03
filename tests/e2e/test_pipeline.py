"""A whole pipeline of tiny runs: a reward model, and GRPO towards it; killed and resumed."""

import json
import re
from pathlib import Path

import pytest
from runs import finish, records, start, steps, train_here, wait_for_step, write_run
from supervised_runs import write_supervised


def write_pipeline(folder: Path, tiny: Path) -> Path:
    rm = write_supervised(folder / "a", tiny, "rm", epochs=1, data={"validation": {"share": 0.2}})
    grpo = write_run(folder / "b", tiny, rewards=[], steps=40)
    stages = [
        {"name": "scorer", "config": str(rm)},
        {
            "name": "grpo",
            "config": str(grpo),
            "reward_model": "scorer",
            "overrides": {"steps": 8},
        },
    ]
    pipeline = {"stage": "pipeline", "output_dir": str(folder / "out"), "stages": stages}
    (folder / "pipeline.yaml").write_text(json.dumps(pipeline, indent=1))
    return folder / "pipeline.yaml"


@pytest.fixture(scope="module")
def run(
    ray_here: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The output directory, and what the command that finished the pipeline printed."""
    folder = tmp_path_factory.mktemp("pipeline")
    config = write_pipeline(folder, tiny_model)
    process = start(config)
    wait_for_step(process, folder / "out" / "grpo", 3)
    process.kill()
    finish(process)
    return folder / "out", train_here(config, resume=True)


def test_a_stage_gets_what_an_earlier_one_made(run: tuple[Path, str]) -> None:
    out, _ = run
    assert f"path: {out}/scorer" in (out / "grpo" / "config.yaml").read_text()
    metrics = steps(out / "grpo")
    assert list(metrics) == [*range(1, 9)]
    assert len({record["reward/mean"] for record in metrics.values()}) > 1
    heldout = [r["heldout/reward"] for r in records(out / "grpo") if "heldout/reward" in r]
    assert len(heldout) == 2
    assert all(heldout), "the reward model scores the held-out answers too"


def test_what_was_done_is_not_done_again(run: tuple[Path, str]) -> None:
    out, printed = run
    assert "stage 1 of 2: scorer (done already)" in printed
    assert "resumed after step 2" in printed
    trained = steps(out / "scorer")
    assert list(trained) == [*range(1, len(trained) + 1)]


def test_one_report_sums_it_up(run: tuple[Path, str]) -> None:
    out, printed = run
    html = (out / "report.html").read_text()
    assert "2 of 2 stages done" in html
    for stage in ("scorer", "grpo"):
        assert f'<a href="{stage}/report.html">{stage}</a>' in html
        assert (out / stage / "report.html").is_file()
    assert "Pairs in the right order" in html
    assert re.search(r"grpo: Held-out reward \S+ \[\S+ \S+\] -> \S+ \[", printed)
    assert re.search(r"scorer: Validation: Loss [\d.]+ -> [\d.]+", printed)
    assert (out / "pipeline.yaml").is_file()
