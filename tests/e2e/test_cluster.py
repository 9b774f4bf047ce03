"""Jobs on a cluster that was started by hand, with a token: two nodes with addresses of their own,
too small for a run each."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import ByHand, by_hand, can_unshare
from runs import steps, write_run
from supervised_runs import write_supervised

from medgpt_ray.tracking.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ByHand]:
    with by_hand(cpus=3) as started:
        yield started


def command(
    cluster: ByHand, folder: Path, *words: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=cluster.environment | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def medgpt(
    cluster: ByHand, folder: Path, *words: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    python = [sys.executable, "-m", "medgpt_ray.cli"]
    return command(cluster, folder, *python, *words, **environment)


def on_two_nodes(folder: Path, tiny: Path) -> Path:
    """Learner and engine take a node each."""
    return write_run(
        folder,
        tiny,
        learner={"cpus": 2},
        rollout={"cpus": 2},
        sync={"backend": "gloo"},
        cluster={"cpus": None},
    )


def test_a_job_trains_on_both_nodes_stops_with_a_checkpoint_and_goes_on(
    cluster: ByHand, tiny_model: Path, tmp_path: Path
) -> None:
    on_two_nodes(tmp_path, tiny_model)
    address = ("--address", cluster.url)
    endless = ("run.yaml", "steps=100000", "checkpoint.every_steps=50000")
    started = medgpt(cluster, tmp_path, "submit", *endless, *address, "--detach")
    assert started.returncode == 0, started.stderr
    job = started.stdout.strip()
    assert re.fullmatch(r"raysubmit_\w+", job)
    deadline = time.monotonic() + 120
    while len(steps(tmp_path / "run")) < 3:
        assert time.monotonic() < deadline, medgpt(
            cluster, tmp_path, "submit", *address, "--status", job
        ).stdout
        time.sleep(0.5)
    told = medgpt(cluster, tmp_path, "submit", *address, "--status", job).stdout
    assert f"{job}: RUNNING" in told
    assert f"grpo run.yaml -> {tmp_path}/run" in told
    workers = {"LearnerWorker": 1, "RolloutWorker": 1, "nodes": cluster.nodes}
    assert nodes_of_actors(cluster) == workers
    stopped = medgpt(cluster, tmp_path, "submit", *address, "--stop", job)
    assert stopped.returncode == 130
    assert "STOPPED" in stopped.stderr
    saved = max(Checkpoints(tmp_path / "run" / "checkpoints").complete())
    assert saved >= 3
    more = ("run.yaml", f"steps={saved + 2}", "checkpoint.every_steps=50000", "--resume")
    resumed = medgpt(cluster, tmp_path, "submit", *more, *address)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"resumed after step {saved}" in resumed.stdout
    assert f"step {saved + 2}/{saved + 2}" in resumed.stdout
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def nodes_of_actors(cluster: ByHand) -> dict[str, int]:
    """How many of our actors the cluster runs, by class, and on how many nodes."""
    code = (
        "import collections, json, sys; from ray.util.state import list_actors\n"
        "found = list_actors(address=sys.argv[1], filters=[('state', '=', 'ALIVE')])\n"
        "ours = [a for a in found if a['class_name'] in ('LearnerWorker', 'RolloutWorker')]\n"
        "count = collections.Counter(a['class_name'] for a in ours)\n"
        "print(json.dumps({**count, 'nodes': len({a['node_id'] for a in ours})}))"
    )
    done = command(cluster, Path("/"), sys.executable, "-c", code, cluster.url)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_rays_own_command_runs_a_checkout(
    cluster: ByHand, tiny_model: Path, tmp_path: Path
) -> None:
    """Two workers, a node each, and beside each room for a task that reads the data; the code is
    that of the directory which is shipped."""
    words = ("ray", "job", "submit", "--address", cluster.url, "--working-dir", ROOT, "--")
    train = ("medgpt", "train", "configs/tiny/sft.yaml", f"model.path={tiny_model}", "epochs=1")
    two = ("learner.workers=2", "learner.cpus=2")
    done = command(cluster, tmp_path, *words, *train, *two, f"output_dir={tmp_path}/run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(steps(tmp_path / "run")) == 4
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_what_ails_a_job_is_told_with_its_exit_status(
    cluster: ByHand, tiny_model: Path, tmp_path: Path
) -> None:
    config = write_supervised(tmp_path, tiny_model, "sft", cluster={"cpus": None})
    missing = f"model.path={tmp_path}/missing"
    done = medgpt(cluster, tmp_path, "submit", config, missing, "--address", cluster.url)
    assert done.returncode == 2
    assert f"model.path: {tmp_path}/missing: no such model directory" in done.stdout
    assert "FAILED" in done.stderr


@pytest.mark.skipif(not can_unshare(), reason="needs the right to mount")
def test_the_plan_names_the_nodes_and_what_they_do_not_share(
    cluster: ByHand, tiny_model: Path, tmp_path: Path
) -> None:
    config = on_two_nodes(tmp_path, tiny_model)
    words = ("train", config, f"output_dir={cluster.private}/run", "--dry-run")
    done = medgpt(cluster, tmp_path, *words, RAY_ADDRESS=cluster.address)
    nodes = dict(re.findall(r"Node \S+ \((127\.0\.0\.\d), \w+\): (.*)", done.stdout))
    assert sorted(nodes) == ["127.0.0.1", "127.0.0.2"]
    assert sorted(nodes.values()) == ["policy 0", "rollout 0"]
    assert done.returncode == 2
    (problem,) = done.stderr.strip().splitlines()
    assert "output_dir: node" in problem
    assert "127.0.0.2" in problem
    assert f"does not see what is written to {cluster.private}" in problem
    assert not list(cluster.private.iterdir())


def test_without_the_token_nothing_is_told(cluster: ByHand, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    for changed in ({"RAY_AUTH_TOKEN_PATH": str(wrong)}, {"RAY_AUTH_MODE": "disabled"}):
        words = ("submit", "--status", "x", "--address", cluster.url)
        done = medgpt(cluster, tmp_path, *words, **changed)
        assert done.returncode == 2
        assert re.search(f"^{cluster.url} refuses: .*authentication", done.stderr)
        assert "RAY_AUTH_TOKEN_PATH" in done.stderr
        assert "0" * 64 not in done.stderr


def test_an_unknown_job(cluster: ByHand, tmp_path: Path) -> None:
    done = medgpt(cluster, tmp_path, "submit", "--stop", "nosuch", "--address", cluster.url)
    assert done.returncode == 2
    assert "nosuch does not exist" in done.stderr
