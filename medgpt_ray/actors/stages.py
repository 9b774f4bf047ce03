"""The supervised stages: a stage is what an example becomes, a loss, and what its sums mean."""

import math
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medgpt_ray.actors import objective
from medgpt_ray.algos.kto import kl_baseline
from medgpt_ray.data.examples import Example
from medgpt_ray.models.packing import Sequence

Sums = dict[str, float]


@dataclass(frozen=True)
class Stage:
    """`loss(section, sequences, z0)` is the loss function of one global batch."""

    loss: Callable[[Any, Seq[Sequence], torch.Tensor], Any]
    per: dict[str, str]
    """Metric -> the count that its sum is divided by; others stay sums."""
    paired: bool = False
    """An example is two sequences, the chosen and the rejected."""
    reference: bool = False
    """The loss needs the field `reference_log_probs`, unless the objective is SimPO."""
    baseline: bool = False
    """The loss needs the KL baseline of KTO."""

    def means(self, sums: Sums) -> Sums:
        """Sums of the learner as metrics; counts stay, `nll` gets its perplexity."""
        found = {}
        for name, value in sums.items():
            count = self.per.get(name)
            if count is None:
                found[name] = value
            elif sums[count]:  # a batch without any desirable answer has no mean of them
                found[name] = value / sums[count]
        if "nll" in found:
            found["perplexity"] = math.exp(min(found["nll"], 700.0))
        return found


def _trained(sequences: Seq[Sequence]) -> int:
    return int(sum(sequence.fields["trained"].sum() for sequence in sequences))


LIKELIHOOD = Stage(
    loss=lambda section, batch, z0: objective.likelihood(_trained(batch)),
    per={"nll": "tokens", "accuracy": "tokens"},
)
STAGES = {
    "pt": LIKELIHOOD,
    "sft": LIKELIHOOD,
    "rm": Stage(
        loss=lambda section, batch, z0: objective.reward_model(section, len(batch) // 2),
        per=dict.fromkeys(("accuracy", "margin", "scores/chosen", "scores/rejected"), "pairs"),
        paired=True,
    ),
    "dpo": Stage(
        loss=lambda section, batch, z0: objective.dpo(section, len(batch) // 2),
        per=dict.fromkeys(
            (
                "rewards/chosen",
                "rewards/rejected",
                "rewards/margin",
                "rewards/accuracy",
                "logps/chosen",
                "logps/rejected",
            ),
            "pairs",
        ),
        paired=True,
        reference=True,
    ),
    "orpo": Stage(
        loss=lambda section, batch, z0: objective.orpo(section, len(batch) // 2),
        per={"nll": "pairs", "log_odds_ratio": "pairs", "accuracy": "pairs"},
        paired=True,
    ),
    "kto": Stage(
        loss=lambda section, batch, z0: objective.kto(section, len(batch), z0),
        per={
            "rewards/desirable": "examples/desirable",
            "rewards/undesirable": "examples/undesirable",
            "kl": "examples",
        },
        reference=True,
        baseline=True,
    ),
}


def sequences_of(examples: Seq[Example]) -> list[Sequence]:
    """The sequences of a batch. What comes before the first trained token is the prompt, which the
    two of a pair share; `margin` or `desirable` is repeated over the tokens."""
    made = []
    for example in examples:
        start = min(int(trained.argmax()) for _, trained in example.sequences)
        if len(example.sequences) == 2:
            (chosen, _), (rejected, _) = example.sequences
            length = min(len(chosen), len(rejected), start)
            differs = np.flatnonzero(chosen[:length] != rejected[:length])
            start = int(differs[0]) if len(differs) else length
        for ids, trained in example.sequences:
            tokens = ids.tolist()
            count = len(tokens) - start
            fields = {"trained": trained[start:].astype(np.float32)}
            name = "margin" if len(example.sequences) == 2 else "desirable"
            value = 0.0 if math.isnan(example.value) else example.value
            fields[name] = np.full(count, value, dtype=np.float32)
            made.append(Sequence(tuple(tokens[:start]), tuple(tokens[start:]), fields))
    return made


def mismatched(sequences: Seq[Sequence], max_tokens: int) -> list[Sequence]:
    """Each prompt with the answer of the next example, cut where both are longer than `max_tokens`:
    what KTO's baseline is measured on. A batch of one has no such answer."""
    crossed = []
    for one, other in zip(sequences, [*sequences[1:], sequences[0]], strict=True):
        room = max_tokens - len(one.prompt_ids)
        trained = other.fields["trained"][:room]
        crossed.append(Sequence(one.prompt_ids, other.completion_ids[:room], {"trained": trained}))
    return crossed if len(sequences) > 1 else []


def baseline(policy: Seq[np.ndarray], reference: Seq[np.ndarray], batch: Seq[Sequence]) -> Any:
    """z0 from log-probs [T] of mismatched sequences."""
    sums = [
        torch.tensor(
            [float((v * s.fields["trained"]).sum()) for v, s in zip(values, batch, strict=True)]
        )
        for values in (policy, reference)
    ]
    return kl_baseline(*sums)
