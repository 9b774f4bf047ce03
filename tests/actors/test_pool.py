"""The pool of rollout workers on real engines and a real learner: deaths, arrivals, departures."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from medgpt_ray.actors.cluster import Roles, ray_cluster, start_roles
from medgpt_ray.actors.pool import Generation, RolloutPool
from medgpt_ray.config.schema import Cluster, GrpoRun
from medgpt_ray.data.prompts import read_prompts
from medgpt_ray.models.load import load_tokenizer
from medgpt_ray.types import Prompt

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
def roles(config: GrpoRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    """On three CPUs: no room yet for a third worker."""
    with ray_cluster(Cluster(cpus=3)), start_roles(config, tmp_path_factory.mktemp("logs")) as all:
        all.rollout.sync(0, seconds=120)
        yield all


@pytest.fixture
def pool(roles: Roles) -> RolloutPool:
    return roles.rollout


def generate(pool: RolloutPool, prompts: list[Prompt]) -> Generation:
    return pool.start_generation(prompts, 4, seed=5)


def test_the_death_of_a_worker_in_mid_generation_changes_no_sample(
    pool: RolloutPool, prompts: list[Prompt]
) -> None:
    calm = generate(pool, prompts).result()
    generation = generate(pool, prompts)
    time.sleep(0.2)
    dead = pool.members[0].actor
    ray.kill(dead)
    assert generation.result() == calm
    assert pool.members[0].actor != dead
    assert "rollout worker 0 is gone" in pool.losses.pop()


def test_a_restarted_worker_gets_work_only_after_a_sync(
    pool: RolloutPool, prompts: list[Prompt]
) -> None:
    assert [member.state for member in pool.members] == ["STARTING", "HEALTHY"]
    assert len(pool.healthy()) == 1
    ray.wait([pool.members[0].ready], timeout=120)
    before = generate(pool, prompts).result()
    pool.sync(1, seconds=120)
    assert [member.state for member in pool.members] == ["HEALTHY", "HEALTHY"]
    after = generate(pool, prompts).result()
    assert [c.token_ids for g in after for c in g] == [c.token_ids for g in before for c in g]
    assert {c.oldest_version for group in after for c in group} == {1}


def test_when_all_are_dead_new_ones_are_waited_for(
    pool: RolloutPool, prompts: list[Prompt]
) -> None:
    calm = generate(pool, prompts).result()
    generation = generate(pool, prompts)
    for member in pool.members:
        ray.kill(member.actor)
    assert generation.result() == calm


def test_a_worker_can_leave_after_its_work(pool: RolloutPool, prompts: list[Prompt]) -> None:
    pool.sync(2, seconds=120)
    pool._admit(120)  # the other of the two
    pool.sync(2, seconds=120)
    calm = generate(pool, prompts).result()
    generation = generate(pool, prompts)
    pool.remove(0)
    assert generation.result() == calm
    assert [member.number for member in pool.members] == [1]
    assert not pool.losses[2:]  # the two that were killed above, no more
    with pytest.raises(ValueError, match="the last one"):
        pool.remove(1)


def test_a_worker_joins_where_there_is_room(pool: RolloutPool, prompts: list[Prompt]) -> None:
    calm = generate(pool, prompts).result()
    pool.sync(3, seconds=120)  # the place of the one that left is free again
    assert [member.number for member in pool.members] == [1, 0]
    ray.wait([pool.members[1].ready], timeout=120)
    pool.sync(4, seconds=120)
    assert [member.state for member in pool.members] == ["HEALTHY", "HEALTHY"]
    assert [[c.token_ids for c in g] for g in generate(pool, prompts).result()] == [
        [c.token_ids for c in g] for g in calm
    ]
