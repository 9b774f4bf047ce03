"""Evaluation tasks: a YAML file says how questions are read, asked and scored."""

import difflib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from medgpt_ray.config.document import Document
from medgpt_ray.config.loader import SHIPPED, ConfigError
from medgpt_ray.config.schema import Positive, Section
from medgpt_ray.evaluation.questions import placeholders

TASKS = SHIPPED / "eval"
DEFAULT = ("medical_en", "medical_zh", "medical_open")


class Task(Section):
    format: Literal["choice", "open", "cmb", "cmexam"]
    """Of the rows; see `questions`."""
    data: str | None = None
    """Question file, relative to the task file; none: the user names one as NAME=FILE."""
    scoring: Literal["likelihood", "generation"]
    """likelihood: the option whose letter the model finds likeliest; one right letter only.
    generation: the model writes its reply, which is read for letters, or scored by the rubric."""
    prompt: str = Field(min_length=1)
    """The user's message: {question}, {options} and the text columns of the row are filled in."""
    max_completion_tokens: Positive = 256
    """Of a written reply."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.format == "open" and self.scoring == "likelihood":
            raise ValueError("scoring: open questions have no letters, set generation")
        wanted = ["question"] if self.format == "open" else ["question", "options"]
        for name in wanted:
            if name not in placeholders(self.prompt):
                raise ValueError(f"prompt: lacks {{{name}}}")
        return self


def load_task(name: str) -> tuple[Task, Path]:
    """A shipped task by name, or a task file, and where it is. Raises `ConfigError`."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else TASKS / f"{name}.yaml"
    if not path.is_file():
        shipped = sorted(file.stem for file in TASKS.glob("*.yaml"))
        close = difflib.get_close_matches(name, shipped, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"shipped are {', '.join(shipped)}"
        raise ConfigError([f"--task {name}: no such task or .yaml file, {hint}"])
    document = Document(str(path), path.read_text(encoding="utf-8"))
    if document.problems or not isinstance(document.values, dict):
        raise ConfigError(document.problems or [f"{path}: expected `key: value` lines"])
    try:
        return Task.model_validate(document.values, strict=True), path
    except ValidationError as error:
        for item in error.errors(include_url=False):
            key = ".".join(map(str, item["loc"]))
            document.report(key, item["msg"].removeprefix("Value error, "))
        raise ConfigError(document.problems) from None


def question_file(task: Task, path: Path, given: str | None, name: str) -> str:
    """The file of a task's questions: the one given, or its own. Raises `ConfigError`."""
    if given is None and task.data is None:
        raise ConfigError([f"--task {name}: comes without questions, name a file: {name}=FILE"])
    file = given or str(path.parent / str(task.data))
    if not Path(file).is_file():
        raise ConfigError([f"{file}: no such file (relative to {Path.cwd()})"])
    return file
