"""Everything that a run needs of its data before it starts: files, formats, validation rows."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from medgpt_ray.config.supervised import Source, SupervisedRun, Validation
from medgpt_ray.data.examples import (
    Example,
    Recipe,
    Work,
    examples,
    renderer_of,
    validation_rows,
    value_of,
)
from medgpt_ray.data.render import Dropped, Renderer
from medgpt_ray.data.rows import BadRow, DataError, content_hash, near_hash
from medgpt_ray.data.segments import read
from medgpt_ray.data.sources import SourceFiles, open_source
from medgpt_ray.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_CHECKED = 1_000
"""Of each source, before anything starts: most often under a second."""
SEGMENTS_MEASURED = 32
"""Validation rows of a share come from so many parts of each source."""


@dataclass(frozen=True)
class OpenData:
    """Training data as segments, validation data as examples."""

    recipe: Recipe
    sources: list[SourceFiles]
    validation: list[Example]
    left_out: int = 0
    """Validation rows that the template cannot show."""
    dropped: int = 0
    """Validation rows that `data.max_tokens` has no room for."""

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
            left_out = f", {_count(self.left_out, 'bad row')} left out" if self.left_out else ""
            if self.dropped:
                left_out += f", {_count(self.dropped, 'row')} too long for data.max_tokens"
            yield f"validation: {_count(len(self.validation), 'example')}{left_out}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True)
class DataFiles:
    """The files of a run, found and counted; their rows are not read yet."""

    train: list[SourceFiles]
    validation: SourceFiles | None


def find_data(config: SupervisedRun) -> DataFiles:
    """Find, detect, count. Raises `DataError` with the problems of all sources."""
    problems: list[str] = []
    found: list[SourceFiles] = []
    validation = config.data.validation
    own = validation.path
    named = {"format": validation.format, "columns": validation.columns}
    for source in [*config.data.train, *([Source(path=own, **named)] if own else [])]:
        try:
            found.append(open_source(source, config.stage))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    train = found[: len(config.data.train)]
    return DataFiles(train, found[-1] if own else None)


def bad_rows(
    config: SupervisedRun, files: DataFiles, tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[str]:
    """`file:line: what` of the bad ones among the first `ROWS_CHECKED` rows of each source, those
    held out and those of a validation file too; rows that are in both are bad.

    Raises a ValueError where the tokenizer cannot be used.
    """
    everything = config.data.model_copy(update={"validation": Validation()})
    recipe = Recipe(config.stage, everything, "", config.seed)
    renderer = Renderer(tokenizer, config.data)
    if files.validation:
        found = list(_bad_rows(files.validation, recipe, renderer))
        yield from found
        if not found:
            rows = validation_rows(_works(files.validation), recipe, everything=True)
            recipe = replace(recipe, validation=frozenset(content_hash(row) for row, _ in rows))
    for source in files.train:
        yield from _bad_rows(source, recipe, renderer)


def _bad_rows(source: SourceFiles, recipe: Recipe, renderer: Renderer) -> Iterator[str]:
    rows = ((record, format) for part, format in source.segments for record in read(part))
    works = (
        examples(record, format, recipe, renderer) for record, format in islice(rows, ROWS_CHECKED)
    )
    for made in renderer.encoder.together(works):
        yield from (f"{one['place']}: {one['problem']}" for one in made if one["problem"])


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
    measured = min(len(rows), config.data.validation.max_rows)
    drawn = sorted(random.Random(f"{config.seed}/validation").sample(range(len(rows)), measured))
    examples, bad, dropped = _examples([rows[number] for number in drawn], recipe)
    if bad and config.data.on_bad_row == "error":
        raise DataError(bad)
    if rows and not examples:
        raise DataError(
            [
                f"data.validation: none of {_count(len(drawn), 'row')} can be measured: "
                f"{dropped} too long for data.max_tokens ({config.data.max_tokens}), {len(bad)} bad"
            ]
        )
    return OpenData(recipe, files.train, examples, len(bad), dropped)


def _validation(recipe: Recipe, files: DataFiles) -> list[tuple[Row, str]]:
    """Rows of the validation side with their places: all rows of a file of its own; of a share
    about `max_rows`, from each source by its size and from anywhere in it."""
    validation = recipe.data.validation
    if files.validation is not None:
        return list(validation_rows(_works(files.validation), recipe, everything=True))
    if not validation.share:
        return []
    found: list[tuple[Row, str]] = []
    total = sum(source.rows for source in files.train)
    for source in files.train:
        found += _held_out(source, math.ceil(validation.max_rows * source.rows / total), recipe)
    if not found:
        raise DataError(
            [f"data.validation.share: {validation.share:g} of the rows is none: raise it"]
        )
    return found


def _held_out(source: SourceFiles, wanted: int, recipe: Recipe) -> list[tuple[Row, str]]:
    """Up to `wanted` held-out rows, by the seed, from up to `SEGMENTS_MEASURED` of its parts."""
    draw = random.Random(f"{recipe.seed}/validation")
    works = _works(source)
    draw.shuffle(works)
    each = math.ceil(wanted / min(len(works), SEGMENTS_MEASURED))
    found: list[tuple[Row, str]] = []
    spare: list[tuple[Row, str]] = []
    for work in works:
        rows = list(validation_rows([work], recipe, everything=False))
        draw.shuffle(rows)
        found += rows[:each]
        spare = [*spare, *rows[each:]][:wanted]
        if len(found) >= wanted:
            break
    return [*found, *spare][:wanted]


def _works(source: SourceFiles) -> list[Work]:
    return [Work(segment, reading, 0, 0, 1.0) for segment, reading in source.segments]


def _examples(rows: list[tuple[Row, str]], recipe: Recipe) -> tuple[list[Example], list[str], int]:
    """Those of the rows, what is wrong with the rows that the template cannot show, and how many
    are too long."""
    renderer = renderer_of(recipe.tokenizer, recipe.data)
    made, bad, dropped = [], [], 0
    for row, place in rows:
        try:
            tokens = renderer.render(row)
        except BadRow as error:
            bad.append(f"{place}: {error}")
            continue
        if isinstance(tokens, Dropped):
            dropped += 1
            continue
        sequences = [(np.array(one.ids, dtype=np.int32), np.array(one.trained)) for one in tokens]
        value, size = value_of(row), 2 if recipe.paired else 1
        number = float("nan") if value is None else value
        made += [
            Example(place, tuple(sequences[at : at + size]), number)
            for at in range(0, len(sequences), size)
        ]
    return made, bad, dropped
