"""Whole PPO runs: policy, critic, reference, reward model and engine, with tiny models."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from runs import called, finish, processes_of, start, steps, train_here, wait_for_step, write_run
from typer.testing import CliRunner

from medgpt_ray.cli import app
from medgpt_ray.tracking.samples import read_samples, write_samples

pytestmark = pytest.mark.usefixtures("ray_here")

PPO = {
    "stage": "ppo",
    "steps": 24,
    "algorithm": {
        "prompts_per_step": 12,
        "completions_per_prompt": 4,
        "minibatches_per_step": 2,
        "epochs_per_step": 2,
        "kl": {
            "coefficient": 0.005,
            "estimator": "k1",
            "placement": "reward",
            "target": 2.0,
            "horizon": 100,
        },
        "critic_warmup_steps": 1,
    },
    "learner": {"learning_rate": 0.005, "zero_stage": 2},
    "critic": {"learning_rate": 0.01, "max_tokens_per_microbatch": 128},
    "checkpoint": {"every_steps": 4},
    "dump": {"every_steps": 8, "keep_last": 2},
}


@pytest.fixture(scope="module")
def reward_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of the policy's family."""
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("scorer") / "model"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(3)
    network = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=1, pad_token_id=0, dtype=torch.float32
    )
    network.score.weight.data.normal_(std=0.2)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(reward_model: Path) -> dict:
    return {**PPO, "reward_model": {"path": str(reward_model), "weight": 0.1, "dtype": "float32"}}


@pytest.fixture(scope="module")
def run(
    ray_here: None, settings: dict, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("ppo")
    train_here(write_run(folder, tiny_model, **settings))
    return folder / "run"


def test_the_reward_rises_and_the_critic_learns(run: Path) -> None:
    metrics = list(steps(run).values())
    vowels = [record["reward/vowels"] for record in metrics]
    assert np.mean(vowels[-3:]) > np.mean(vowels[:3]) + 0.1
    explained = [record["critic/explained_variance"] for record in metrics]
    assert explained[-1] > explained[0]
    assert metrics[-1]["critic/loss"] < metrics[0]["critic/loss"]


def test_the_policy_waits_for_the_critic(run: Path) -> None:
    """Step 1 leaves the policy as it is, so step 2 draws from the same distribution: no KL."""
    metrics = steps(run)
    assert metrics[1]["kl/completion"] == pytest.approx(0, abs=1e-4)
    assert metrics[2]["kl/completion"] == pytest.approx(0, abs=1e-4)
    assert abs(metrics[4]["kl/completion"]) > 1e-3


def test_the_kl_coefficient_adapts(run: Path) -> None:
    metrics = list(steps(run).values())
    for now, after in pairwise(metrics):
        error = min(max(now["kl/completion"] / 2.0 - 1, -0.2), 0.2)
        expected = now["kl/coefficient"] * (1 + error * 48 / 100)
        assert after["kl/coefficient"] == pytest.approx(expected)


def test_the_reward_model_scores_with_its_own_template(run: Path, reward_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    network = AutoModelForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32)
    for sample in read_samples(run / "samples" / "step_2.parquet")[:6]:
        answer = {"role": "assistant", "content": sample.completion.text}
        ids = tokenizer.apply_chat_template([*sample.prompt.messages, answer], return_dict=False)
        with torch.no_grad():
            hidden = network.model(torch.tensor([ids])).last_hidden_state[0, -1]
            score = float(network.score(hidden))
        assert sample.reward_parts["reward_model"] == pytest.approx(score, abs=1e-4)
        expected = sample.reward_parts["vowels"] + 0.1 * score
        assert sample.reward == pytest.approx(expected, abs=1e-4)


def replay(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["replay", *arguments])
    return done.exit_code, done.output


def test_a_dumped_step_is_replayed_on_cpus(run: Path, tmp_path: Path) -> None:
    """Of a run on a cluster with GPUs, as its configuration says."""
    assert {path.name for path in (run / "dumps").iterdir()} == {"step_16", "step_24"}
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    yaml = YAML()
    values = yaml.load(config)
    for section in ("learner", "critic", "rollout"):
        values[section]["gpus"] = 1.0
    values["model"]["attention"] = "flash_attention_2"
    values["cluster"] = {"address": "10.255.255.1:6379"}
    yaml.dump(values, config)
    status, output = replay(str(tmp_path / "run"))
    assert status == 0, output
    assert "step 24: replayed within 1e-05" in output
    for stage in ("old_log_probs", "old_values", "advantage", "critic/grad_norm"):
        assert stage in output


def test_a_replay_names_the_first_stage_that_differs(run: Path) -> None:
    """Another reward, as if a sample had been mixed up: log-probs agree, advantages do not."""
    file = run / "dumps" / "step_16" / "samples.parquet"
    samples = read_samples(file)
    write_samples(file, [replace(samples[0], reward=5.0), *samples[1:]])
    status, output = replay(str(run), "--step", "16")
    assert status == 1, output
    assert "step 16: advantage is the first stage that differs" in output


def test_dead_roles_and_a_killed_driver_change_nothing(
    run: Path, settings: dict, tiny_model: Path, tmp_path: Path
) -> None:
    """kill -9 of the critic, then of the reward model, both back by themselves from the checkpoint;
    then of the driver, resumed."""
    config = write_run(tmp_path, tiny_model, **settings)
    process = start(config)
    for step, name in ((5, "CriticWorker"), (10, "RewardModelWorker")):
        wait_for_step(process, tmp_path / "run", step)
        (role,) = called(name, processes_of(process.pid))
        role.kill()
    wait_for_step(process, tmp_path / "run", 14)
    process.kill()
    finish(process)
    output = train_here(config, resume=True)
    assert "resumed after step" in output
    assert steps(tmp_path / "run") == steps(run)
