"""The dry run of the supervised stages: how many updates the data make, and rows of each source."""

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from medgpt_ray.config.loader import Loaded
from medgpt_ray.config.supervised import SupervisedRun
from medgpt_ray.data.examples import Recipe
from medgpt_ray.data.formats import FORMATS
from medgpt_ray.data.opening import OpenData, find_data
from medgpt_ray.data.outcome import rows_of
from medgpt_ray.data.rows import DataError
from medgpt_ray.data.sources import SourceFiles
from medgpt_ray.data_commands import open_tokeniser
from medgpt_ray.dry_run import (
    cannot_be_shown,
    configuration,
    count,
    placement,
    resume_plan,
    section,
)
from medgpt_ray.tracking.format import percent
from medgpt_ray.types import Preference

ROWS_SHOWN = 2


def describe(loaded: Loaded, resume: bool, console: Console) -> None:
    """Print configuration, batch arithmetic, sample rows, placement and what a resume would do."""
    config = loaded.config
    configuration(loaded, console)
    sources: list[SourceFiles] = []
    batch: list[Text] = []
    try:
        sources = find_data(config).train
    except DataError as error:
        batch = [cannot_be_shown(problem) for problem in error.problems]
    batch += [Text(line) for line in arithmetic(config, sources)]
    section("Batch", batch, console)
    section("Sample rows", _samples(config, sources), console)
    placement(config, console)
    section("Resume", [Text(resume_plan(Path(config.output_dir), resume))], console)


def arithmetic(config: SupervisedRun, sources: Sequence[SourceFiles]) -> list[str]:
    """The data, an update and the run in numbers; without `sources` as far as these are known."""
    recipe = Recipe(config.stage, config.data, "", config.seed)
    lines = list(OpenData(recipe, list(sources), []).described()) if sources else []
    lines += _validation(config)
    size, learner = config.examples_per_step, config.learner
    unit = "pair" if recipe.paired else "example"
    lines.append(
        f"An update: {count(size, unit)} on {count(learner.workers, 'worker')}, in micro-batches "
        f"of at most {learner.max_tokens_per_microbatch:,} tokens."
    )
    if not sources:
        return lines
    epoch = _examples_of_an_epoch(config, sources)
    if config.steps is not None:
        lines.append(
            f"The run: {count(config.steps, 'update')} of {size} = {config.steps * size:,} "
            f"{unit}s, about {config.steps * size / epoch:.2f} passes over the data."
        )
    else:
        examples = math.ceil(config.epochs * epoch)
        lines.append(
            f"The run: {config.epochs:g} x {epoch:,} = {examples:,} {unit}s, about "
            f"{count(math.ceil(examples / size), 'update')}."
        )
    if config.stage == "pt":
        lines.append(
            f"A document of more than {config.data.max_tokens:,} tokens is several examples, so "
            "there are more of them where documents are long."
        )
    return lines


def _validation(config: SupervisedRun) -> list[str]:
    validation = config.data.validation
    if not (validation.share or validation.path):
        return []
    rows = f"the rows of {validation.path}"
    if validation.share:
        rows = f"{percent(validation.share)} of the rows, chosen by their content"
    every = f", every {count(validation.every_steps, 'update')}" if validation.every_steps else ""
    return [
        f"Validation: {rows}, at most {validation.max_rows:,}, measured before the first "
        f"update{every} and after the last."
    ]


def _examples_of_an_epoch(config: SupervisedRun, sources: Sequence[SourceFiles]) -> int:
    """Rows by weight without the held-out share; for KTO the two answers of a pair are two."""
    examples = 0.0
    for source, configured in zip(sources, config.data.train, strict=True):
        pairs = any(FORMATS[name].kind is Preference for name in source.formats.values())
        each = 2 if config.stage == "kto" and pairs else 1
        examples += source.rows * configured.weight * each
    return max(1, round(examples * (1 - config.data.validation.share)))


def _samples(config: SupervisedRun, sources: Sequence[SourceFiles]) -> list[Text]:
    try:
        tokeniser = open_tokeniser(config.model.path, config.data, config.model.new_tokens)
        each = max(1, ROWS_SHOWN // max(1, len(sources)))
        texts = [
            text
            for source in sources
            for place, row in islice(rows_of(source.segments, config.stage), each)
            for text in tokeniser.show(place, row)
        ]
    except DataError as error:
        return [cannot_be_shown(error)]
    return texts or [cannot_be_shown("the data cannot be read")]
