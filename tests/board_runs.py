"""Run directories for the tests of the board, written by the package without training."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clusters import free_ports
from runs import SECONDS

from medgpt_ray.config.schema import GrpoRun
from medgpt_ray.tracking.metrics import MetricsLog
from medgpt_ray.tracking.rundir import RunDirectory, file_sha256
from medgpt_ray.tracking.samples import write_samples
from medgpt_ray.types import Completion, Prompt, Sample, VersionSpan

QUESTION = "What is the dose of iron?"


def sample(
    line: int, reward: float, text: str, question: str = QUESTION, advantage: float = -0.25
) -> Sample:
    prompt = Prompt(
        id=f"heldout.jsonl:{line}",
        messages=({"role": "user", "content": question},),
        token_ids=(1, 882, 3),
        row={"question": question, "answer": "60 mg"},
    )
    completion = Completion(
        prompt_id=prompt.id,
        index=0,
        token_ids=(504, 7, 2),
        log_probs=(-0.1, -0.2, -0.3),
        text=text,
        finish_reason="stop",
        versions=(VersionSpan(3, 0, 3),),
    )
    parts = {"exact": reward, "brevity": 1.0}
    return Sample(prompt, completion, parts, reward, advantage=advantage)


def write_grpo_run(
    path: Path, samples: dict[int, Sequence[Sample]], heldout: dict[int, Sequence[Sample]]
) -> RunDirectory:
    """A run of 20 steps of which three are done."""
    data = path.parent / "train.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    data.write_text('{"question": "dose?", "answer": "5 mg"}\n')
    config = GrpoRun.model_validate(
        {
            "stage": "grpo",
            "output_dir": str(path),
            "steps": 20,
            "model": {"path": "models/small"},
            "data": {"train": str(data)},
            "rewards": [{"function": "scores:exact"}, {"function": "scores:brevity"}],
        }
    )
    run = RunDirectory.create(
        path, config, "stage: grpo\n", {"train": {str(data): file_sha256(data)}}, {}
    )
    for step, found in samples.items():
        write_samples(run.samples_file(step), found)
    for step, found in heldout.items():
        write_samples(run.heldout_file(step), found)
    log_steps(run, range(1, 4))
    return run


def log_steps(run: RunDirectory, steps: Sequence[int]) -> None:
    log = MetricsLog(run, tensorboard=False, resume_after=min(steps) - 1)
    for step in steps:
        log.log(step, {"reward/mean": step / 10, "kl": 0.001, "time/step": 5.0})
    log.close()


@contextmanager
def board(folder: Path, *options: str, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The command itself; the address that it prints."""
    command = [sys.executable, "-m", "medgpt_ray.cli", "board", str(folder)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(free_ports(1)[0]), *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        yield _address(process, log), process
    finally:
        process.terminate()
        process.wait(60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("open http") and "token=" in line:
                return line.removeprefix("open ")
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the board never came: {log.read_text()}")


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
