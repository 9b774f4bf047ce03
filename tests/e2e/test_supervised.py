"""Whole supervised runs: driver, Ray Train, Ray Data, DeepSpeed, with a tiny model."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from runs import SECONDS, called, finish, merged, records, start, steps, wait_for_step
from supervised_runs import conversations, write_supervised

from medgpt_ray import supervised
from medgpt_ray.actors.cluster import ray_cluster
from medgpt_ray.actors.wait import RunFailed
from medgpt_ray.config.loader import load
from medgpt_ray.config.schema import Cluster
from medgpt_ray.interrupt import Interrupted
from medgpt_ray.tracking.checkpoints import Checkpoints

SFT = {
    "epochs": 6,
    "data": {"validation": {"share": 0.15, "every_steps": 10}},
    "learner": {"zero_stage": 2},
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all runs of this process: their workers start the faster."""
    with ray_cluster(Cluster(cpus=4)):
        yield


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def train_here(config: Path) -> Path:
    """Run the configuration in this process; returns the run directory."""
    loaded = load(config)
    supervised.train(loaded.config, loaded.source, resume=False)
    return Path(loaded.config.output_dir)


@pytest.fixture(scope="module")
def run(cluster: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT over six passes of 48 rows, of which some are held out."""
    return train_here(write_supervised(tmp_path_factory.mktemp("sft"), tiny_model, "sft", **SFT))


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
    assert list(lineage["weights"]["model.path"]) == ["model.safetensors"]
    assert lineage["stage"] == "sft"


def test_a_driver_killed_and_a_run_interrupted_go_on_exactly(
    run: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tight = {"learner": {"cpus": 0.5}, "data": {"cpus": 0.5}, "cluster": {"cpus": 1}}
    config = write_supervised(tmp_path, tiny_model, "sft", **merged(SFT, tight))
    process = start(config)
    wait_for_step(process, tmp_path / "run", 9)
    process.kill()
    finish(process)
    loaded = load(config)

    def interrupt() -> None:
        wait_until(lambda: 17 in steps(tmp_path / "run"))
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(Interrupted):
        supervised.train(loaded.config, loaded.source, resume=True)
    watcher.join()
    kept = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert int(kept.name.removeprefix("step_")) >= 17
    output = capsys.readouterr().out
    assert "going on after step" in output
    assert str(kept) in output
    supervised.train(loaded.config, loaded.source, resume=True)
    assert steps(tmp_path / "run") == steps(run)
    assert validations(tmp_path / "run").keys() == validations(run).keys()


def test_an_interrupt_before_the_first_step_is_not_waited_for(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_supervised(tmp_path, tiny_model, "sft", **SFT)
    asked: list[float] = []

    def interrupt() -> None:
        wait_until((tmp_path / "run" / "logs" / "learner-0.log").exists)
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(Interrupted):
        train_here(config)
    assert time.monotonic() - asked[0] < supervised.SAVE_AFTER_INTERRUPT_S
    watcher.join()
    assert "there is no checkpoint yet" in capsys.readouterr().out
    wait_until(lambda: not called("RayTrainWorker", psutil.Process().children(recursive=True)))
    assert time.monotonic() - asked[0] < 20, "nobody trains on for nobody"


def test_a_killed_worker_costs_nothing_but_time(
    run: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def kill() -> None:
        wait_until(lambda: 14 in steps(tmp_path / "run"))
        (worker,) = called("RayTrainWorker", psutil.Process().children(recursive=True))
        worker.kill()

    config = write_supervised(tmp_path, tiny_model, "sft", **SFT)
    killer = threading.Thread(target=kill)
    killer.start()
    train_here(config)
    killer.join()
    assert "a worker died: learner rank 0" in capsys.readouterr().out
    assert steps(tmp_path / "run") == steps(run)


def test_two_workers_learn_what_one_learns(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = {**SFT, "learner": {"zero_stage": 3, "workers": 2}}
    train_here(write_supervised(tmp_path, tiny_model, "sft", **settings))
    alone, together = steps(run), steps(tmp_path / "run")
    assert alone.keys() == together.keys()
    for step in alone:
        assert together[step]["loss"] == pytest.approx(alone[step]["loss"], abs=2e-4)
        assert together[step]["tokens"] == alone[step]["tokens"]


LORA = {"adaptation": {"kind": "lora", "rank": 4}}


@pytest.fixture(scope="module")
def preferred(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DPO with LoRA on the SFT run, with a token more."""
    return learned(run, tmp_path_factory.mktemp("dpo"), "dpo", **DPO)


DPO = {
    "model": {**LORA, "new_tokens": ["<|dose|>"]},
    "learner": {"learning_rate": 0.01},
    "epochs": 2,
}


def learned(base: Path, folder: Path, stage: str, **changes: Any) -> Path:
    settings = {"epochs": 4, "data": {"validation": {"share": 0.1}}, **changes}
    return train_here(write_supervised(folder, base, stage, **settings))


@pytest.mark.parametrize(
    ("stage", "changes", "metric", "bound"),
    [
        ("pt", {}, "loss", -3.6),
        ("orpo", {}, "accuracy", 0.95),
        ("kto", {"model": LORA, "learner": {"learning_rate": 0.01}}, "loss", -0.45),
    ],
)
def test_a_stage_learns_its_rows(
    tiny_model: Path, tmp_path: Path, stage: str, changes: dict, metric: str, bound: float
) -> None:
    """`bound`: at least that at the end, or at most where it is negative."""
    check_learned(learned(tiny_model, tmp_path, stage, **changes), metric, bound)


def check_learned(run: Path, metric: str, bound: float) -> None:
    metrics = list(steps(run).values())
    assert all(np.isfinite(record["loss"]) and record["grad_norm"] > 0 for record in metrics)
    first, last = metrics[0][metric], metrics[-1][metric]
    assert last >= bound if bound > 0 else last <= -bound, (first, last)
    measured = validations(run)
    assert measured[max(measured)]["validation/loss"] < measured[0]["validation/loss"]


def test_a_reward_model_is_made_of_an_sft_run(run: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    made = learned(run, tmp_path, "rm", epochs=2)
    check_learned(made, "accuracy", 0.95)
    assert json.loads((made / "lineage.json").read_text())["parent"] == str(run)
    scorer = AutoModelForSequenceClassification.from_pretrained(made / "model")
    assert scorer.config.num_labels == 1


def test_dpo_continues_an_sft_run_and_keeps_its_adapter(run: Path, preferred: Path) -> None:
    from transformers import AutoTokenizer

    check_learned(preferred, "rewards/accuracy", 0.95)
    assert json.loads((preferred / "lineage.json").read_text())["parent"] == str(run)
    assert "<|dose|>" in AutoTokenizer.from_pretrained(preferred / "model").get_vocab()
    checkpoint = Checkpoints(preferred / "checkpoints").latest()
    assert (checkpoint / "adapter" / "adapter_config.json").is_file()


def test_precomputed_reference_log_probs_change_nothing(
    run: Path, preferred: Path, tmp_path: Path
) -> None:
    ahead = steps(learned(run, tmp_path, "dpo", **DPO, reference={"precompute": True}))
    live = steps(preferred)
    assert live.keys() == ahead.keys()
    for step in live:
        assert ahead[step]["loss"] == pytest.approx(live[step]["loss"], abs=1e-4)


def test_bad_rows_end_the_run_with_their_names(tiny_model: Path, tmp_path: Path) -> None:
    rows = [*conversations(20), {"conversations": []}]
    config = write_supervised(tmp_path, tiny_model, "sft", rows=rows)
    with pytest.raises(RunFailed, match=r"train.jsonl:21: conversations: "):
        train_here(config)


def test_patience_ends_a_run_and_publishes_the_best(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate that soon is too large: what is learned of the rows is not what is measured."""
    rows = conversations(40)
    unlike = [
        {"conversations": [*row["conversations"][:1], {"from": "gpt", "value": "Ask a doctor."}]}
        for row in conversations(60)[40:]
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unlike))
    validation = {"path": str(tmp_path / "own.jsonl"), "every_steps": 2, "patience": 2}
    settings = {"epochs": 20, "data": {"validation": validation}, "checkpoint": {"keep_last": 1}}
    config = write_supervised(tmp_path, tiny_model, "sft", rows=rows, **settings)
    run = train_here(config)
    losses = {step: found["validation/loss"] for step, found in validations(run).items()}
    best, last = min(losses, key=losses.__getitem__), max(losses)
    assert last == best + 4 < 100
    assert f", of step_{best}\n" in capsys.readouterr().out
    kept = (run / "checkpoints" / f"step_{best}" / "model" / "model.safetensors").read_bytes()
    assert (run / "model" / "model.safetensors").read_bytes() == kept
    newest = (run / "checkpoints" / f"step_{last}" / "model" / "model.safetensors").read_bytes()
    assert newest != kept
