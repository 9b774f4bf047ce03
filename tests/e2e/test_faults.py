"""Runs that are killed, interrupted, or given rewards that fail and disks that fill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from runs import finish, start, steps, train, wait_for_step, write_run

from medgpt_ray.tracking.checkpoints import Checkpoints
from medgpt_ray.tracking.samples import read_samples


def test_interrupt_leaves_a_checkpoint_and_no_process(tiny_model: Path, tmp_path: Path) -> None:
    config = write_run(tmp_path, tiny_model, steps=10_000, checkpoint={"every_steps": 5000})
    process = start(config)
    wait_for_step(process, tmp_path / "run", 3)
    before = set(_ray_processes())
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    started = time.monotonic()
    status, output = finish(process, seconds=30)
    assert time.monotonic() - started < 10
    assert status != 0
    latest = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert latest is not None, output
    assert str(latest) in output
    assert not before & set(_ray_processes())


def _ray_processes() -> list[int]:
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    rows = [line.split(None, 1) for line in listing.stdout.splitlines()[1:]]
    return [int(pid) for pid, args in rows if "ray::" in args or "/raylet" in args]


def test_rewards_that_fail_cost_their_samples_only(tiny_model: Path, tmp_path: Path) -> None:
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
    output = train(config)
    samples = read_samples(tmp_path / "run" / "samples" / "step_1.parquet")
    failed = {s.prompt.row["answer"]: s.failure.error for s in samples if s.failure}
    assert set(failed) == {"raise", "nan", "hang", "die"}
    assert "KeyError" in failed["raise"]
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
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode not in (0, 32), done.stdout + done.stderr
    assert "No space left on device" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "step_2" in done.stdout


def test_an_actor_that_dies_stops_the_run_with_a_post_mortem(
    tiny_model: Path, tmp_path: Path
) -> None:
    process = start(write_run(tmp_path, tiny_model, steps=10_000))
    wait_for_step(process, tmp_path / "run", 2)
    (engine,) = [
        int(line.split()[0])
        for line in subprocess.run(
            ["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        if "ray::RolloutWorker" in line
    ]
    os.kill(engine, signal.SIGKILL)
    status, output = finish(process, seconds=60)
    assert status != 0
    assert "rollout worker 0" in output
    assert "Traceback" not in output
