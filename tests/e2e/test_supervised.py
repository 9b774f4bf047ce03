"""Whole supervised runs: driver, Ray Train, Ray Data, DeepSpeed, with a tiny model."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import finish, records, start, steps, train, wait_for_step
from supervised_runs import write_supervised

SFT = {
    "epochs": 6,
    "data": {"validation": {"share": 0.15, "every_steps": 10}},
    "learner": {"zero_stage": 2},
}


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT over six passes of 48 rows, of which some are held out."""
    folder = tmp_path_factory.mktemp("sft")
    train(write_supervised(folder, tiny_model, "sft", **SFT))
    return folder / "run"


def validations(run: Path) -> dict[int, dict[str, Any]]:
    return {r["step"]: r for r in records(run) if "validation/loss" in r}


def test_it_memorises_and_says_so(run: Path) -> None:
    losses = [metrics["loss"] for metrics in steps(run).values()]
    assert losses[0] > 5
    assert losses[-1] < 2
    measured = validations(run)
    assert set(measured) == {0, 10, 20, 30, max(steps(run))}
    last = measured[max(measured)]
    assert last["validation/loss"] < measured[0]["validation/loss"] - 2
    assert last["validation/perplexity"] == pytest.approx(np.exp(last["validation/loss"]), rel=1e-4)
    assert (run / "report.html").exists()


def test_every_training_row_is_seen_once_an_epoch_and_no_held_out_one(run: Path) -> None:
    last = list(steps(run).values())[-1]
    assert last["data/0/rows"] == 6 * 48
    assert last["epoch"] == 6
    held_out = last["data/held_out"] / 6
    assert 0 < held_out < 20
    assert len(steps(run)) == -(-6 * (48 - held_out) // 8)


def test_the_model_answers_as_it_was_taught(run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    turn = [{"role": "user", "content": "Bed 3: dose of insulin?"}]
    ids = tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    answer = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
    assert "mg per day." in tokenizer.decode(answer)
    lineage = json.loads((run / "lineage.json").read_text())
    assert [entry["use"] for entry in lineage["data"]] == ["train"]
    assert lineage["stage"] == "sft"


def test_a_driver_killed_in_mid_epoch_goes_on_exactly(
    run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = write_supervised(tmp_path, tiny_model, "sft", **SFT)
    process = start(config)
    wait_for_step(process, tmp_path / "run", 14)
    process.kill()
    finish(process)

    assert "going on after step" in train(config, "--resume")
    assert steps(tmp_path / "run") == steps(run)
    assert validations(tmp_path / "run").keys() == validations(run).keys()


def test_a_killed_worker_costs_nothing_but_time(
    run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    process = start(write_supervised(tmp_path, tiny_model, "sft", **SFT))
    wait_for_step(process, tmp_path / "run", 14)
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    (worker,) = [
        int(line.split()[0]) for line in listing.stdout.splitlines() if "RayTrainWorker" in line
    ]
    os.kill(worker, signal.SIGKILL)
    status, output = finish(process)
    assert status == 0, output
    assert "a worker died: learner rank 0" in output
    assert steps(tmp_path / "run") == steps(run)


def test_two_workers_learn_what_one_learns(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = {**SFT, "learner": {"zero_stage": 3, "workers": 2}}
    train(write_supervised(tmp_path, tiny_model, "sft", **settings))
    alone, together = steps(run), steps(tmp_path / "run")
    assert alone.keys() == together.keys()
    for step in alone:
        assert together[step]["loss"] == pytest.approx(alone[step]["loss"], abs=2e-4)
        assert together[step]["tokens"] == alone[step]["tokens"]


def test_ctrl_c_leaves_a_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    config = write_supervised(
        tmp_path, tiny_model, "sft", epochs=5000, checkpoint={"every_steps": 100_000}
    )
    process = start(config)
    wait_for_step(process, tmp_path / "run", 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    status, output = finish(process, seconds=20)
    assert status == 130, output
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert str(kept) in output


LORA = {"adaptation": {"kind": "lora", "rank": 4}}


@pytest.mark.parametrize(
    ("stage", "changes", "metric", "bound"),
    [
        ("pt", {}, "loss", -3.0),
        ("rm", {}, "accuracy", 0.95),
        ("dpo", {"model": LORA, "learner": {"learning_rate": 0.01}}, "rewards/accuracy", 0.95),
        ("orpo", {}, "accuracy", 0.95),
        ("kto", {"model": LORA, "learner": {"learning_rate": 0.01}}, "loss", -0.45),
    ],
)
def test_every_stage_learns_its_rows(
    tiny_model: Path, tmp_path: Path, stage: str, changes: dict, metric: str, bound: float
) -> None:
    """`bound`: at least that at the end, or at most where it is negative."""
    settings = {"epochs": 4, "data": {"validation": {"share": 0.1}}, **changes}
    output = train(write_supervised(tmp_path, tiny_model, stage, **settings))
    metrics = list(steps(tmp_path / "run").values())
    assert all(np.isfinite(record["loss"]) and record["grad_norm"] > 0 for record in metrics)
    first, last = metrics[0][metric], metrics[-1][metric]
    assert last >= bound if bound > 0 else last <= -bound, (first, last)
    assert "model:" in output
    measured = validations(tmp_path / "run")
    assert measured[max(measured)]["validation/loss"] < measured[0]["validation/loss"]


def test_precomputed_reference_log_probs_change_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDGPT_CACHE", str(tmp_path / "cache"))
    found = []
    for name, reference in (("live", {}), ("ahead", {"precompute": True})):
        config = write_supervised(tmp_path / name, tiny_model, "dpo", epochs=1, reference=reference)
        train(config)
        found.append(steps(tmp_path / name / "run"))
    assert len(list((tmp_path / "cache" / "reference").iterdir())) == 1
    for step, live in found[0].items():
        assert found[1][step]["loss"] == pytest.approx(live["loss"], abs=1e-5)
