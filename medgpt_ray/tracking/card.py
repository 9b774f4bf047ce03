"""The model card: what an exported model is, where it comes from, how it did. Paths of this machine
stay out of it; data files are named with their hashes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medgpt_ray.config.run import RunConfig
from medgpt_ray.tracking.format import data_name, number
from medgpt_ray.tracking.metrics import read_metrics
from medgpt_ray.tracking.rundir import RunDirectory

LIMITS = (
    "Answers can be wrong, out of date or made up, also where they sound sure. It is no medical "
    "device: what it says must be checked by a professional before anybody acts on it."
)


def model_card(name: str, facts: Mapping[str, str], run: RunDirectory | None) -> str:
    """README.md of an exported model; `facts` are those of its format, such as the data type."""
    reward = "ForSequenceClassification" in facts["architecture"]
    task = "text-classification" if reward else "text-generation"
    lines = [
        *("---", "library_name: transformers", f"pipeline_tag: {task}"),
        *("tags:", "- medical", "- medgpt-ray", "---", "", f"# {name}", ""),
        *_table(("", ""), facts.items()),
    ]
    if run is not None:
        lines += ["", "## Where it comes from", "", *_lineage(run)]
        lines += _section("Held-out results of the training run", _heldout(run))
        lines += _section("Evaluation", _evaluation(run))
    return "\n".join([*lines, "", "## Limits", "", LIMITS, ""])


def _lineage(run: RunDirectory) -> Iterator[str]:
    """The run and those before it, the last first, then the data of all."""
    rows: list[Sequence[str]] = []
    data: list[Sequence[str]] = []
    seen: set[Path] = set()
    while run.lineage.is_file() and run.path.resolve() not in seen:
        seen.add(run.path.resolve())
        lineage = json.loads(run.lineage.read_text())
        parent, code = lineage["parent"], lineage["code"]
        base = Path(lineage["model"]).name if parent is None else Path(parent).name
        commit = (code["commit"] or "no commit")[:12] + (
            " with changes" if code["modified"] else ""
        )
        version = f"{code['version'] or 'not installed'}, {commit}"
        settings = _settings(run.read_config())
        rows.append((lineage["stage"], base, settings, lineage["created"], version))
        for item in lineage["data"]:
            data.append((lineage["stage"], item["use"], data_name(item["path"]), item["sha256"]))
        run = RunDirectory(parent or "")
    yield from _table(("stage", "started from", "training", "created", "medgpt-ray"), rows)
    yield from ("", *_table(("stage", "use", "data", "sha256"), data))


def _settings(config: RunConfig) -> str:
    adaptation = config.model.adaptation
    how = adaptation.kind
    if adaptation.kind != "full":
        how += f" rank {adaptation.rank} alpha {adaptation.alpha:g}"
    return f"{how}, learning rate {number(config.learner.learning_rate)}, seed {config.seed}"


def _heldout(run: RunDirectory) -> Iterator[str]:
    """The first and the last value of each held-out metric."""
    values: dict[str, list[tuple[int, float]]] = {}
    for record in read_metrics(run.metrics) if run.metrics.is_file() else ():
        for key, value in record.items():
            if key.startswith(("heldout/", "validation/")):
                values.setdefault(key, []).append((int(record["step"]), value))
    if values:
        rows = [
            (key, *(f"{number(value)} (step {step})" for step, value in (found[0], found[-1])))
            for key, found in sorted(values.items())
        ]
        yield from _table(("metric", "first", "last"), rows)


def _evaluation(run: RunDirectory) -> Iterator[str]:
    """The numbers that `medgpt eval` left, with their intervals and the hash of the prompts."""
    rows = []
    for file in sorted((run.path / "evaluation").glob("*.json")):
        for one in json.loads(file.read_text())["metrics"]:
            before = _interval(one["base"]) if "base" in one else ""
            prompts = one["prompt_sha256"][:12]
            rows.append((one["task"], one["metric"], one["n"], before, _interval(one), prompts))
    if rows:
        yield from _table(("task", "metric", "n", "base", "this model", "prompts"), rows)


def _interval(one: Mapping[str, Any]) -> str:
    low, high = number(one["low"]), number(one["high"])
    return f"{number(one['value'])} [95% interval {low} to {high}]"


def _section(title: str, lines: Iterator[str]) -> list[str]:
    """With its heading, or nothing where there are no lines."""
    body = list(lines)
    return ["", f"## {title}", "", *body] if body else []


def _table(head: Sequence[str], rows: Any) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        cells = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in row)
        yield f"| {' | '.join(cells)} |"
