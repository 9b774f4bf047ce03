"""The controller alone, with thousands of simulated rollout workers and heavy-tailed lengths.

    python -m benchmarks.scale_sim [--workers 2000] [--steps 5] [--output FILE]

Simulated are the engines (their answers are in Ray's object store before the pool asks) and the
learner (it answers at once). Everything between is the product's own code on one core: drawing
prompts, cutting and handing out shares, collecting and ordering completions, rewards' bookkeeping,
targets, masks, mini-batches, metrics. Reward functions are not run. Times are CPU seconds of this
process, so that other work on the machine does not count.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import ray
import torch

from medgpt_ray.actors.cluster import Models
from medgpt_ray.actors.pool import RolloutPool
from medgpt_ray.algos import ALGORITHMS
from medgpt_ray.config.schema import GrpoRun
from medgpt_ray.data.prompts import PromptSource
from medgpt_ray.step_metrics import sample_metrics
from medgpt_ray.types import Completion, Prompt, Sample, VersionSpan
from medgpt_ray.update import Step, learn

PROMPT_TOKENS, LONGEST = 64, 2048


def config(workers: int, per_worker: int) -> GrpoRun:
    return GrpoRun.model_validate(
        {
            "stage": "grpo",
            "output_dir": "unused",
            "steps": 1,
            "model": {"path": "unused"},
            "data": {"train": "unused", "max_prompt_tokens": PROMPT_TOKENS},
            "rewards": [{"function": "a:b"}],
            "algorithm": {
                "prompts_per_step": workers * per_worker,
                "completions_per_prompt": 4,
                "minibatches_per_step": 4,
            },
            "rollout": {"workers": workers, "max_completion_tokens": LONGEST},
            "learner": {"max_tokens_per_microbatch": 4096},
        }
    )


class Method:
    """`actor.method.remote(...)` whose answer is there at once."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def remote(self, *arguments: Any) -> ray.ObjectRef:
        return ray.put(self.answer(*arguments))


class Engine:
    """Answers with random tokens, as many as a log-normal law says: a median of 120, some 2,048."""

    def __init__(self, number: int) -> None:
        self.random = np.random.default_rng(number)
        self.ready = Method(lambda: {"pid": 0})
        self.audit = Method(lambda version: {})
        self.generate = Method(self._generate)

    def _generate(
        self, prompts: list[Prompt], completions: int, seed: int, greedy: bool
    ) -> list[list[Completion]]:
        return [[self._one(p, index) for index in range(completions)] for p in prompts]

    def _one(self, prompt: Prompt, index: int) -> Completion:
        length = int(np.clip(self.random.lognormal(np.log(120), 1.2), 1, LONGEST))
        ids = tuple(self.random.integers(0, 30_000, length).tolist())
        logs = tuple((-self.random.exponential(0.7, length)).tolist())
        spans = (VersionSpan(0, 0, length),)
        return Completion(prompt.id, index, ids, logs, "text", "stop", spans)


class Done:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def result(self) -> Any:
        return self.answer


class Learner:
    """Answers at once; `call` and `begin` as those of a learner group."""

    def call(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        return {}

    def begin(self, method: str, *arguments: Any, seconds: float | None = None) -> Done:
        if method == "log_probs":
            return Done([s.fields["rollout_log_probs"] for s in arguments[0]])
        return Done({"loss": 0.0, "grad_norm": 1.0, "tokens/learned": 1.0})


def step(
    pool: RolloutPool, source: PromptSource, run: GrpoRun, rewards: np.random.Generator
) -> tuple[int, float, float]:
    """Completions handled, seconds of the controller, and those that only made fake answers."""
    algorithm = run.algorithm
    began = time.process_time()
    generation = pool.start_generation(
        source.take(algorithm.prompts_per_step), algorithm.completions_per_prompt, seed=0
    )
    faked = time.process_time() - began  # engines answer inside the call
    began = time.process_time()
    groups = generation.result()
    samples = [
        Sample(prompt, completion, {"fake": score}, score)
        for prompt, group in zip(generation.prompts, groups, strict=True)
        for completion, score in zip(group, rewards.random(len(group)).tolist(), strict=True)
    ]
    group = torch.arange(len(groups)).repeat_interleave(algorithm.completions_per_prompt)
    sample_metrics(samples, [], 0)
    record = ALGORITHMS[algorithm.name](algorithm)
    learn(run, Models(policy=Learner()), record, Step(1, samples, group, 0.0))
    return len(samples), time.process_time() - began, faked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2000)
    parser.add_argument("--per-worker", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/scale_sim.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    run = config(options.workers, options.per_worker)
    prompts = [
        Prompt(f"p:{n}", ({"role": "user", "content": "?"},), (1,) * PROMPT_TOKENS, {})
        for n in range(4 * run.algorithm.prompts_per_step)
    ]
    source, rewards = PromptSource(prompts, 0), np.random.default_rng(0)
    pool = RolloutPool(run, Learner(), Engine, lambda: None)
    pool.sync(0, 60.0)
    lines, process = [], psutil.Process()
    for number in range(options.steps):
        handled, seconds, faked = step(pool, source, run, rewards)
        memory = process.memory_info().rss / 2**30
        lines.append((number + 1, handled, seconds, handled / seconds, memory))
        print(
            f"step {number + 1}: {handled:,} completions, {seconds:.2f} s, "
            f"{handled / seconds:,.0f}/s, {memory:.2f} GiB ({faked:.2f} s of fake answers)"
        )
    ray.shutdown()
    rates = sorted(line[3] for line in lines[1:])
    text = [
        "# The controller alone",
        "",
        f"{time.strftime('%Y-%m-%d')}, `python -m benchmarks.scale_sim --workers {options.workers} "
        f"--per-worker {options.per_worker} --steps {options.steps}`: {options.workers:,} "
        "simulated engines, completions of log-normal length (median 120 tokens, at most 2,048), "
        "one core. "
        "Engines and learner are simulated, and reward functions are not run.",
        "",
        "| step | completions | CPU seconds | completions/s | memory |",
        "|---|---|---|---|---|",
        *(f"| {n} | {h:,} | {s:.2f} | {r:,.0f} | {m:.2f} GiB |" for n, h, s, r, m in lines),
        "",
        f"Median after the first step: {median(rates):,.0f} completions/s "
        f"({rates[0]:,.0f} to {rates[-1]:,.0f}).",
        "",
    ]
    options.output.write_text("\n".join(text))


if __name__ == "__main__":
    main()
