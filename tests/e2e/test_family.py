"""Every algorithm without a critic on real parts: what it is told to reward, it gets more of."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import finish, merged, start, steps, train_here, wait_for_step, write_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from medgpt_ray.tracking.samples import read_samples

pytestmark = pytest.mark.usefixtures("ray_here")

LEARNS: dict[str, Any] = {
    "steps": 16,
    "algorithm": {"prompts_per_step": 6, "completions_per_prompt": 6},
    "learner": {"learning_rate": 0.01},
    "checkpoint": {"every_steps": 5, "keep_last": 1},
    "data": {"heldout": None},
}


def settings(name: str) -> dict[str, Any]:
    """Without what holds an untaught model back, or teaches it to be brief."""
    free = {"name": name, "kl": {"coefficient": 0.0}, "overlong": None}
    return merged(LEARNS, {"algorithm": free})


def rises(run: Path) -> None:
    rewards = [metrics["reward/mean"] for metrics in steps(run).values()]
    assert len(rewards) == LEARNS["steps"]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1, rewards


@pytest.mark.parametrize(
    "name", ["dr_grpo", "gspo", "cispo", "rloo", "reinforce_pp", "reinforce_pp_baseline"]
)
def test_the_reward_rises(name: str, tiny_model: Path, tmp_path: Path) -> None:
    train_here(write_run(tmp_path, tiny_model, **settings(name)))
    rises(tmp_path / "run")


def test_dapo_learns_and_goes_on_exactly_after_a_kill(tiny_model: Path, tmp_path: Path) -> None:
    """Its dynamic sampling draws more prompts than others: the cursor is resumed with the rest."""
    train_here(write_run(tmp_path / "calm", tiny_model, **settings("dapo")))
    rises(tmp_path / "calm" / "run")
    config = write_run(tmp_path / "killed", tiny_model, **settings("dapo"))
    process = start(config)
    wait_for_step(process, tmp_path / "killed" / "run", 7)
    process.kill()
    finish(process)
    assert "resumed after step 5" in train_here(config, resume=True)
    assert steps(tmp_path / "killed" / "run") == steps(tmp_path / "calm" / "run")


@pytest.mark.parametrize(("word", "ends"), [("<|end|>", "stop"), ("a", "length")])
def test_empty_and_endless_completions_are_trained_on_as_they_are(
    tiny_model: Path, tmp_path: Path, word: str, ends: str
) -> None:
    """A policy that says nothing at all, and one that never stops, with a masked loss."""
    only = saying_only(word, tiny_model, tmp_path / "model")
    algorithm = {"name": "grpo", "kl": {"coefficient": 0.02}, "mask_truncated": True}
    train_here(write_run(tmp_path, only, steps=1, algorithm=algorithm))
    (record,) = steps(tmp_path / "run").values()
    assert record["loss"] == pytest.approx(0, abs=1e-6)
    assert record["truncated_share"] == (ends == "length")
    samples = read_samples(tmp_path / "run" / "samples" / "step_1.parquet")
    assert {s.completion.finish_reason for s in samples} == {ends}
    assert {s.completion.text for s in samples} == {"" if ends == "stop" else "a" * 16}


def saying_only(word: str, tiny: Path, folder: Path) -> Path:
    """The tiny model with one feature that is large for every token, and means `word`."""
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    token = AutoTokenizer.from_pretrained(tiny).convert_tokens_to_ids(word)
    embeddings = model.get_input_embeddings().weight.data.clone()
    embeddings[:, 0] = 100.0
    head = torch.zeros_like(embeddings)
    head[token, 0] = 10.0
    model.config.tie_word_embeddings = False
    model.get_input_embeddings().weight = torch.nn.Parameter(embeddings)
    model.lm_head.weight = torch.nn.Parameter(head)
    shutil.copytree(tiny, folder)
    model.save_pretrained(folder)
    return folder
