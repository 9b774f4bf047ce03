"""The pool of rollout workers on real engines and a real learner: deaths, arrivals, departures."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from runs import SECONDS

from medgpt_ray.actors.cluster import Roles, ray_cluster, start_roles
from medgpt_ray.actors.pool import Generation, RolloutPool
from medgpt_ray.actors.sync.audit import WeightAuditError
from medgpt_ray.actors.wait import RoleDied, RunFailed
from medgpt_ray.config.schema import Cluster, GrpoRun
from medgpt_ray.data.prompts import read_prompts
from medgpt_ray.models.load import load_tokenizer
from medgpt_ray.tracking.rundir import RunDirectory
from medgpt_ray.types import Prompt

pytestmark = pytest.mark.usefixtures("warm")

TOKENS = 96
"""Of a completion: long enough to be killed in the middle."""


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> GrpoRun:
    data = tmp_path_factory.mktemp("pool") / "prompts.jsonl"
    data.write_text("".join(f'{{"question": "Say {n}."}}\n' for n in range(24)))
    return GrpoRun.model_validate(
        {
            "stage": "grpo",
            "output_dir": str(data.parent / "run"),
            "steps": 1,
            "model": {"path": str(tiny_model), "dtype": "float32"},
            "data": {"train": str(data), "max_prompt_tokens": 48},
            "rewards": [{"function": "medgpt_ray.rewards.text:token_f1"}],
            "learner": {"cpus": 0.5},
            "rollout": {
                "workers": 2,
                "max_workers": 3,
                "cpus": 1,
                "dtype": "float32",
                "max_completion_tokens": TOKENS,
                "kv_cache_gib": 0.1,
            },
        }
    )


@pytest.fixture(scope="module")
def prompts(config: GrpoRun) -> list[Prompt]:
    return read_prompts(config.data.train, load_tokenizer(config.model.path), config.data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    run.logs.mkdir()
    return run


@pytest.fixture(scope="module")
def roles(config: GrpoRun, run: RunDirectory) -> Iterator[Roles]:
    with ray_cluster(Cluster(cpus=4)), start_roles(config, run) as all:
        yield all


@pytest.fixture
def pool(roles: Roles) -> RolloutPool:
    return roles.rollout


def generate(pool: RolloutPool, prompts: list[Prompt]) -> Generation:
    return pool.start_generation(prompts, 4, seed=5)


def states(pool: RolloutPool) -> list[str]:
    return [member.state for member in pool.members]


def pid(actor: Any) -> int:
    """To be killed at once: `ray.kill` returns before the process is gone."""
    return ray.get(actor.ready.remote(), timeout=SECONDS)["pid"]


def test_a_worker_joins_where_there_is_room(pool: RolloutPool, prompts: list[Prompt]) -> None:
    """It changes no sample, for a batch is always cut into as many shares."""
    pool.sync(0, seconds=SECONDS)
    assert states(pool) == ["HEALTHY", "HEALTHY", "STARTING"]
    with_two = generate(pool, prompts).result()
    ray.wait([pool.members[2].ready], timeout=SECONDS)
    pool.sync(0, seconds=SECONDS)
    assert states(pool) == ["HEALTHY"] * 3
    assert generate(pool, prompts).result() == with_two


def test_the_death_of_a_worker_in_mid_generation_changes_no_sample(
    pool: RolloutPool, prompts: list[Prompt]
) -> None:
    calm = generate(pool, prompts).result()
    dead = pool.members[0].actor
    process = pid(dead)
    generation = generate(pool, prompts)
    time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    assert generation.result() == calm
    assert pool.members[0].actor != dead
    assert "rollout worker 0 is gone" in pool.notices.pop()


def test_a_restarted_worker_gets_work_only_after_a_sync(
    pool: RolloutPool, prompts: list[Prompt]
) -> None:
    assert states(pool) == ["STARTING", "HEALTHY", "HEALTHY"]
    assert [member.number for member in pool.healthy()] == [1, 2]
    ray.wait([pool.members[0].ready], timeout=SECONDS)
    before = generate(pool, prompts).result()
    pool.sync(1, seconds=SECONDS)
    assert states(pool) == ["HEALTHY"] * 3
    after = generate(pool, prompts).result()
    assert [c.token_ids for g in after for c in g] == [c.token_ids for g in before for c in g]
    assert {c.oldest_version for group in after for c in group} == {1}


def test_when_all_are_dead_new_ones_are_waited_for(
    pool: RolloutPool, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first new ones die before they stand, with their node."""
    calm = generate(pool, prompts).result()
    generation = generate(pool, prompts)
    spawn, born = pool.spawn, []

    def dying_at_first(number: int) -> Any:
        born.append(spawn(number))
        if len(born) <= 3:
            ray.kill(born[-1])
        return born[-1]

    monkeypatch.setattr(pool, "spawn", dying_at_first)
    for member in pool.members:
        ray.kill(member.actor)
    assert generation.result() == calm
    assert len(born) >= 6


