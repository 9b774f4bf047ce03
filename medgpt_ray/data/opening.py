"""Everything that a run needs of its data before it starts: files, formats, validation rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from medgpt_ray.config.supervised import Source, SupervisedRun
from medgpt_ray.data.examples import (
    Example,
    Recipe,
    Work,
    render,
    renderer_of,
    validation_rows,
    value_of,
)
from medgpt_ray.data.render import Dropped
from medgpt_ray.data.rows import DataError, content_hash, near_hash
from medgpt_ray.data.sources import SourceFiles, open_source
from medgpt_ray.types import Row


@dataclass(frozen=True)
class OpenData:
    """Training data as segments, validation data as examples."""

    recipe: Recipe
    sources: list[SourceFiles]
    validation: list[Example]

    def described(self) -> Iterator[str]:
        """A line for each source, and one for the validation rows."""
        for configured, source in zip(self.recipe.data.train, self.sources, strict=True):
            formats = ", ".join(sorted(set(source.formats.values())))
            weight = f", weight {configured.weight:g}" if configured.weight != 1 else ""
            yield (
                f"{configured.path}: {_count(source.rows, 'row')} in "
                f"{_count(len(source.formats), 'file')}, format {formats}{weight}"
            )
        if self.validation:
            yield f"validation: {_count(len(self.validation), 'example')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True)
class DataFiles:
    """The files of a run, found and counted; their rows are not read yet."""

    train: list[SourceFiles]
    validation: SourceFiles | None

    @property
    def paths(self) -> dict[str, list[str]]:
        """For the lineage: what was trained on, and what measured it."""
        train = [path for source in self.train for path in source.files]
        return {"train": train, "validation": self.validation.files if self.validation else []}


def find_data(config: SupervisedRun) -> DataFiles:
    """Find, detect, count. Raises `DataError` with the problems of all sources."""
    problems: list[str] = []
    found: list[SourceFiles] = []
    own = config.data.validation.path
    for source in [*config.data.train, *([Source(path=own)] if own else [])]:
        try:
            found.append(open_source(source, config.stage))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    train = found[: len(config.data.train)]
    return DataFiles(train, found[-1] if own else None)


def open_data(config: SupervisedRun, files: DataFiles, tokenizer: str) -> OpenData:
    """What the workers get: the recipe, and the validation rows as examples."""
    recipe = Recipe(config.stage, config.data, tokenizer, config.seed)
    rows = _validation(recipe, files)
    own = files.validation is not None
    hashes = frozenset(content_hash(row) for row, _ in rows)
    recipe = replace(
        recipe,
        near_validation=frozenset(near_hash(row) for row, _ in rows),
        validation=hashes if own else frozenset(),
    )
    return OpenData(recipe, files.train, _examples(rows, recipe))


def _validation(recipe: Recipe, files: DataFiles) -> list[tuple[Row, str]]:
    """The first `max_rows` rows of the validation side, with their places."""
    validation = recipe.data.validation
    own = files.validation
    if own is None and not validation.share:
        return []
    works = [
        Work(segment, format, 0, 0, 1.0)
        for source in ([own] if own else files.train)
        for segment, format in source.segments
    ]
    rows = validation_rows(works, recipe, everything=own is not None)
    found = list(islice(rows, validation.max_rows))
    if not found:
        raise DataError(
            [f"data.validation.share: {validation.share:g} of the rows is none: raise it"]
        )
    return found


def _examples(rows: list[tuple[Row, str]], recipe: Recipe) -> list[Example]:
    renderer = renderer_of(recipe.tokenizer, recipe.data)
    examples = []
    for row, place in rows:
        tokens = render(row, renderer)
        if isinstance(tokens, Dropped):
            continue
        sequences = [(np.array(one.ids, dtype=np.int32), np.array(one.trained)) for one in tokens]
        value, size = value_of(row), 2 if recipe.paired else 1
        number = float("nan") if value is None else value
        examples += [
            Example(place, tuple(sequences[at : at + size]), number)
            for at in range(0, len(sequences), size)
        ]
    return examples
