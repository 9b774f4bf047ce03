"""Waiting on real Ray actors: results by name, failures and deadlines with a post-mortem."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster
from runs import SECONDS

from medgpt_ray.actors.wait import RoleDied, RunFailed, wait
from medgpt_ray.config.schema import Reward
from medgpt_ray.types import Completion, Prompt, VersionSpan

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    """It notes the death of a node within seconds."""
    soon = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "_system_config": soon})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@ray.remote(num_cpus=0)
class Worker:
    def work(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def large(self) -> np.ndarray:
        return np.zeros(2**20)

    def fail(self) -> None:
        raise ValueError("the cable is out")

    def die(self) -> None:
        import os

        os._exit(1)


def test_results_come_by_name() -> None:
    one, two = Worker.remote(), Worker.remote()
    calls = {"one": one.work.remote(0.2), "two": two.work.remote(0.0)}
    assert wait(calls, SECONDS, "work") == {"one": 0.2, "two": 0.0}


def test_a_deadline_names_who_is_late_and_who_answered() -> None:
    quick, slow = Worker.remote(), Worker.remote()
    wait({"quick": quick.work.remote(0), "slow": slow.work.remote(0)}, SECONDS, "start")
    calls = {"quick": quick.work.remote(0), "slow": slow.work.remote(600)}
    started = time.monotonic()
    with pytest.raises(RunFailed, match=r"generation: no answer from slow within 5 s.*quick"):
        wait(calls, 5, "generation")
    assert time.monotonic() - started < 120


def test_an_error_and_a_death_name_the_role() -> None:
    with pytest.raises(RunFailed, match=r"learn: rank 1 failed: ValueError: the cable is out"):
        wait({"rank 1": Worker.remote().fail.remote()}, SECONDS, "learn")
    with pytest.raises(RoleDied, match=r"learn: rank 0 is gone"):
        wait({"rank 0": Worker.remote().die.remote()}, SECONDS, "learn")


def test_a_death_counts_for_more_than_the_errors_it_causes() -> None:
    calls = {"rank 0": Worker.remote().fail.remote(), "rank 1": Worker.remote().die.remote()}
    with pytest.raises(RoleDied, match=r"learn: rank 1 is gone"):
        wait(calls, SECONDS, "learn")


def test_a_constructor_that_raises_is_no_death() -> None:
    """Started anew it would raise again."""

    @ray.remote(num_cpus=0)
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no such model")

        def work(self) -> None:
            """Never reached."""

    with pytest.raises(
        RunFailed, match=r"start: engine failed: ValueError: no such model"
    ) as error:
        wait({"engine": Broken.remote().work.remote()}, SECONDS, "start")
    assert not isinstance(error.value, RoleDied)


def test_an_answer_that_goes_down_with_its_node_is_a_death(cluster: Cluster) -> None:
    doomed = cluster.add_node(num_cpus=1, resources={"doomed": 1})
    call = Worker.options(resources={"doomed": 1}).remote().large.remote()
    ray.wait([call], timeout=SECONDS, fetch_local=False)
    cluster.remove_node(doomed, allow_graceful=False)
    with pytest.raises(RoleDied, match="rank 0 is gone"):
        wait({"rank 0": call}, SECONDS, "learn")


def test_scores_of_shipped_rewards_come_in_order_and_weighted() -> None:
    from medgpt_ray.actors.rewards import score_completions

    prompts = [
        Prompt(f"f:{n}", ({"role": "user", "content": "dose?"},), (1,), {"answer": f"{n} mg"})
        for n in range(40)
    ]
    groups = [
        [
            Completion(p.id, i, (5,), (-1.0,), text, "stop", (VersionSpan(0, 0, 1),))
            for i, text in enumerate([p.row["answer"], "no idea"])
        ]
        for p in prompts
    ]
    rewards = [
        Reward(function="medgpt_ray.rewards.text:token_f1", weight=2.0),
        Reward(function="medgpt_ray.rewards.text:exact_match", weight=0.5),
    ]
    scored = score_completions(rewards, prompts, groups)
    assert [[sample.reward for sample in group] for group in scored] == [[2.5, 0.0]] * 40
    assert scored[7][0].prompt.id == "f:7"
    assert scored[7][0].reward_parts == {"token_f1": 1.0, "exact_match": 1.0}


def test_arguments_of_a_reward_reach_its_function() -> None:
    from medgpt_ray.actors.rewards import score_completions

    prompt = Prompt("f:1", ({"role": "user", "content": "dose?"},), (1,), {})
    answer = Completion("f:1", 0, (5,), (-1.0,), "take 5 mg", "stop", (VersionSpan(0, 0, 1),))
    function = "medgpt_ray.rewards.form:regex_match"
    scores = [
        score_completions(
            [Reward(function=function, arguments={"pattern": pattern})], [prompt], [[answer]]
        )[0][0].reward
        for pattern in (r"take \d mg", r"\d tablets")
    ]
    assert scores == [1.0, 0.0]


def test_a_reward_that_cannot_start_says_why() -> None:
    from medgpt_ray.actors.rewards import score_completions

    prompt = Prompt("f:1", ({"role": "user", "content": "?"},), (1,), {})
    answer = Completion("f:1", 0, (5,), (-1.0,), "", "stop", (VersionSpan(0, 0, 1),))
    with pytest.raises(RunFailed, match=r"no_such_file:score did not start: .*no module"):
        score_completions([Reward(function="no_such_file:score")], [prompt], [[answer]])


def waits(prompt: str, completion: str, row: dict) -> float:
    """A judge far away."""
    time.sleep(0.5)
    return float(completion)


def test_workers_of_a_reward_wait_beside_each_other() -> None:
    from medgpt_ray.actors.rewards import score_completions

    prompt = Prompt("f:1", ({"role": "user", "content": "?"},), (1,), {})
    answers = [
        Completion("f:1", n, (5,), (-1.0,), str(n), "stop", (VersionSpan(0, 0, 1),))
        for n in range(10)
    ]
    reward = Reward(function=f"{__name__}:waits", workers=4)
    until = time.monotonic() + SECONDS
    while True:  # a busy machine starts the processes one by one
        started = time.monotonic()
        scored = score_completions([reward], [prompt], [answers])
        took = time.monotonic() - started
        assert [sample.reward for sample in scored[0]] == list(range(10))
        if took < 4:
            break
        assert started < until, f"{took:.1f} s: one after the other they take 5 s"
