"""The controller's bookkeeping, without roles: what a checkpoint says of a step under way."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medgpt_ray.actors.wait import RoleDied, RunFailed
from medgpt_ray.config.schema import GrpoRun
from medgpt_ray.controller import Controller
from medgpt_ray.data.prompts import PromptSource
from medgpt_ray.interrupt import Interrupted, interruptible
from medgpt_ray.tracking.rundir import RunDirectory
from medgpt_ray.types import Prompt


class Policy:
    """A learner group whose answers are files, or a death."""

    workers = ()
    dead = False
    meanwhile = staticmethod(lambda: None)

    def __init__(self) -> None:
        self.deadlines: list[float] = []

    def call(self, method: str, directory: str, seconds: float) -> None:
        self.deadlines.append(seconds)
        if self.dead:
            raise RoleDied(f"policy {method}: policy rank 0 is gone")
        self.meanwhile()
        if method != "export":
            return
        (Path(directory) / "model").mkdir()
        (Path(directory) / "model" / "model.safetensors").touch()


def controller(folder: Path, staleness: int = 0, **algorithm: Any) -> Any:
    """Of twelve prompts p0 to p11, three a step."""
    config = GrpoRun.model_validate(
        {
            "stage": "grpo",
            "output_dir": str(folder),
            "steps": 9,
            "model": {"path": "unused"},
            "data": {"train": "unused"},
            "algorithm": {"prompts_per_step": 3, "max_staleness": staleness} | algorithm,
            "rewards": [{"function": "medgpt_ray.rewards.text:token_f1"}],
        }
    )

    def start_generation(prompts: list[Prompt], count: int, seed: int) -> Any:
        return SimpleNamespace(prompts=prompts)

    roles: Any = SimpleNamespace(
        policy=(policy := Policy()),
        learners=lambda: {"policy": policy},
        rollout=SimpleNamespace(start_generation=start_generation),
    )
    silent: Any = SimpleNamespace(phase=print, notice=print)
    prompts = [Prompt(f"p{n}", ({"role": "user", "content": "?"},), (n,), {}) for n in range(12)]
    run, source = RunDirectory(folder), PromptSource(prompts, seed=0)
    return Controller(config, run, roles, silent, silent, source)


def launched(loop: Any) -> list[list[str]]:
    loop._launch()
    return [[prompt.id for prompt in generation.prompts] for generation in loop.flying]


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_checkpoint_in_the_middle_of_a_step_loses_none_of_its_prompts(
    tmp_path: Path, staleness: int
) -> None:
    """What was taken up since the last whole step, for dynamic sampling too, is drawn again."""
    loop = controller(tmp_path, staleness)
    loop._launch()
    loop.flying.popleft()
    loop._step_done()
    begun = launched(loop)
    loop.flying.popleft()
    loop.prompts.take(2)
    loop._checkpoint(1.0)
    again = controller(tmp_path / "again", staleness)
    again.restore(loop.checkpoints.latest())
    assert launched(again) == begun
    assert again.prompts.epoch == (3 + 3 * len(begun)) / 12


def test_a_learner_that_dies_in_a_checkpoint_is_told_as_a_death(tmp_path: Path) -> None:
    loop = controller(tmp_path)
    loop.roles.policy.dead = True
    with pytest.raises(RoleDied, match="policy rank 0 is gone"):
        loop._checkpoint(1.0)
    assert list(loop.checkpoints.folder.iterdir()) == []


def test_a_signal_that_c_code_has_made_an_error_of_leaves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray.wait` does so when what it waits for comes with the signal."""
    loop = controller(tmp_path)

    def broken() -> None:
        raise SystemError("returned a result with an exception set") from Interrupted(15)

    for name in ("_sync", "_evaluate"):
        monkeypatch.setattr(loop, name, lambda: None)
    monkeypatch.setattr(loop, "_collect", broken)
    with pytest.raises(Interrupted):
        loop.run()
    assert loop.checkpoints.latest().name == "step_0"


def test_a_checkpoint_under_way_at_ctrl_c_has_the_time_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of an update's end."""
    loop = controller(tmp_path)
    monkeypatch.setattr("medgpt_ray.controller.FINISH_AFTER_CTRL_C_S", 0.1)

    def interrupted() -> None:
        if len(loop.roles.policy.deadlines) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    loop.roles.policy.meanwhile = interrupted
    loop.step = loop.config.checkpoint.every_steps
    with pytest.raises(Interrupted), interruptible():
        loop._evaluate_and_checkpoint()
    assert loop.checkpoints.latest().name == f"step_{loop.step}"


def test_all_that_a_checkpoint_waits_for_shares_its_deadline(tmp_path: Path) -> None:
    loop = controller(tmp_path)
    loop.roles.policy.meanwhile = lambda: time.sleep(0.4)
    loop._checkpoint(5.0)
    save, export = loop.roles.policy.deadlines
    assert save == 5.0
    assert export <= 4.6


def scored(loop: Any, monkeypatch: pytest.MonkeyPatch, *rounds: list[list[Any]]) -> list[str]:
    """Have these be the scored groups of one round of generation each; returns what is told."""
    left, told = list(rounds), []
    monkeypatch.setattr("medgpt_ray.controller.score_completions", lambda *_: left.pop(0))
    monkeypatch.setattr("medgpt_ray.controller.failure_line", lambda sample: sample.failure)
    loop.console.notice = told.append
    loop.roles.rollout.notices = []
    loop.roles.reward_model = None
    loop._generate = lambda *_: SimpleNamespace(prompts=[], result=list)
    loop.flying.append(loop._generate())
    return told


def sample(reward: float, failure: str = "") -> Any:
    return SimpleNamespace(
        reward=reward, failure=failure, completion=SimpleNamespace(oldest_version=0)
    )


def test_failures_in_groups_that_are_not_learned_from_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = controller(tmp_path, dynamic_sampling={"max_rounds": 3})
    alike = [sample(1.0), sample(1.0), sample(float("nan"), "the judge is away")]
    teaching = [[sample(0.0), sample(1.0)] for _ in range(3)]
    told = scored(loop, monkeypatch, [alike], teaching)
    assert loop._collect() == teaching
    assert told == ["the judge is away"]
    assert loop.failed == [alike[2]]


def test_a_round_of_prompts_without_a_reward_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = controller(tmp_path, dynamic_sampling={"max_rounds": 4})
    wanted = loop.config.algorithm.prompts_per_step
    teaching = [[sample(0.0), sample(1.0)] for _ in range(wanted)]
    lost = [sample(float("nan"), "no such row")] * 2
    scored(loop, monkeypatch, teaching[1:], [lost], teaching[:1])
    assert loop._collect() == [*teaching[1:], *teaching[:1]]
    assert loop.failed == lost


def test_when_every_reward_fails_that_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = controller(tmp_path, dynamic_sampling={"max_rounds": 3})
    told = scored(loop, monkeypatch, [[sample(float("nan"), "away")] * 2])
    with pytest.raises(RunFailed, match="every reward failed"):
        loop._collect()
    assert told == ["away", "away"]
