"""Runs that are killed, interrupted, or given rewards that fail and disks that fill."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster
from runs import (
    SECONDS,
    called,
    finish,
    merged,
    processes_of,
    start,
    steps,
    train_here,
    wait_for_step,
    write_run,
)
from supervised_runs import write_supervised

from medgpt_ray.actors.wait import RunFailed
from medgpt_ray.tracking.checkpoints import Checkpoints
from medgpt_ray.tracking.rundir import RunDirectoryError
from medgpt_ray.tracking.samples import read_samples


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_no_process(
    asked: signal.Signals, tiny_model: Path, tmp_path: Path
) -> None:
    """To the whole process group, as a terminal sends SIGINT and `timeout` SIGTERM."""
    config = write_run(tmp_path, tiny_model, steps=10_000, checkpoint={"every_steps": 5000})
    process = start(config)
    wait_for_step(process, tmp_path / "run", 3)
    with pytest.raises(RunDirectoryError, match="another process trains this run"):
        train_here(config, resume=True)
    processes = processes_of(process.pid)
    assert called("ray::RolloutWorker", processes)
    os.killpg(process.pid, asked)
    status, output = finish(process, seconds=120)
    assert status == 130
    latest = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert latest is not None, output
    assert str(latest) in output
    assert left_after(60, processes) == []


def left_after(seconds: float, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Who of them still runs then."""
    deadline = time.monotonic() + seconds
    while (left := [each for each in processes if alive(each)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_rewards_that_fail_cost_their_samples_only(
    ray_here: None, tiny_model: Path, tmp_path: Path
) -> None:
    config = write_run(
        tmp_path,
        tiny_model,
        steps=2,
        answers=["fine", "raise", "nan", "hang", "die", "fine"],
        algorithm={"prompts_per_step": 6, "completions_per_prompt": 2},
        rewards=[
            {"function": "tiny_rewards:vowels"},
            {"function": "tiny_rewards:fragile", "timeout_s": 1.0, "weight": 0.1},
        ],
        data={"heldout": None},
    )
    output = train_here(config)
    samples = read_samples(tmp_path / "run" / "samples" / "step_1.parquet")
    failed = {s.prompt.row["answer"]: s.failure.error for s in samples if s.failure}
    assert set(failed) == {"raise", "nan", "hang", "die"}
    assert re.search(r"KeyError.* \(tiny_rewards\.py:\d+\)$", failed["raise"])
    assert "finite" in failed["nan"]
    assert "within 1 s" in failed["hang"]
    assert "died" in failed["die"]
    assert sum(s.failure is not None for s in samples) == 8
    assert steps(tmp_path / "run")[1]["failed_samples"] == 8
    assert "train.jsonl:4" in output


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The run directory lies on a 7 MiB tmpfs of its own namespace: one checkpoint fits."""
    config = write_run(tmp_path, tiny_model, steps=8, checkpoint={"every_steps": 2, "keep_last": 3})
    disk = tmp_path / "disk"
    disk.mkdir()
    command = f"mount -t tmpfs -o size=7m tmpfs {disk} && {sys.executable} -m medgpt_ray.cli train "
    command += f"{config} output_dir={disk}/run; status=$?; ls {disk}/run/checkpoints; exit $status"
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    done = subprocess.run(
        [*namespace, "sh", "-c", command],
        cwd=tmp_path,
        # It has workers forked, by a process outside of the namespace.
        env={key: value for key, value in os.environ.items() if key != "RAY_RUNTIME_ENV_HOOK"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode not in (0, 32), done.stdout + done.stderr
    assert "No space left on device" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "step_2" in done.stdout


SURVIVES = {"steps": 12, "checkpoint": {"every_steps": 3}, "rollout": {"workers": 2}}


def test_dead_workers_are_replaced_and_nothing_changes(
    ray_here: None, tiny_model: Path, tmp_path: Path
) -> None:
    """kill -9 of an engine: its work goes to the other; of the learner: back to the checkpoint."""
    train_here(write_run(tmp_path / "calm", tiny_model, **SURVIVES))
    config = write_run(tmp_path / "stormy", tiny_model, **SURVIVES)
    run = tmp_path / "stormy" / "run"
    with killing(run, {4: "ray::RolloutWorker", 7: "ray::PolicyWorker"}):
        output = train_here(config)
    assert re.search(r"rollout worker \d is gone", output)  # between syncs replaced, else restarted
    assert "policy rank 0 is gone" in output
    assert re.search(r"resumed after step (6|9)\b", output)
    assert steps(run) == steps(tmp_path / "calm" / "run")


EPOCHS = 20
"""So many that a run of small steps is not over before it is disturbed."""


def head(cpus: int) -> Cluster:
    """A cluster of one node, which notes the death of another one within seconds."""
    soon = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 3,
    }
    return Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "_system_config": soon})


def test_a_dead_node_is_replaced_and_nothing_changes(
    ray_here: None, tiny_model: Path, tmp_path: Path
) -> None:
    """Learner and engine on a node each; one node dies with what is on it, another one comes."""
    apart = {
        "learner": {"cpus": 3},
        "rollout": {"cpus": 3, "workers": 1},
        "sync": {"backend": "gloo"},
    }
    settings = merged(SURVIVES, apart)
    train_here(write_run(tmp_path / "calm", tiny_model, **settings))
    cluster = head(cpus=4)
    try:
        doomed = cluster.add_node(num_cpus=4, node_ip_address="127.0.0.2")
        settings["cluster"] = {"address": cluster.address, "cpus": None}
        process = start(write_run(tmp_path / "stormy", tiny_model, **settings))
        run = tmp_path / "stormy" / "run"
        wait_for_step(process, run, 4)
        cluster.remove_node(doomed, allow_graceful=False)
        cluster.add_node(num_cpus=4, node_ip_address="127.0.0.3")
        status, output = finish(process)
    finally:
        cluster.shutdown()
    assert status == 0, output
    assert re.search(r"(rollout worker|policy rank) 0 is gone", output), output
    assert steps(run) == steps(tmp_path / "calm" / "run")


def test_a_supervised_run_goes_on_with_fewer_workers_and_grows_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on each of two nodes, of which one goes; later another one comes. Once both have
    learned for a while, the run is asked to stop: how far it is by then depends on the machine."""
    # Ray Train hopes for so long that two will start, before it tries one.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
    run, log = tmp_path / "run", tmp_path / "run" / "logs" / "learner-1.log"

    def stop_when_grown() -> None:
        while log.read_text().count("Loading weights: 100%") < 2 and process.poll() is None:
            time.sleep(0.5)
        enough = max(steps(run)) + 30
        while enough not in steps(run) and process.poll() is None:
            time.sleep(0.5)
        process.send_signal(signal.SIGTERM)

    cluster = head(cpus=3)
    try:  # another address, for a driver goes to the node that has its own
        doomed = cluster.add_node(num_cpus=2, node_ip_address="127.0.0.2")
        config = write_supervised(
            tmp_path,
            tiny_model,
            "sft",
            epochs=400,
            learner={"workers": 2, "cpus": 2, "zero_stage": 0},
            faults={"min_workers": 1},
            checkpoint={"every_steps": 50},
            cluster={"address": cluster.address, "cpus": None},
        )
        process = start(config)
        wait_for_step(process, run, 55)
        cluster.remove_node(doomed, allow_graceful=False)
        alone = max(steps(run)) + 30  # more than two wrote before the death was noticed
        wait_for_step(process, run, alone)
        cluster.add_node(num_cpus=2, node_ip_address="127.0.0.3")
        stopper = threading.Thread(target=stop_when_grown, daemon=True)
        stopper.start()  # while this one reads what the run prints
        status, output = finish(process)
        stopper.join()
    finally:
        cluster.shutdown()
    assert status == 130, output
    assert "a worker died: learner rank" in output
    done = steps(run)
    last = max(done)
    assert list(done) == list(range(1, last + 1))
    assert 0 <= done[last]["data/0/rows"] - 8 * last < 48  # those of the windows begun
    assert done[last]["loss"] < done[1]["loss"] / 10


def test_without_restarts_a_death_stops_the_run_with_a_post_mortem(
    ray_here: None, tiny_model: Path, tmp_path: Path
) -> None:
    config = write_run(tmp_path, tiny_model, steps=10_000, faults={"max_restarts": 0})
    with (
        killing(tmp_path / "run", {2: "ray::PolicyWorker"}),
        pytest.raises(RunFailed, match="policy rank 0 is gone") as failed,
    ):
        train_here(config)
    failure = (tmp_path / "run" / "failure.txt").read_text()
    assert failure.endswith(f"{failed.value}\n")


@contextmanager
def killing(run: Path, names: dict[int, str]) -> Iterator[None]:
    """kill -9 of one process of this name below this one, once `run` has done that step."""

    def kill() -> None:
        for step, name in names.items():
            deadline = time.monotonic() + SECONDS
            while step not in steps(run) and time.monotonic() < deadline:
                time.sleep(0.05)
            called(name, psutil.Process().children(recursive=True))[0].kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    yield
    killer.join()


def test_a_wedged_collective_stops_the_run_within_its_deadline(
    tiny_model: Path, tmp_path: Path
) -> None:
    """One rank of two stands still: the other waits for it in a collective, the driver for both."""
    config = write_run(
        tmp_path,
        tiny_model,
        steps=10_000,
        learner={"workers": 2, "cpus": 0.5, "zero_stage": 2},
        deadlines={"learn": 15, "sync": 15},
        checkpoint={"every_steps": 10_000},
        data={"heldout": None},
    )
    process = start(config)
    wait_for_step(process, tmp_path / "run", 2)
    stopped = called("ray::PolicyWorker", processes_of(process.pid))[0]
    stopped.suspend()
    status, output = finish(process, seconds=180)
    assert status != 0
    assert re.search(r"no answer from policy rank \d.* within 15 s", output), output
    assert "Traceback" not in output
    assert left_after(60, [stopped]) == []
