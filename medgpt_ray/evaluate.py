"""`medgpt eval`: a run, a model or a served URL measured on questions and texts, and beside it, on
the same ones, the model that it came from: what was learned, and what was forgotten.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medgpt_ray.config.loader import ConfigError
from medgpt_ray.evaluation import harness, subject, summary
from medgpt_ray.evaluation.files import open_task
from medgpt_ray.evaluation.harness import Asked, Endpoint, EvaluationFailed, Reply
from medgpt_ray.evaluation.server import MODEL_NAME, ServerFailed, serve
from medgpt_ray.evaluation.subject import Subject
from medgpt_ray.evaluation.summary import Measured
from medgpt_ray.evaluation.tasks import DEFAULT
from medgpt_ray.evaluation.texts import Texts, measure_texts, open_texts
from medgpt_ray.interrupt import Interrupted, interruptible
from medgpt_ray.tracking.report import write_report
from medgpt_ray.tracking.rundir import code_version, file_sha256, write_atomically

STOPS = (EvaluationFailed, ServerFailed, Interrupted, OSError)
"""How an evaluation ends that does not finish: told in one message, without a traceback."""
NO_BASE = "none"
NO_LIMIT = 1_000_000
"""Tokens of context, for a server that does not say its own."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    target: str
    tasks: Sequence[str]
    """NAME or NAME=FILE; the shipped ones where neither tasks nor data are given."""
    data: str | None
    """Texts or conversations for perplexity and token accuracy."""
    stage: str
    max_tokens: int
    base: str | None
    """A run or a model, or `none`; where nothing is said, what a run was trained from."""
    tokenizer: str | None
    served_model: str | None
    limit: int | None
    output: str | None
    name: str | None


@dataclass(frozen=True)
class Plan:
    """All that is checked before anything is loaded or started."""

    asked: list[Asked]
    model: Subject
    base: Subject | None
    texts: dict[str, Texts]
    """By the shown name of the model whose tokens they are."""
    context: dict[str, int]
    """Tokens that the questions need, by model."""


def check(options: Options) -> Plan:
    """Raises `ConfigError` or `DataError` where something cannot be done."""
    names = options.tasks or ([] if options.data else DEFAULT)
    asked = [open_task(name, options.limit) for name in names]
    counts = Counter(one.name for one in asked)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ConfigError([f"--task {name}: given twice, keep one" for name in twice])
    if subject.is_url(options.target):
        model = subject.open_url(options.target, options.tokenizer, options.served_model)
        _check_endpoint(options, model, asked)
    else:
        model = subject.open_model(options.target)
    base = _base(options)
    each = [model, *([base] if base else [])]
    texts = {one.shown: _texts(options, one) for one in each} if options.data else {}
    context = {one.shown: _context(one, asked) for one in each} if asked else {}
    return Plan(asked, model, base, texts, context)


def _check_endpoint(options: Options, model: Subject, asked: Sequence[Asked]) -> None:
    if model.tokenizer is not None:
        return
    needing = [f"--task {one.name}" for one in asked if one.task.scoring == "likelihood"]
    if options.data:
        needing.append(f"--data {options.data}")
    if needing:
        raise ConfigError(
            [
                f"{each}: needs the served model's tokenizer: name its directory by --tokenizer "
                "(only tasks with `scoring: generation` do without)"
                for each in needing
            ]
        )


def _base(options: Options) -> Subject | None:
    if options.base == NO_BASE:
        return None
    run = subject.run_of(options.target)
    if options.base is None and run is None:
        return None
    return subject.open_model(options.base or subject.base_of(run))


def _texts(options: Options, model: Subject) -> Texts:
    assert options.data
    assert model.directory
    texts = open_texts(
        options.data, options.stage, options.max_tokens, model.directory, options.limit
    )
    if model.context and texts.longest >= model.context:
        raise ConfigError(
            [
                f"{options.data}: a row takes {texts.longest} tokens, and {model.shown} has a "
                f"context of {model.context}: lower --max-tokens"
            ]
        )
    return texts


