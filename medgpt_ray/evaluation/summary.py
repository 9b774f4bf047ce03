"""What was measured, with its uncertainty: the numbers of one evaluation as JSON and Markdown.

An interval is a 95% bootstrap over questions (over rows for perplexity, weighted by their tokens);
a change is that of the same questions, so its interval is paired.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medgpt_ray.tracking.format import data_name
from medgpt_ray.tracking.statistics import Interval, bootstrap_interval, paired_bootstrap

Metric = Literal["accuracy", "rubric score", "perplexity", "token accuracy"]
HASH_SHOWN = 12


@dataclass(frozen=True)
class Measured:
    """One metric of one model, item by item.

    `values` of a perplexity are mean losses in nats a token; `weights` are trained tokens.
    """

    task: str
    metric: Metric
    values: Sequence[float]
    weights: Sequence[float] | None
    prompt_sha256: str
    """Of all prompts as they were sent; of texts, of their token ids."""
    template: str
    """`sha256:...` of the chat template, `none`, or `the server's`, which is not seen here."""
    facts: Mapping[str, Any]
    """How it was measured: scoring, data files with their hashes; of likelihoods the accuracy of
    chance and how often each letter was chosen; of texts the rows dropped."""


def entry(model: Measured, base: Measured | None) -> dict[str, Any]:
    """One line of the result: the model's number, the base's and the change where there is one."""
    found = {
        "task": model.task,
        "metric": model.metric,
        "n": len(model.values),
        **_number(model),
        **model.facts,
        "prompt_sha256": model.prompt_sha256,
        "template": model.template,
    }
    if base is None:
        return found
    compared = {
        **_number(base),
        "prompt_sha256": base.prompt_sha256,
        "template": base.template,
    }
    return found | {"base": compared, **_change(model, base)}


def _number(measured: Measured) -> dict[str, float]:
    interval = bootstrap_interval(measured.values, weights=measured.weights)
    return _named(Interval(*map(math.exp, interval)) if _is_loss(measured) else interval)


def _change(model: Measured, base: Measured) -> dict[str, Any]:
    """The paired change: a difference, of perplexities their ratio."""
    if model.weights is not None and model.prompt_sha256 != base.prompt_sha256:
        return {"change": None, "verdict": "not comparable: the two tokenise the rows differently"}
    change = paired_bootstrap(base.values, model.values, weights=model.weights)
    better, worse = change.low > 0, change.high < 0
    if _is_loss(model):
        better, worse = worse, better
        change = Interval(*map(math.exp, change))
    verdict = "better" if better else "worse" if worse else "no clear change"
    return {"change": _named(change), "verdict": verdict}


def _is_loss(measured: Measured) -> bool:
    return measured.metric == "perplexity"


def _named(interval: Interval) -> dict[str, float]:
    return {"value": interval.mean, "low": interval.low, "high": interval.high}


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a page: what was found, and what it was found with."""
    compared = result["base"] is not None
    head = ["task", "metric", "n", *(["base"] if compared else []), "model"]
    rows = [
        [
            one["task"],
            one["metric"] + (f" (chance {one['chance']:.2f})" if "chance" in one else ""),
            f"{one['n']:,}",
            *([shown(one["base"])] if compared else []),
            shown(one),
            *([shown_change(one), one["verdict"]] if compared else []),
        ]
        for one in result["metrics"]
    ]
    sources = [
        [
            one["task"],
            one["scoring"] + _chosen(one.get("chosen", {})),
            "; ".join(
                f"{data_name(file['path'])} {_short(file['sha256'])}" for file in one["data"]
            ),
            _short(one["prompt_sha256"]),
            _short(one["template"]),
        ]
        for one in result["metrics"]
    ]
    return "\n".join(
        [
            f"# Evaluation {result['name']}",
            "",
            f"- model: {result['model']}",
            *([f"- base: {result['base']}"] if compared else []),
            f"- measured: {result['created']}, medgpt-ray {result['code']['version']}"
            + (f", commit {commit[:HASH_SHOWN]}" if (commit := result["code"]["commit"]) else ""),
            "",
            *_table([*head, *(["change", "verdict"] if compared else [])], rows),
            "",
            "In brackets: 95% bootstrap intervals. A change is paired over the same items.",
            "",
            *_table(["task", "scoring", "data (sha256)", "prompts", "template"], sources),
            "",
        ]
    )


def shown(number: Mapping[str, Any]) -> str:
    return f"{number['value']:.3f} [{number['low']:.3f}, {number['high']:.3f}]"


def shown_change(one: Mapping[str, Any]) -> str:
    """`+0.040 [-0.020, +0.100]`, of perplexities the factor `× 0.950 [0.930, 0.970]`."""
    change = one["change"]
    if change is None:
        return "none"
    if one["metric"] == "perplexity":
        return f"× {shown(change)}"
    return f"{change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"


def _chosen(letters: Mapping[str, int]) -> str:
    """What tells a model that knows from one that always says A."""
    return f", chose {', '.join(f'{n}× {letter}' for letter, n in letters.items())}" * bool(letters)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:HASH_SHOWN]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *[[c.replace("|", "\\|") for c in row] for row in rows]]
    return [f"| {' | '.join(row)} |" for row in cells]
