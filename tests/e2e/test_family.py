"""Every algorithm without a critic on real parts: what it is told to reward, it gets more of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import finish, merged, start, steps, train_here, wait_for_step, write_run

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