def _context(model: Subject, asked: Sequence[Asked]) -> int:
    if model.tokenizer is None:
        return model.context or NO_LIMIT
    needed, place = harness.context_needed(model.tokenizer, asked)
    if model.context and needed > model.context:
        raise ConfigError(
            [
                f"{place}: the prompt and its reply take {needed} tokens, and {model.shown} reads "
                f"{model.context}"
            ]
        )
    return model.context or NO_LIMIT if model.endpoint else needed


def evaluate(options: Options) -> tuple[str, Path]:
    """Measure, write, and return the result as Markdown and where it is.

    Beside NAME.json and NAME.md, NAME.samples.jsonl holds every prompt and reply. Of a run they are
    in its folder `evaluation`, and its report is written anew.
    """
    run = subject.run_of(options.target)
    folder = Path(options.output or (run.evaluation if run else "evaluation"))
    name = options.name or time.strftime("%Y%m%d-%H%M%S")
    if (folder / f"{name}.json").exists():
        raise ConfigError([f"--name {name}: {folder / name}.json exists, choose another"])
    plan = check(options)
    folder.mkdir(parents=True, exist_ok=True)
    with interruptible():
        model, replies = measure(plan, plan.model, folder / f"{name}.server.log")
        base, base_replies = [None] * len(model), {}
        if plan.base is not None:
            base, base_replies = measure(plan, plan.base, folder / f"{name}.base-server.log")
    result = {
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": plan.model.shown,
        "base": plan.base.shown if plan.base else None,
        "code": code_version(),
        "metrics": [summary.entry(*both) for both in zip(model, base, strict=True)],
    }
    page = summary.markdown(result)
    samples = [("model", replies), ("base", base_replies)]
    write_atomically(folder / f"{name}.samples.jsonl", _lines(samples))
    write_atomically(folder / f"{name}.md", page)
    write_atomically(folder / f"{name}.json", json.dumps(result, indent=2, ensure_ascii=False))
    if run is not None:
        write_report(run)
    return page, folder / f"{name}.json"


def measure(plan: Plan, model: Subject, log: Path) -> tuple[list[Measured], dict[str, list[Reply]]]:
    """All numbers of one model, and its replies by task."""
    found = []
    if plan.texts:
        texts = plan.texts[model.shown]
        print(f"{model.shown}: perplexity of {texts.path}", file=sys.stderr)
        found += measure_texts(texts, model)
    if not plan.asked:
        return found, {}
    context = plan.context[model.shown]
    if model.endpoint is not None:
        replies = harness.ask(model.endpoint, plan.asked, context)
    else:
        assert model.directory
        print(f"{model.shown}: starting vLLM's server (log: {log})", file=sys.stderr)
        with serve(model.directory, context, log) as (url, key):
            endpoint = Endpoint(url, MODEL_NAME, model.directory, key)
            replies = harness.ask(endpoint, plan.asked, context)
    found += [_measured(one, replies[one.name], model) for one in plan.asked]
    return found, replies


def _measured(asked: Asked, replies: Sequence[Reply], model: Subject) -> Measured:
    facts: dict[str, Any] = {
        "scoring": asked.task.scoring,
        "data": [{"path": asked.file, "sha256": file_sha256(Path(asked.file))}],
    }
    if asked.task.scoring == "likelihood":
        chances = [1 / len(question.options) for question in asked.questions]
        facts["chance"] = sum(chances) / len(chances)
        facts["chosen"] = dict(sorted(Counter(reply.text for reply in replies).items()))
    return Measured(
        asked.name,
        "rubric score" if asked.task.format == "open" else "accuracy",
        [reply.score for reply in replies],
        None,
        harness.prompt_hash(replies),
        model.template,
        facts,
    )


def _lines(samples: Sequence[tuple[str, dict[str, list[Reply]]]]) -> str:
    return "".join(
        json.dumps({"task": task, "by": who, **asdict(reply)}, ensure_ascii=False) + "\n"
        for who, replies in samples
        for task, found in replies.items()
        for reply in found
    )