def test_requests_live_through_a_weight_update(pool: RolloutPool, prompts: list[Prompt]) -> None:
    """Some tokens of a completion are of the old version and some of the new; none is of none."""
    pool.sync(8, seconds=SECONDS)
    generation = generate(pool, prompts)
    time.sleep(0.3)
    pool.sync(9, seconds=SECONDS)
    done = [completion for group in generation.result() for completion in group]
    assert any([span.version for span in c.versions] == [8, 9] for c in done)
    for completion in done:
        places = [place for s in completion.versions for place in range(s.start, s.end)]
        assert places == list(range(len(completion.token_ids)))
    after = generate(pool, prompts).result()
    assert {c.oldest_version for group in after for c in group} == {9}


def test_the_death_of_a_worker_that_breaks_a_sync_is_told_as_one(
    pool: RolloutPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gloo's own words are those of a broken connection, which alone would end the run for good."""
    pool.sync(9, seconds=SECONDS)
    learner, victim = pool.policy, pool.members[1]
    process = pid(victim.actor)

    class Gloo:
        """A learner whose transfer breaks, with or without a death behind it."""

        deadly = False

        def call(self, method: str, *arguments: Any, seconds: float) -> Any:
            if method != "sync":
                return learner.call(method, *arguments, seconds=seconds)
            if self.deadly:
                os.kill(process, signal.SIGKILL)
            raise RunFailed("policy sync: policy rank 0 failed: connection reset by peer")

    policy = Gloo()
    monkeypatch.setattr(pool, "policy", policy)
    with pytest.raises(RunFailed, match=r"reset by peer$") as failure:
        pool.sync(9, seconds=SECONDS)
    assert not isinstance(failure.value, RoleDied)
    policy.deadly = True
    with pytest.raises(RoleDied, match=r"reset by peer; rollout worker 1 is gone"):
        pool.sync(9, seconds=SECONDS)
    pool.lost(victim, failure.value)


def test_no_completion_is_given_out_before_the_audit_of_its_weights(
    pool: RolloutPool, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of older weights are, while the audit of the new ones is under way."""
    pool.sync(10, seconds=SECONDS)
    older = generate(pool, prompts)
    ray.wait(list(older._calls), num_returns=len(older._calls), timeout=SECONDS)
    learner = pool.policy

    class Other:
        """A learner whose final norm is not what the engines were sent."""

        def call(self, *arguments: Any, seconds: float) -> Any:
            answer = learner.call(*arguments, seconds=seconds)
            return answer | {"model.norm.weight": "0"} if arguments[0] == "sync" else answer

    monkeypatch.setattr(pool, "policy", Other())
    pool.sync(11, seconds=SECONDS)
    newer = generate(pool, prompts)
    assert {c.newest_version for group in older.result() for c in group} == {10}
    with pytest.raises(WeightAuditError, match=r"version 11: model\.norm\.weight differs"):
        newer.result()
    monkeypatch.undo()
    pool.audit = None
    pool.sync(12, seconds=SECONDS)
    assert {c.newest_version for group in generate(pool, prompts).result() for c in group} == {12}


def test_a_worker_that_leaves_answers_first(
    pool: RolloutPool, prompts: list[Prompt], run: RunDirectory
) -> None:
    """Asked to come down to one worker, the pool loses none of what the others are generating."""
    for member in pool.members:
        ray.wait([member.ready], timeout=SECONDS)
    pool.sync(13, seconds=SECONDS)
    calm = generate(pool, prompts).result()
    generation = generate(pool, prompts)
    leaving = [member.actor for member in pool.members[1:]]
    run.ask_for_rollout_workers(1)
    pool.sync(13, seconds=SECONDS)
    assert [member.number for member in pool.members] == [0]
    done = generation.result()
    assert [group[0].prompt_id for group in done] == [prompt.id for prompt in prompts]
    assert done[1::3] == calm[1::3], "what the leaving ones held"
    assert done[2::3] == calm[2::3]
    assert generate(pool, prompts).result() == calm
    for actor in leaving:
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(actor.ready.remote(), timeout=SECONDS)
    run.ask_for_rollout_workers(3)
    pool.sync(13, seconds=SECONDS)
    assert states(pool) == ["HEALTHY", "STARTING"]


def test_before_engines_sleep_new_ones_are_not_waited_for_without_end(
    pool: RolloutPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = pool.spawn

    def dying(number: int) -> Any:
        actor = spawn(number)
        ray.kill(actor)
        return actor

    rollout = pool.config.rollout.model_copy(update={"colocated": True})
    monkeypatch.setattr(pool, "config", pool.config.model_copy(update={"rollout": rollout}))
    monkeypatch.setattr(pool, "spawn", dying)
    pool.lost(pool.members[0], RuntimeError("killed"))
    with pytest.raises(RoleDied, match="do not live through their start"):
        pool.sleep()
