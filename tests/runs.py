"""Runs of the command `medgpt train` for the end-to-end tests, with the tiny model on real
parts.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import psutil

from medgpt_ray.config.loader import load

SECONDS = 600
"""The longest a test waits for what it has started: this ends what hangs, not what a loaded machine
slows down."""

REWARDS = Path(__file__).with_name("tiny_rewards.py")


def write_run(folder: Path, tiny: Path, **overrides: Any) -> Path:
    """A configuration with its data and rewards; returns the YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(REWARDS, folder)  # a run by command finds it where it starts
    answers = overrides.pop("answers", [str(number) for number in range(12)])
    for side, when in (("train", "today"), ("heldout", "now")):
        rows = [{"question": f"Say {n} {when}.", "answer": a} for n, a in enumerate(answers)]
        (folder / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "stage": "grpo",
        "output_dir": str(folder / "run"),
        "steps": 4,
        "model": {"path": str(tiny), "dtype": "float32"},
        "data": {
            "train": str(folder / "train.jsonl"),
            "heldout": str(folder / "heldout.jsonl"),
            "max_prompt_tokens": 48,
        },
        "algorithm": {"prompts_per_step": 4, "completions_per_prompt": 4},
        "rewards": [{"function": "tiny_rewards:vowels"}],
        "learner": {"learning_rate": 0.003, "max_tokens_per_microbatch": 128},
        "rollout": {"max_completion_tokens": 16, "kv_cache_gib": 0.05, "dtype": "float32"},
        "checkpoint": {"every_steps": 2},
        "cluster": {"cpus": 8},
    }
    settings = merged(config, overrides)
    (folder / "run.yaml").write_text(json.dumps(settings, indent=1))
    return folder / "run.yaml"


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if both else value
    return result


def start(config: Path, *arguments: str) -> subprocess.Popen[str]:
    """`medgpt train` in the folder of the configuration, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "medgpt_ray.cli", "train", str(config), *arguments],
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
    )


def processes_of(driver: int) -> list[psutil.Process]:
    """The processes of a driver at work, the only one that was started since: those below it, and
    its forked workers, which are below the process that forks (see `warm.py`).
    """
    born, found = psutil.Process(driver).create_time(), []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            found += [child] if child.create_time() >= born and child.pid != driver else []
    return found


def called(name: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of them with this in their command line."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += [process] if name in " ".join(process.cmdline()) else []
    return found


def finish(process: subprocess.Popen[str], seconds: float = SECONDS) -> tuple[int, str]:
    """Exit status and output."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"still running after {seconds} s:\n{output}") from None
    return process.returncode, output


def train(config: Path, *arguments: str) -> str:
    """A run by command that must succeed; returns its output."""
    status, output = finish(start(config, *arguments))
    assert status == 0, output
    return output


def train_here(config: Path, resume: bool = False) -> str:
    """The same in this process, on the Ray that is up in it: half of the time, which is spent on
    starting things. Returns what it printed.
    """
    from medgpt_ray import pipeline, rl, supervised

    loaded = load(config)
    stage = loaded.config.stage
    with redirect_stdout(io.StringIO()) as printed:
        if stage == "pipeline":
            pipeline.train(loaded, resume)
        elif stage in ("grpo", "ppo"):
            rl.train(loaded.config, loaded.source, resume)
        else:
            supervised.train(loaded.config, loaded.source, resume)
    return printed.getvalue()


def records(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [record for line in lines if line.endswith("}") for record in [json.loads(line)]]


def steps(run: Path) -> dict[int, dict[str, Any]]:
    """Step -> training metrics, without those of the clock and the machine."""
    volatile = ("time", "tokens_per_s/", "memory/", "critic/memory/")
    return {
        record["step"]: {k: v for k, v in record.items() if not k.startswith(volatile)}
        for record in records(run)
        if "loss" in record or "reward/mean" in record
    }


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until the metrics hold `step`; fails when the run ends before."""
    deadline = time.monotonic() + SECONDS
    while step not in steps(run):
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline, f"step {step} never came"
        time.sleep(0.05)
