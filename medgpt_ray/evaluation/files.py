"""From the tasks that a user names to checked questions with their prompts."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medgpt_ray.config.loader import ConfigError
from medgpt_ray.data.files import find
from medgpt_ray.data.rows import BadRow
from medgpt_ray.data.segments import read, segments
from medgpt_ray.evaluation.harness import Asked
from medgpt_ray.evaluation.questions import BadQuestion, Question, fill, parse
from medgpt_ray.evaluation.tasks import Task, load_task, question_file
from medgpt_ray.rewards.choice import multiple_choice
from medgpt_ray.rewards.rubric import rubric_score

Row = tuple[str, dict[str, Any] | BadRow]
"""`file:line` and what stands there."""


def open_task(named: str, limit: int | None) -> Asked:
    """The questions of `NAME` or `NAME=FILE`, the first `limit` of them.

    All are checked. Raises `ConfigError` with every problem as `file:line: field: what, the fix`,
    `DataError` for a file that cannot be read. Rows of CMExam without an answer are left out and
    told, as its authors leave them out.
    """
    name, _, given = named.partition("=")
    task, path = load_task(name)
    file = question_file(task, path, given or None, name)
    problems: list[str] = []
    questions: list[Question] = []
    prompts: list[str] = []
    unanswered: list[str] = []
    for place, row in _rows(file):
        try:
            if isinstance(row, BadRow):
                raise BadQuestion(row.field or "row", row.reason)
            if task.format == "cmexam" and not str(row.get("Answer") or "").strip():
                unanswered.append(place)
                continue
            question = parse(row, task.format, place)
            prompts.append(fill(task.prompt, question))
            _check(task, question)
            questions.append(question)
        except BadQuestion as bad:
            problems.append(f"{place}: {bad}")
    if unanswered and not (questions or problems):
        problems.append(f"{file}: Answer: missing in every row, expected letters")
    if problems:
        raise ConfigError(problems)
    stem = Path(name).stem
    if unanswered:
        told = f"{stem}: left out {len(unanswered)} without an answer, first {unanswered[0]}"
        print(told, file=sys.stderr)
    return Asked(stem, task, file, questions[:limit], prompts[:limit], _score(task))


def _check(task: Task, question: Question) -> None:
    """That the question can be scored the way the task says."""
    if task.scoring == "likelihood" and len(question.answer) > 1:
        raise BadQuestion(
            "answer",
            f"{question.answer} is several letters, and likelihood compares single ones: take a "
            "task with `scoring: generation`",
        )
    if task.scoring == "generation":
        try:
            _score(task)(question, "")
        except ValueError as error:
            raise BadQuestion("row", str(error)) from None


def _score(task: Task) -> Any:
    function = rubric_score if task.format == "open" else multiple_choice
    return lambda question, reply: function(question.text, reply, question.scored)


def _rows(file: str) -> Iterator[Row]:
    if file.endswith(".csv"):
        yield from _csv_rows(file)
        return
    for data_file in find(file):
        for segment in segments(data_file):
            for record in read(segment):
                value = record.value
                if isinstance(value, str):
                    value = BadRow("", "is a line of text, expected a JSON object")
                yield record.place, value


def _csv_rows(file: str) -> Iterator[Row]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            line = 2
            for row in reader:
                whole = None not in row and None not in row.values()
                found = {k: v for k, v in row.items() if k and v} if whole else None
                yield (
                    f"{file}:{line}",
                    BadRow("", f"expected {len(reader.fieldnames or ())} columns")
                    if found is None
                    else found,
                )
                line = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([f"{file}: cannot be read as CSV in UTF-8: {error}"]) from None
    if line == 2:
        raise ConfigError([f"{file}: empty, expected at least one row below the head"])
