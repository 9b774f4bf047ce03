"""Runs whose processes are killed at random: what they trained on must be what a calm run does.

python tests/chaos.py --minutes 60 [--seed 0] [--output FILE]      (make chaos)
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
from runs import SECONDS, called, finish, merged, processes_of, start, steps, train, write_run

from medgpt_ray.tracking.samples import read_samples

VICTIMS = ("RolloutWorker", "PolicyWorker", "ReferenceWorker", "driver")
SETTINGS: dict[str, Any] = {
    "steps": 60,
    "algorithm": {"kl": {"coefficient": 0.02}},
    "checkpoint": {"every_steps": 7},
    "rollout": {"workers": 2},
    "faults": {"max_restarts": 20},
}
GROUPS = (
    "grpo",
    "dr_grpo",
    "dapo",
    "gspo",
    "cispo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_baseline",
)
PPO = {
    "stage": "ppo",
    "algorithm": {
        "minibatches_per_step": 2,
        "kl": {"estimator": "k1", "placement": "reward", "target": 2.0, "horizon": 100},
    },
}
"""With an adaptive coefficient, whose state has to come back as well."""

Trained = Counter[tuple[str, int, int]]


def family() -> dict[str, dict[str, Any]]:
    """Algorithm -> settings of its runs."""
    groups = {name: merged(SETTINGS, {"algorithm": {"name": name}}) for name in GROUPS}
    return {**groups, "ppo": merged(SETTINGS, PPO)}


def trained(run: Path) -> Trained:
    """How often each (prompt, index, policy version) was trained on."""
    return Counter(
        (s.prompt.id, s.completion.index, s.completion.oldest_version)
        for file in sorted((run / "samples").glob("*.parquet"))
        for s in read_samples(file)
    )


def stormy(
    folder: Path, tiny: Path, settings: dict[str, Any], draw: random.Random, kills: int
) -> list[str]:
    """A run with `kills` kills, each at a random moment after a random step; returns who was
    killed, and when.
    """
    config = write_run(folder, tiny, **settings)
    victims = [*VICTIMS, *(["CriticWorker"] if settings.get("stage") == "ppo" else [])]
    process, told = start(config), []
    deadline = time.monotonic() + SECONDS
    while len(told) < kills and process.poll() is None:
        assert time.monotonic() < deadline, f"hangs after {told}"
        step = draw.randint(0, settings["steps"] - 1)
        while len(steps(folder / "run")) < step and process.poll() is None:
            assert time.monotonic() < deadline, f"hangs after {told}"
            time.sleep(0.05)
        time.sleep(draw.uniform(0.0, 4.0 if step == 0 else 0.2))
        victim = draw.choice(victims)
        done = len(steps(folder / "run"))
        if process.poll() is not None:
            break
        if victim == "driver":
            process.kill()
            finish(process)
            begun = (folder / "run" / "config.yaml").exists()
            process = start(config, *(["--resume"] if begun else []))
        elif not kill(process.pid, f"ray::{victim}"):
            continue
        told.append(f"{victim} after step {done}")
    status, output = finish(process)
    assert status == 0, f"{told}\n{output}"
    return told


def kill(driver: int, name: str) -> bool:
    """kill -9 of one of the driver's processes of this name; whether there was one."""
    try:
        found = called(name, processes_of(driver))
        if found:
            found[0].kill()
        return bool(found)
    except psutil.NoSuchProcess:
        return False


def check(calm: Path, run: Path) -> None:
    assert trained(run) == trained(calm)
    assert steps(run) == steps(calm)


def main() -> None:
    from medgpt_ray.models.tiny import write_tiny_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    draw, killed, runs = random.Random(options.seed), Counter(), Counter()
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = write_tiny_model(folder / "tiny")
        for algorithm, settings in cycle(family().items()):
            if time.monotonic() > end:
                break
            calm, torn = folder / algorithm, folder / f"{algorithm}-{runs[algorithm]}"
            if not calm.exists():
                train(write_run(calm, tiny, **settings))
            backend = draw.choice(["shm", "gloo"])  # the calm one is the same with either
            sent = merged(settings, {"sync": {"backend": backend}})
            told = stormy(torn, tiny, sent, draw, draw.randint(1, 4))
            check(calm / "run", torn / "run")
            runs[algorithm] += 1
            killed.update(who.partition(" ")[0] for who in told)
            after = ", ".join(told) or "no kill"
            print(f"{algorithm}, {backend}: as the calm one after {after}", flush=True)
    text = (
        f"{runs.total()} runs of {SETTINGS['steps']} steps, all like the calm one of their "
        f"algorithm: {listed(runs)}. Killed: {listed(killed)}."
    )
    print(text)
    if options.output:
        options.output.write_text(
            f"# Random kills\n\n{time.strftime('%Y-%m-%d')}, `make chaos` ({options.minutes:g} "
            f"minutes, seed {options.seed}), tiny model, two engines, a reference, on two CPU "
            f"cores; weights go by shared memory or gloo.\n\n{text}\n"
        )


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count} times" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    main()
