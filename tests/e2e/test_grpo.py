"""Whole runs: driver, vLLM engine, DeepSpeed learner, Ray, with a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import finish, merged, records, start, steps, train_here, wait_for_step, write_run

from medgpt_ray.tracking.samples import read_samples

pytestmark = pytest.mark.usefixtures("ray_here")

LEARNS = {
    "steps": 20,
    "algorithm": {"prompts_per_step": 6, "completions_per_prompt": 6},
    "learner": {"learning_rate": 0.01, "zero_stage": 2},
    "checkpoint": {"every_steps": 5, "keep_last": 1},
    "evaluation": {"every_steps": 5},
}


@pytest.fixture(scope="module")
def run(ray_here: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps that share of vowels can be learned in."""
    folder = tmp_path_factory.mktemp("learns")
    train_here(write_run(folder, tiny_model, **LEARNS))
    return folder / "run"


def kill_and_resume(folder: Path, tiny_model: Path, settings: dict, step: int) -> None:
    """The same run, killed with its driver after `step`, and resumed."""
    config = write_run(folder, tiny_model, **settings)
    process = start(config)
    wait_for_step(process, folder / "run", step)
    process.kill()
    finish(process)
    assert "resumed after step" in train_here(config, resume=True)


def test_a_killed_run_goes_on_exactly(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    """One rank, ZeRO-2, with held-out evaluations."""
    kill_and_resume(tmp_path, tiny_model, LEARNS, step=7)
    assert steps(tmp_path / "run") == steps(run)
    scores = [
        {r["step"]: r["heldout/reward"] for r in records(folder) if "heldout/reward" in r}
        for folder in (tmp_path / "run", run)
    ]
    assert scores[0] == scores[1]


def test_colocated_engines_change_nothing(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Engine and learner take six cores each, of the eight that there are."""
    settings = merged(
        LEARNS,
        {
            "steps": 6,
            "learner": {"cpus": 6},
            "rollout": {"cpus": 6, "colocated": True},
        },
    )
    train_here(write_run(tmp_path, tiny_model, **settings))
    assert list(steps(tmp_path / "run").values()) == list(steps(run).values())[:6]


def test_the_lineage_has_what_it_was_made_of(run: Path) -> None:
    lineage = json.loads((run / "lineage.json").read_text())
    assert [entry["use"] for entry in lineage["data"]] == ["train", "heldout"]
    assert list(lineage["weights"]["model.path"]) == ["model.safetensors"]


def test_the_reward_rises(run: Path) -> None:
    rewards = [metrics["reward/mean"] for metrics in steps(run).values()]
    assert len(rewards) == 20
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.15


def test_learner_and_engine_agree_after_every_sync(run: Path) -> None:
    for metrics in steps(run).values():
        assert metrics["logprob_difference/max"] <= 1e-4
        assert metrics["staleness/max"] == 0


def test_every_sample_is_on_record_with_its_version(run: Path) -> None:
    for step in range(1, 21):
        samples = read_samples(run / "samples" / f"step_{step}.parquet")
        assert len(samples) == 36
        for sample in samples:
            completion = sample.completion
            assert [span.version for span in completion.versions] == [step - 1]
            assert completion.versions[-1].end == len(completion.token_ids)
            assert len(completion.log_probs) == len(completion.token_ids)
            assert sample.reward == sample.reward_parts["vowels"]
        mean = np.mean([sample.advantage for sample in samples])
        assert mean == pytest.approx(0, abs=1e-5)


def test_the_model_opens_in_transformers_and_is_the_policy(run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    heldout = read_samples(run / "heldout" / "step_20.parquet")
    for sample in heldout[:3]:
        ids = torch.tensor([sample.prompt.token_ids])
        answer = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(answer, skip_special_tokens=True) == sample.completion.text


def test_checkpoints_keep_the_last_and_the_best(run: Path) -> None:
    heldout = {r["step"]: r["heldout/reward"] for r in records(run) if "heldout/reward" in r}
    assert sorted(heldout) == [0, 5, 10, 15, 20]
    best = max(heldout, key=lambda step: heldout[step])
    kept = {int(path.name.removeprefix("step_")) for path in (run / "checkpoints").iterdir()}
    assert kept == {20, best} - {0}


def test_report_logs_and_tensorboard_are_there(run: Path) -> None:
    report = (run / "report.html").read_text()
    assert "reward" in report
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert {path.name for path in (run / "logs").iterdir()} == {"policy-0.log", "rollout-0.log"}
    assert list((run / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "stale",
            {
                "algorithm": {
                    "max_staleness": 1,
                    "minibatches_per_step": 2,
                    "kl": {"coefficient": 0.05},
                },
                "sync": {"backend": "gloo", "bucket_mib": 1},
                "rollout": {"workers": 2},
            },
        ),
        (
            "lora",
            {
                "model": {"adaptation": {"kind": "lora", "rank": 4}},
                "algorithm": {
                    "kl": {"coefficient": 0.05, "estimator": "k1", "placement": "reward"},
                    "aggregation": "constant",
                },
                "learner": {"workers": 2, "zero_stage": 3},
                "rollout": {"temperature": 0.7},
            },
        ),
        (
            "several_turns",
            {
                "rollout": {
                    "max_completion_tokens": 160,
                    "multi_turn": {"environment": "tiny_rewards:Nag"},
                },
                "algorithm": {"aggregation": "token"},
                "learner": {"max_tokens_per_microbatch": 512},
            },
        ),
        ("qlora", {"model": {"adaptation": {"kind": "qlora", "rank": 4}}, "steps": 2}),
    ],
)
def test_other_ways_to_run(tiny_model: Path, tmp_path: Path, name: str, changes: dict) -> None:
    """Two engines over gloo with stale samples and a reference; LoRA on ZeRO-3; QLoRA."""
    train_here(write_run(tmp_path, tiny_model, **changes))
    metrics = list(steps(tmp_path / "run").values())
    assert len(metrics) == changes.get("steps", 4)
    for record in metrics:
        assert np.isfinite(record["loss"])
        assert record["grad_norm"] > 0
    if name == "stale":
        assert [record["staleness/max"] for record in metrics] == [0, 1, 1, 1]
        assert metrics[-1]["kl"] > 0
        assert metrics[0]["logprob_difference/max"] <= 1e-4
        assert metrics[-1]["logprob_difference/max"] > 1e-4
    else:
        assert all(record["logprob_difference/max"] <= 1e-4 for record in metrics)
    if name == "several_turns":
        assert any(record.get("turns/mean", 1) > 1 for record in metrics)
    if name == "lora":  # two ranks, ZeRO-3
        assert (tmp_path / "run/checkpoints/step_4/adapter/adapter_model.safetensors").is_file()
        kill_and_resume(tmp_path / "killed", tiny_model, changes, step=3)
        assert steps(tmp_path / "killed" / "run") == steps(tmp_path / "run")
