"""The verbs of `medgpt data`: what is in data files, and what a model would learn of it.

Each prints its findings. What cannot be read raises `DataError` at the end, after the rest is
printed. A data section stands for the files and for how their rows become tokens, as in a run.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data import check
from medgpt_ray.data import convert as converter
from medgpt_ray.data.outcome import Outcome, Tokeniser, rows_by_file
from medgpt_ray.data.rows import BadRow, DataError
from medgpt_ray.types import Row

BAR = 40
DUPLICATES_SHOWN = 5
PERCENTILES = {"median": 50, "90%": 90, "99%": 99, "longest": 100}
COUNTS = ("examples", "bad", "dropped", "cut", "tokens", "trained")


def open_tokeniser(model: str, data: SupervisedData, new_tokens: Sequence[str] = ()) -> Tokeniser:
    """Raises `DataError` where the model has no tokenizer that can be used."""
    from medgpt_ray.models.load import open_tokenizer

    try:
        tokenizer = open_tokenizer(model, new_tokens)
    except Exception as error:  # noqa: BLE001 (tokenizers raises bare Exception for a broken file)
        raise DataError([f"the tokenizer cannot be loaded: {error}"]) from None
    return Tokeniser(tokenizer, data)


def validate(data: SupervisedData, stage: str | None, model: str | None) -> int:
    """Print bad rows and a summary; with a model also the lengths in tokens.

    Returns the exit status: 1 where a row is bad, 2 where something cannot be read.
    """
    tokeniser = open_tokeniser(model, data) if model is not None else None
    fates: Counter[str] = Counter()

    def length(row: Row) -> int:
        assert tokeniser is not None
        outcome = tokeniser(row)
        if isinstance(outcome, BadRow):
            raise outcome
        fates[outcome.fate] += 1
        return outcome.length

    paths, first = [source.path for source in data.train], data.train[0]
    lengths = length if tokeniser else None
    report = check.validate(paths, stage, first.format, lengths, first.columns)
    console = _console()
    for file in report.files:
        for problem in file.problems:
            console.print(problem)
        if file.bad_rows > len(file.problems):
            console.print(f"{file.path}: {file.bad_rows - len(file.problems):,} more bad rows")
    console.print(_summary(report))
    for line in _duplicates(report):
        console.print(line)
    if fates:
        for line in _histogram(report.lengths):
            console.print(line)
        console.print(
            f"With at most {data.max_tokens:,} tokens, of {fates.total():,} examples: "
            f"{fates['whole']:,} fit, {fates['cut']:,} cut, {fates['dropped']:,} dropped."
        )
    return _status(report)


def _status(report: check.Report) -> int:
    if report.ok:
        return 0
    of_rows = (
        re.match(rf"{re.escape(file.path)}:\d+(#\d+)?: ", problem)
        for file in report.files
        for problem in file.problems
    )
    return 1 if all(of_rows) else 2


def _summary(report: check.Report) -> Table:
    """A line a file. Of more duplicates than the report lists, only the total is exact: + is at
    least."""
    table = _table(
        ("file", "format"), ("good", "bad", "duplicates", "near duplicates", "characters")
    )
    exact, near = _per_file(report.duplicates), _per_file(report.near_duplicates)
    more = ["+" if report.exact > exact.total() else "", "+" if report.near > near.total() else ""]
    for file in report.files:
        numbers = [f"{file.rows:,}", f"{file.bad_rows:,}"]
        numbers += [f"{exact[file.path]:,}{more[0]}", f"{near[file.path]:,}{more[1]}"]
        numbers += [f"{file.characters:,}"]
        was_read = file.rows or file.bad_rows
        table.add_row(file.path, file.format or "-", *(numbers if was_read else ["-"] * 5))
    if len(report.files) > 1:
        rows, bad = sum(f.rows for f in report.files), sum(f.bad_rows for f in report.files)
        characters = sum(file.characters for file in report.files)
        totals = (rows, bad, report.exact, report.near, characters)
        table.add_row("total", "", *(f"{total:,}" for total in totals))
    return table


def _per_file(found: list[check.Duplicate]) -> Counter[str]:
    return Counter(one.again.rpartition(":")[0] for one in found)


def _duplicates(report: check.Report) -> Iterator[str]:
    for title, number, found in (
        ("Duplicates", report.exact, report.duplicates),
        ("Near duplicates", report.near, report.near_duplicates),
    ):
        if found:
            shown = found[:DUPLICATES_SHOWN]
            yield f"\n{title}, {len(shown)} of {number:,}"
            yield from (f"{one.again} repeats {one.first}" for one in shown)


def _histogram(lengths: Counter[int]) -> Iterator[str]:
    yield "\nTokens of an example, before anything is cut"
    buckets = list(check.histogram(lengths))
    most, width = max(count for _, count in buckets), len(f"{buckets[-1][0]:,}")
    for bound, count in buckets:
        bar = "█" * round(BAR * count / most)
        yield f"up to {bound:>{width},}  {count:>{len(f'{most:,}')},}  {bar}".rstrip()


def convert(data: SupervisedData, to: str, output: str, force: bool) -> None:
    """Write the rows in another format. Raises `DataError`, and then nothing is written."""
    if Path(output).exists() and not force:
        raise DataError([f"{output}: is there already, replace it with --force"])
    paths, first = [source.path for source in data.train], data.train[0]
    rows = converter.convert(paths, output, to, first.format, first.columns)
    _console().print(f"{rows:,} rows written to {output}, format {to}")


def preview(data: SupervisedData, stage: str | None, model: str, rows: int) -> None:
    """Print the first `rows` examples of each file as the model sees them."""
    tokeniser, console = open_tokeniser(model, data), _console()
    problems: list[str] = []
    for source in data.train:
        for found in rows_by_file(source, stage, problems):
            for place, row in islice(found, rows):
                for text in tokeniser.show(place, row):
                    console.print(text)
    if problems:
        raise DataError(list(dict.fromkeys(problems)))


@dataclass(slots=True)
class Stats:
    """What a source gives to train on."""

    counts: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    """Tokens of an example, before anything is cut -> how many examples."""
    reasons: Counter[str] = field(default_factory=Counter)
    first_bad: str = ""

    def add(self, place: str, outcome: Outcome | BadRow) -> None:
        if isinstance(outcome, BadRow):
            self.counts["bad"] += 1
            self.first_bad = self.first_bad or f"{place}: {outcome}"
            return
        self.counts.update(["examples", outcome.fate])
        self.counts["tokens"] += sum(len(one.ids) for one in outcome.tokens)
        self.counts["trained"] += sum(sum(one.trained) for one in outcome.tokens)
        self.lengths[outcome.length] += 1
        if outcome.reason:
            self.reasons[f"{outcome.fate}: {outcome.reason}"] += 1

    def numbers(self) -> list[str]:
        lengths = (percentile(self.lengths, percent) for percent in PERCENTILES.values())
        return [f"{number:,}" for number in (*(self.counts[name] for name in COUNTS), *lengths)]

    def notes(self) -> Iterator[str]:
        if self.first_bad:
            yield f"{self.counts['bad']:,} bad, the first is {self.first_bad}"
        yield from (f"{count:,} {reason}" for reason, count in self.reasons.items())


def stats(data: SupervisedData, stage: str | None, model: str) -> None:
    """Print what a run would train on, counted in tokens; a line a source."""
    tokeniser, console = open_tokeniser(model, data), _console()
    table = _table(("source",), (*COUNTS, *PERCENTILES))
    total, notes = Stats(), list[str]()
    problems: list[str] = []
    for source in data.train:
        found = Stats()
        for place, row in chain.from_iterable(rows_by_file(source, stage, problems)):
            outcome = tokeniser(row)
            found.add(place, outcome)
            total.add(place, outcome)
        table.add_row(source.path, *found.numbers())
        notes += [f"{source.path}: {note}" for note in found.notes()]
    if len(data.train) > 1:
        table.add_row("total", *total.numbers())
    console.print(table)
    for note in notes:
        console.print(note)
    if problems:
        raise DataError(list(dict.fromkeys(problems)))


def percentile(lengths: Counter[int], percent: int) -> int:
    """The smallest length that at least `percent` of the examples do not exceed; 0 of none."""
    left = lengths.total() * percent / 100
    for length in sorted(lengths):
        left -= lengths[length]
        if left <= 0:
            return length
    return 0


def _table(words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(*words, box=None, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _console() -> Console:
    """Plain text on lines as long as they need to be, those of tables too: no path is cut off."""
    return Console(soft_wrap=True, markup=False, highlight=False, emoji=False, width=10_000)
