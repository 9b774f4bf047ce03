"""The learning half of a step: from scored samples to updated weights.

log-probs and values -> targets of the global batch -> updates, mini-batch by mini-batch
"""

from dataclasses import dataclass

import numpy as np
import torch

from medgpt_ray import batch
from medgpt_ray.actors.cluster import Models
from medgpt_ray.algos.advantages import zero_variance_groups
from medgpt_ray.algos.policy_gradient import PolicyGradient, Rollouts
from medgpt_ray.config.schema import PpoRun, RlRun
from medgpt_ray.models.packing import Sequence
from medgpt_ray.step_metrics import average, per_token
from medgpt_ray.types import Sample

Metrics = dict[str, float]


@dataclass(frozen=True)
class Step:
    """What is learned from: `samples` [B] have rewards, `group` [B] numbers their prompts."""

    number: int
    """From 1."""
    samples: list[Sample]
    group: torch.Tensor
    """Ascending."""
    kl_coefficient: float


@dataclass(frozen=True)
class Learned:
    """What came of it."""

    metrics: Metrics
    samples: list[Sample]
    """With their advantages."""
    sequences: list[Sequence]
    """With every field that the updates were made from."""


def learn(config: RlRun, models: Models, algorithm: PolicyGradient, step: Step) -> Learned:
    """All updates of one step."""
    limit = config.rollout.max_completion_tokens
    sequences = _scored(config, models, algorithm, batch.to_sequences(algorithm, step.samples))
    rollouts = batch.rollouts(algorithm, step.samples, sequences, step.group, limit)
    targets = algorithm.targets(rollouts, step.kl_coefficient)
    sequences = batch.with_targets(sequences, targets)
    samples = batch.with_advantages(step.samples, sequences)
    rewards = torch.tensor([sample.reward for sample in samples], dtype=torch.float64)
    metrics = {
        "zero_variance_groups": float(zero_variance_groups(rewards, step.group)),
    }
    trained = [
        abs(sample.advantage)
        for sample, s in zip(samples, sequences, strict=True)
        if s.fields["mask"].any()
    ]
    if trained:
        metrics["advantage/abs_mean"] = float(np.mean(trained))
    if algorithm.shapes_rewards:
        metrics["kl/completion"] = float(algorithm.completion_kl(rollouts).mean())
        metrics["kl/coefficient"] = step.kl_coefficient
    if algorithm.config.overlong:
        metrics["reward/overlong"] = float((rollouts.rewards - rewards).mean())
    if targets.returns is not None:
        metrics["critic/explained_variance"] = _explained(rollouts, targets.returns)
    metrics |= _updates(config, models, algorithm, sequences, step)
    return Learned(metrics, samples, sequences)


def _scored(
    config: RlRun, models: Models, algorithm: PolicyGradient, sequences: list[Sequence]
) -> list[Sequence]:
    """With the old and reference log-probs and the values that the updates need."""
    calls = {}
    if config.algorithm.updates_per_step > 1 or algorithm.shapes_rewards:
        calls["old_log_probs"] = models.policy.begin("log_probs", sequences, True)
    if models.critic:
        calls["old_values"] = models.critic.begin("values", sequences)
    if algorithm.needs_reference:
        calls["reference_log_probs"] = (
            models.reference.begin(sequences)
            if models.reference
            else models.policy.begin("log_probs", sequences, False)
        )
    for name, call in calls.items():
        sequences = batch.with_field(sequences, name, call.result())
    return sequences


def _updates(
    config: RlRun,
    models: Models,
    algorithm: PolicyGradient,
    sequences: list[Sequence],
    step: Step,
) -> Metrics:
    """Policy and critic learn beside each other; in its warm-up the critic alone."""
    limit = config.rollout.max_completion_tokens
    warming_up = isinstance(config, PpoRun) and step.number <= config.algorithm.critic_warmup_steps
    policy_sums: list[Metrics] = []
    critic_sums: list[Metrics] = []
    for _ in range(config.algorithm.epochs_per_step):
        for part in batch.split_minibatches(step.group, config.algorithm.minibatches_per_step):
            chosen = [sequences[i] for i in part]
            for_policy = batch.policy_update(algorithm, chosen, limit)
            for_critic = batch.critic_update(chosen, limit)
            calls = {}
            if not warming_up:
                calls["policy"] = models.policy.begin(
                    "step", for_policy.sequences, for_policy.normaliser
                )
            if models.critic:
                calls["critic"] = models.critic.begin(
                    "step", for_critic.sequences, for_critic.normaliser
                )
            if "policy" in calls:
                policy_sums.append(per_token(calls["policy"].result(), for_policy.tokens))
            if "critic" in calls:
                critic_sums.append(per_token(calls["critic"].result(), for_critic.tokens))
    metrics = average(policy_sums) if policy_sums else {"tokens/learned": 0.0}
    if critic_sums:
        metrics |= {f"critic/{name}": value for name, value in average(critic_sums).items()}
    return metrics


def _explained(rollouts: Rollouts, returns: torch.Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the trained tokens: 1 for a perfect critic, 0
    for one that always says the mean, and 0 where the returns do not vary.
    """
    assert rollouts.values is not None
    kept = rollouts.mask > 0
    spread = returns[kept].var()
    if kept.sum() < 2 or spread == 0:
        return 0.0
    return float(1 - (returns - rollouts.values)[kept].var() / spread)
