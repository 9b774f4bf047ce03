"""Where the wall time of a step goes, and what generating ahead gains.

    python -m benchmarks.rl_loop [--rounds 2] [--steps 6] [--output benchmarks/results/rl_loop.md]

The demo's configuration with `max_staleness` 0, 1 and 2, each once a round. Learner and engine get
a core each: on two cores that is what overlap can gain. The first step of a run warms up and is
left out. Beside it, what the sync costs against copying the same bytes in memory.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

import torch

from benchmarks import machine
from medgpt_ray.tracking.metrics import read_metrics

PHASES = ("generate", "reward", "learn", "sync", "other")
SECONDS = 1200
WEIGHTS = 134_515_008
"""Of the demo's model."""


def run(staleness: int, steps: int, folder: Path) -> list[dict[str, float]]:
    """The metrics of each step but the first."""
    command = [
        *(sys.executable, "-m", "medgpt_ray.cli", "train", "demo/grpo"),
        *(f"output_dir={folder}", f"steps={steps}", f"algorithm.max_staleness={staleness}"),
        *("learner.threads=1", "rollout.threads=1", "evaluation.max_prompts=1"),
        "checkpoint.every_steps=1000",
    ]
    subprocess.run(command, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
    records = [r for r in read_metrics(folder / "metrics.jsonl") if "loss" in r]
    return records[1:]


def copy_seconds() -> float:
    """To copy the weights once in bfloat16; a sync writes them and reads them."""
    source = torch.ones(WEIGHTS, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - began)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/rl_loop.md"))
    options = parser.parse_args()
    found: dict[int, list[list[dict[str, float]]]] = defaultdict(list)
    for number in range(options.rounds):
        for staleness in (0, 1, 2):
            with tempfile.TemporaryDirectory() as folder:
                found[staleness].append(run(staleness, options.steps, Path(folder) / "run"))
            last = mean(r["time/step"] for r in found[staleness][-1])
            print(f"round {number + 1}, max_staleness {staleness}: {last:.2f} s a step", flush=True)
    copy = copy_seconds()
    options.output.write_text(text(found, copy, options.rounds, options.steps))


def text(
    found: dict[int, list[list[dict[str, float]]]], copy: float, rounds: int, steps: int
) -> str:
    lines = [
        "# The loop of reinforcement learning",
        "",
        f"{time.strftime('%Y-%m-%d')}, `python -m benchmarks.rl_loop --rounds {rounds} --steps "
        f"{steps}`, {machine.describe(threads=1)}. Seconds a step of 64 samples, mean over the "
        "steps but the first; "
        "in brackets the means of the rounds.",
        "",
        "| max_staleness | step | " + " | ".join(PHASES) + " | outside generate, reward, learn |",
        "|---|" + "---|" * (len(PHASES) + 2),
    ]
    for staleness, runs in found.items():
        records = [record for each in runs for record in each]
        step = mean(r["time/step"] for r in records)
        parts = {phase: mean(r[f"time/{phase}"] for r in records) for phase in PHASES}
        each = ", ".join(f"{mean(r['time/step'] for r in one):.2f}" for one in runs)
        outside = (parts["sync"] + parts["other"]) / step
        cells = " | ".join(f"{value:.2f}" for value in parts.values())
        lines.append(f"| {staleness} | {step:.2f} ({each}) | {cells} | {outside:.1%} |")
    sync = mean(r["time/sync"] for runs in found.values() for one in runs for r in one)
    lines += [
        "",
        f"With `max_staleness` above 0, `generate` is the wait for what is not there yet. A sync "
        f"takes {sync:.2f} s, copying the same bytes in memory {copy:.3f} s.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
