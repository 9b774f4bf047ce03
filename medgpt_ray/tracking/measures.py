"""What tells how well a supervised run goes: by stage, the metrics with their names and signs."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """Metrics that are drawn together: label -> name in the records of training and validation."""

    title: str
    metrics: dict[str, str]
    better: Literal["lower", "higher"] | None = None
    """None where neither is better in itself."""


@dataclass(frozen=True)
class Stage:
    title: str
    measures: tuple[Measure, ...]


_LOSS = Measure("Loss", {"": "loss"}, "lower")
_PAIRS_RIGHT = "Pairs in the right order"
_LIKELIHOOD = (
    _LOSS,
    Measure("Perplexity", {"": "perplexity"}, "lower"),
    Measure("Token accuracy", {"": "accuracy"}, "higher"),
)
STAGES = {
    "pt": Stage("Continued pre-training", _LIKELIHOOD),
    "sft": Stage("Supervised fine-tuning", _LIKELIHOOD),
    "rm": Stage(
        "Reward modelling",
        (
            _LOSS,
            Measure(_PAIRS_RIGHT, {"": "accuracy"}, "higher"),
            Measure("Score margin", {"": "margin"}, "higher"),
            Measure("Score", {"chosen": "scores/chosen", "rejected": "scores/rejected"}),
        ),
    ),
    "dpo": Stage(
        "Direct preference optimisation",
        (
            _LOSS,
            Measure(_PAIRS_RIGHT, {"": "rewards/accuracy"}, "higher"),
            Measure("Reward margin", {"": "rewards/margin"}, "higher"),
            Measure("Reward", {"chosen": "rewards/chosen", "rejected": "rewards/rejected"}),
            Measure("Log-prob", {"chosen": "logps/chosen", "rejected": "logps/rejected"}),
        ),
    ),
    "orpo": Stage(
        "Odds-ratio preference optimisation",
        (
            _LOSS,
            Measure("Perplexity of the chosen", {"": "perplexity"}, "lower"),
            Measure(_PAIRS_RIGHT, {"": "accuracy"}, "higher"),
            Measure("Log odds ratio", {"": "log_odds_ratio"}, "higher"),
        ),
    ),
    "kto": Stage(
        "Kahneman-Tversky optimisation",
        (
            _LOSS,
            Measure(
                "Reward",
                {"desirable": "rewards/desirable", "undesirable": "rewards/undesirable"},
            ),
            Measure("KL to the reference", {"": "kl"}),
        ),
    ),
}
