"""`medgpt index`: make documents searchable, show passages that answer, measure how well."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from transformers.utils import logging

from medgpt_ray.retrieval import build as builder
from medgpt_ray.retrieval import measure
from medgpt_ray.retrieval.augment import INSUFFICIENT, INSUFFICIENT_CHINESE
from medgpt_ray.retrieval.confidence import THRESHOLD, fit
from medgpt_ray.retrieval.embedding import Embedder
from medgpt_ray.retrieval.index import HITS, Index
from medgpt_ray.retrieval.terms import is_chinese
from medgpt_ray.tracking.statistics import bootstrap_interval

logging.disable_progress_bar()


def build(folder: str, output: str, embedding: str) -> None:
    """Bring the index in `output` up to date with `folder`, and say what changed."""
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total} chunks {task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)
        report = builder.build(
            Path(folder),
            Path(output),
            Embedder(embedding),
            lambda path, done, total: progress.update(
                task, description=path, completed=done, total=total
            ),
        )
    for mark, paths in (("+", report.added), ("~", report.changed), ("-", report.removed)):
        for path in paths:
            print(mark, path)
    for path in report.ignored:
        print("  not read:", path)
    for remark in report.remarks:
        print("  passed over:", remark)
    counts = ("added", "changed", "removed", "unchanged")
    summary = ", ".join(f"{len(getattr(report, name))} {name}" for name in counts)
    print(f"{output}: {summary}; {report.chunks} chunks")


def ask(directory: str, questions: list[str], count: int, reranker: str | None) -> None:
    """Print the passages for the last of `questions`, which are the turns of one conversation."""
    findings = Index.open(directory, reranker=reranker).search(*questions, count=count)
    if findings.question != questions[-1]:
        print(f"searched for: {findings.question}")
    if not findings.sufficient:
        print(INSUFFICIENT_CHINESE if is_chinese(questions[-1]) else INSUFFICIENT)
        reason = f"confidence {findings.confidence:.2f}, below {THRESHOLD}"
        if findings.unnamed:
            reason = f"the nearest passage does not name {', '.join(findings.unnamed)}"
        print(f"({reason}; nearest passages follow)")
    for number, hit in enumerate(findings.hits, start=1):
        print(f"\n[{number}] {hit.citation}\n{hit.chunk.text}")
    if findings.sufficient:
        print(f"\n(confidence {findings.confidence:.2f})")


def calibrate(directory: str, questions: str) -> None:
    """Measure the index on questions with known answers, and fit its confidence to them."""
    index, cases = Index.open(directory), measure.read_cases(Path(questions))
    evidence = measure.evidence(index, cases)
    answerable = [case.source is not None for case in cases]
    right = measure.cross_validated(evidence, answerable)
    places = [
        measure.place(index, case, [found.id for found in index.rank(index.question(*case.turns))])
        for case in cases
        if case.source is not None
    ]
    for name, values in (
        ("answer in the first passage", [place == 1 for place in places]),
        ("in the first five", [place is not None and place <= HITS for place in places]),
        ("taken up, of those with an answer", _where(right, answerable, True)),
        ("declined, of those without", [not yes for yes in _where(right, answerable, False)]),
    ):
        mean, low, high = bootstrap_interval(values)
        print(f"{name}: {mean:.2f} ({low:.2f} to {high:.2f}, n {len(values)})")
    builder.calibrate(Path(directory), fit(evidence, answerable))
    print(f"{directory}: calibrated; the last two figures are leave-one-out")


def _where(values: list[bool], flags: list[bool], flag: bool) -> list[bool]:
    return [value for value, own in zip(values, flags, strict=True) if own == flag]
