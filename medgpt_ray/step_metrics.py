"""What the samples and the updates of one step amount to in numbers."""

import numpy as np

from medgpt_ray.types import Sample


def sample_metrics(samples: list[Sample], failed: list[Sample], version: int) -> dict[str, float]:
    rewards = [s.reward for s in samples]
    every = samples + failed
    lengths = [len(s.completion.token_ids) for s in every]
    ages = [version - s.completion.oldest_version for s in every]
    turns = [1 + len(s.completion.observed) for s in every]
    heard = sum(end - start for s in every for start, end in s.completion.observed)
    several = {"turns/mean": float(np.mean(turns))} if max(turns) > 1 else {}
    parts = {
        f"reward/{name}": float(np.mean([s.reward_parts[name] for s in samples]))
        for name in samples[0].reward_parts
    }
    return (
        parts
        | several
        | {
            "reward/mean": float(np.mean(rewards)),
            "reward/std": float(np.std(rewards)),
            "completion_length/mean": float(np.mean(lengths)),
            "completion_length/max": float(max(lengths)),
            "truncated_share": float(np.mean([s.completion.truncated for s in every])),
            "failed_samples": float(len(failed)),
            "staleness/mean": float(np.mean(ages)),
            "staleness/max": float(max(ages)),
            "tokens/generated": float(sum(lengths) - heard),
        }
    )


PER_UPDATE = ("loss", "grad_norm", "learning_rate", "tokens/learned", "memory/learner_gib")


def per_token(sums: dict[str, float], tokens: int) -> dict[str, float]:
    """Sums over tokens become means, which no tokens have; maxima and what counts once an update
    stay."""
    return {
        name: value if name in PER_UPDATE or name.endswith("/max") else value / tokens
        for name, value in sums.items()
        if tokens or name in PER_UPDATE
    }


def average(updates: list[dict[str, float]]) -> dict[str, float]:
    """One step's metrics from those of its updates: largest of maxima, sum of tokens, else mean."""
    combine = {
        name: max if name.endswith("/max") else sum if name == "tokens/learned" else np.mean
        for update in updates
        for name in update
    }
    return {
        name: float(how([u[name] for u in updates if name in u])) for name, how in combine.items()
    }


def clock(
    times: dict[str, float], seconds: float, metrics: dict[str, float], beside: bool
) -> dict[str, float]:
    """Where the time of a step went: `times` by phase, `seconds` from its first prompt to its last
    update. The sync that brought its policy to the engines came before.

    Where generation goes on `beside` learning, `times` has only how long it was waited for: its
    speed is then over the whole step.
    """
    busy = times["generate"] + times["reward"] + times["learn"]
    return {f"time/{phase}": spent for phase, spent in times.items()} | {
        "time/step": seconds + times["sync"],
        "time/other": seconds - busy,
        "tokens_per_s/generate": metrics["tokens/generated"]
        / (seconds if beside else times["generate"]),
        "tokens_per_s/learn": metrics["tokens/learned"] / times["learn"],
    }


def failure_line(sample: Sample) -> str:
    failure = sample.failure
    assert failure is not None
    place = f"{failure.prompt_id}, completion {failure.index}"
    return f"reward {failure.function} failed on {place}: {failure.error}"
