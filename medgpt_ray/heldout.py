"""Held-out scores: the greedy answer to each prompt, and a bootstrap interval over prompts."""

import numpy as np

from medgpt_ray.actors.pool import RolloutPool
from medgpt_ray.actors.rewards import score_completions
from medgpt_ray.actors.wait import RunFailed
from medgpt_ray.config.schema import RlRun
from medgpt_ray.tracking.rundir import RunDirectory, by_step
from medgpt_ray.tracking.samples import read_samples
from medgpt_ray.tracking.statistics import bootstrap_interval, paired_bootstrap
from medgpt_ray.types import Prompt, Sample


def evaluate(
    config: RlRun, pool: RolloutPool, prompts: list[Prompt]
) -> tuple[list[Sample], dict[str, float]]:
    """Score the engines' current policy on prompts it never trains on.

    Failed rewards stay in the samples and out of the score; `RunFailed` when all failed.
    """
    completions = pool.start_generation(prompts, 1, seed=config.seed, greedy=True).result()
    groups = score_completions(config.rewards, prompts, completions)
    samples = [sample for group in groups for sample in group]
    scored = [sample for sample in samples if not sample.failure]
    if not scored:
        raise RunFailed(f"held-out evaluation: every reward failed: {samples[0].failure}")
    interval = bootstrap_interval([sample.reward for sample in scored])
    metrics = {
        "heldout/reward": interval.mean,
        "heldout/ci_low": interval.low,
        "heldout/ci_high": interval.high,
        "heldout/completion_length": float(np.mean([len(s.completion.token_ids) for s in samples])),
    }
    for name in scored[0].reward_parts:
        metrics[f"heldout/{name}"] = float(np.mean([s.reward_parts[name] for s in scored]))
    return samples, metrics


def before_and_after(run: RunDirectory) -> str:
    """The first and the last held-out score of a run, and the change paired over prompts."""
    files = by_step(run.heldout)
    first, last = min(files), max(files)
    before, after = (
        {s.prompt.id: s.reward for s in read_samples(files[step]) if not s.failure}
        for step in (first, last)
    )
    shared = [prompt for prompt in before if prompt in after]
    change = paired_bootstrap([before[p] for p in shared], [after[p] for p in shared])
    lines = [
        f"held-out reward {name} (step {step}): {interval.mean:.3f} "
        f"[95% interval {interval.low:.3f} to {interval.high:.3f}]"
        for name, step, scores in (("before", first, before), ("after", last, after))
        for interval in [bootstrap_interval(list(scores.values()))]
    ]
    return "\n".join(
        [
            *lines,
            f"change: {change.mean:+.3f} [{change.low:+.3f} to {change.high:+.3f}], "
            f"{len(shared)} prompts",
        ]
    )
