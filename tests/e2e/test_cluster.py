"""Jobs on a cluster that was started by hand, with a token: two nodes with addresses of their own,
too small for a run each."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from clusters import ByHand, by_hand, can_unshare
from runs import SECONDS, called, steps, write_run
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
        timeout=SECONDS,
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


def test_rays_own_command_runs_a_checkout(
    cluster: ByHand, tiny_model: Path, tmp_path: Path
) -> None:
    """GRPO over two nodes, with the code of the directory that is shipped."""
    words = ("ray", "job", "submit", "--address", cluster.url, "--working-dir", ROOT, "--")
    train = ("medgpt", "train", "configs/tiny/grpo.yaml", f"model.path={tiny_model}")
    two = ("learner.cpus=2", "rollout.cpus=2", "sync.backend=gloo")
    done = command(cluster, tmp_path, *words, *train, *two, f"output_dir={tmp_path}/run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(steps(tmp_path / "run")) == 4
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    roles = {"PolicyWorker", "RolloutWorker"}
    found = actors(cluster)
    assert {actor["class_name"] for actor in found} >= roles
    nodes = {actor["node_id"] for actor in found if actor["class_name"] in roles}
    assert len(nodes) == cluster.nodes


def actors(cluster: ByHand) -> list[dict[str, str]]:
    """Those that the cluster runs or ran: a run of its own Ray would have none here."""
    code = (
        "import json, sys; from ray.util.state import list_actors\n"
        "kept = ('class_name', 'node_id')\n"
        "print(json.dumps([{k: a[k] for k in kept} for a in list_actors(address=sys.argv[1])]))"
    )
    done = command(cluster, Path("/"), sys.executable, "-c", code, cluster.url)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def test_the_plan_names_the_node_of_every_role(
    cluster: ByHand, tiny_model: Path, tmp_path: Path
) -> None:
    on_two_nodes(tmp_path, tiny_model)
    words = ("submit", "run.yaml", "--dry-run", "--address", cluster.url)
    done = medgpt(cluster, tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    nodes = dict(re.findall(r"Node \S+ \(([\d.]+), \w+\): (.*)", done.stdout))
    assert len(nodes) == cluster.nodes
    assert sorted(", ".join(nodes.values()).split(", ")) == ["policy 0", "rollout 0"]


@pytest.mark.skipif(not can_unshare(), reason="needs the right to mount")
def test_what_nodes_do_not_share_is_told_with_the_exit_status(
    cluster: ByHand, tiny_model: Path, tmp_path: Path
) -> None:
    on_two_nodes(tmp_path, tiny_model)
    changes = (f"output_dir={cluster.private}/run", "sync.backend=shm")
    done = medgpt(cluster, tmp_path, "submit", "run.yaml", *changes, "--address", cluster.url)
    assert done.returncode == 2
    files, memory = done.stdout.splitlines()[-2:]
    assert files.startswith("command line: output_dir: node second (127.0.0.2, ")
    assert f"does not see what is written to {cluster.private}: mount one file" in files
    assert memory.startswith("command line: sync.backend: shm works within one host")
    assert "second" in memory
    assert "FAILED" in done.stderr
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


def interrupted(cluster: ByHand, folder: Path, *words: str) -> tuple[int, str]:
    """Exit status and errors of a command that gets a Ctrl-C without a terminal, once it prints."""
    following = subprocess.Popen(
        [sys.executable, "-m", "medgpt_ray.cli", *words],
        cwd=folder,
        env=cluster.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stdout
    following.stdout.readline()
    following.send_signal(signal.SIGINT)
    _, errors = following.communicate(timeout=SECONDS)
    return following.returncode, errors


def of_ray_train(cluster: ByHand, name: str) -> list[psutil.Process]:
    """The actors of this class in the cluster."""
    token = cluster.environment["RAY_AUTH_TOKEN_PATH"]
    found = called(f"ray::{name}", list(psutil.process_iter()))
    return [each for each in found if each.environ().get("RAY_AUTH_TOKEN_PATH") == token]


def test_a_job_of_ours_stops_with_a_checkpoint(
    cluster: ByHand, tiny_model: Path, tmp_path: Path
) -> None:
    """SFT, a worker on each node, from a directory with nothing but the configuration."""
    workers = {"workers": 2, "cpus": 2}
    endless = {"epochs": 100_000.0, "checkpoint": {"every_steps": 1_000_000}}
    write_supervised(
        tmp_path, tiny_model, "sft", learner=workers, cluster={"cpus": None}, **endless
    )
    address = ("--address", cluster.url)
    started = medgpt(cluster, tmp_path, "submit", "run.yaml", *address, "--detach")
    assert started.returncode == 0, started.stderr
    job = started.stdout.strip()
    assert re.fullmatch(r"raysubmit_\w+", job)
    deadline = time.monotonic() + SECONDS
    while len(steps(tmp_path / "run")) < 3:
        assert time.monotonic() < deadline
        time.sleep(1)
    (cleaner,) = of_ray_train(cluster, "PlacementGroupCleaner")
    asked = cleaner.environ().get("RAY_ADDRESS", "nothing: it might ask another Ray")
    assert asked.split(":")[1] == cluster.address.split(":")[1]
    told = medgpt(cluster, tmp_path, "submit", *address, "--status", job).stdout
    assert f"{job}: RUNNING" in told
    assert f"sft run.yaml -> {tmp_path}/run" in told
    assert interrupted(cluster, tmp_path, "submit", *address, "--follow", job) == (
        130,
        f"{job} goes on: medgpt submit --follow {job}, or --stop {job}\n",
    )
    assert "RUNNING" in medgpt(cluster, tmp_path, "submit", *address, "--status", job).stdout
    stopped = medgpt(cluster, tmp_path, "submit", *address, "--stop", job)
    assert stopped.returncode == 130
    assert f"{job}: STOPPED" in stopped.stderr
    assert max(Checkpoints(tmp_path / "run" / "checkpoints").complete()) >= 3
    followed = medgpt(cluster, tmp_path, "submit", *address, "--follow", job)
    assert followed.returncode == 130
    assert "step 3" in followed.stdout
    assert "the last checkpoint is" in followed.stdout
