"""Which metrics of a step the terminal shows, and under which names."""

from collections.abc import Callable
from dataclasses import dataclass

from medgpt_ray.tracking.format import number, percent

Shown = tuple[str, str, Callable[[float], str]]
"""Label, metric, and how its value is written."""


@dataclass(frozen=True)
class Layout:
    """What is shown of the metrics of a step, as far as they are there."""

    main: Shown
    """Stands out, and is a curve."""
    rows: tuple[Shown, ...]
    """Of the panel."""
    line: tuple[Shown, ...]
    """Of a plain line, after `main`."""
    faults: tuple[Shown, ...] = ()
    """In both, but of a plain line only where they are not zero."""


REINFORCEMENT = Layout(
    main=("reward", "reward/mean", number),
    rows=(
        ("tokens/s generate", "tokens_per_s/generate", number),
        ("tokens/s learn", "tokens_per_s/learn", number),
        ("KL to reference", "kl", number),
        ("clip fraction", "clip_fraction", percent),
        ("entropy", "entropy", number),
        ("completion length", "completion_length/mean", number),
        ("truncated", "truncated_share", percent),
        ("log-prob difference", "logprob_difference/mean", number),
        ("... largest", "logprob_difference/max", number),
        ("grad norm", "grad_norm", number),
        ("failed samples", "failed_samples", number),
    ),
    line=(
        ("kl", "kl", number),
        ("clip", "clip_fraction", percent),
        ("entropy", "entropy", number),
        ("length", "completion_length/mean", number),
        ("truncated", "truncated_share", percent),
        ("failed", "failed_samples", number),
    ),
)
MEASURES = (
    ("perplexity", "perplexity", number),
    ("accuracy", "accuracy", number),
    ("margin", "margin", number),
    ("reward accuracy", "rewards/accuracy", number),
    ("reward margin", "rewards/margin", number),
    ("log odds ratio", "log_odds_ratio", number),
    ("desirable reward", "rewards/desirable", number),
    ("undesirable reward", "rewards/undesirable", number),
    ("kl", "kl", number),
)
"""Of the supervised stages, beside the loss; each stage has some of them."""
SUPERVISED = Layout(
    main=("loss", "loss", number),
    rows=(
        *MEASURES,
        ("learning rate", "learning_rate", number),
        ("grad norm", "grad_norm", number),
        ("tokens/s learn", "tokens_per_s/learn", number),
        ("epoch", "epoch", number),
    ),
    line=(
        *MEASURES,
        ("lr", "learning_rate", number),
        ("grad norm", "grad_norm", number),
        ("tokens/s", "tokens_per_s/learn", number),
        ("epoch", "epoch", number),
    ),
    faults=(
        ("rejected rows", "data/rejected", number),
        ("dropped rows", "data/dropped", number),
        ("cut rows", "data/cut", number),
    ),
)
