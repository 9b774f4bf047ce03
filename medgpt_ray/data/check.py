"""What is in data files and what is wrong with them: rows, duplicates, lengths."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from medgpt_ray.data.files import DataFile, find
from medgpt_ray.data.formats import FORMATS, Columns, check_stage, for_stage, parse, reading_of
from medgpt_ray.data.rows import BadRow, DataError, content_hash, near_hash, texts
from medgpt_ray.data.segments import read, segments
from medgpt_ray.types import Row

PROBLEMS_KEPT = 1000


@dataclass(slots=True)
class FileReport:
    """What was found in one file."""

    path: str
    format: str | None = None
    """None where no row told."""
    rows: int = 0
    """Good ones."""
    bad_rows: int = 0
    characters: int = 0
    problems: list[str] = field(default_factory=list)
    """`file:line: field: reason` of the first 1,000 bad rows, `file: reason` of the file itself."""

    def reject(self, problem: str) -> None:
        self.bad_rows += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two rows that say the same; both as `file:line`."""

    first: str
    again: str


@dataclass(slots=True)
class Report:
    """What `validate` found. `duplicates` and `near_duplicates` show the first 1,000 of each."""

    files: list[FileReport] = field(default_factory=list)
    exact: int = 0
    """Rows equal to an earlier one, in whatever file."""
    near: int = 0
    """Rows that differ from an earlier one in case, punctuation and white space only."""
    duplicates: list[Duplicate] = field(default_factory=list)
    near_duplicates: list[Duplicate] = field(default_factory=list)
    lengths: Counter[int] = field(default_factory=Counter)
    """Tokens of an example -> how many examples; empty without a function that tells."""

    @property
    def ok(self) -> bool:
        return not any(file.problems for file in self.files)

    @property
    def problems(self) -> list[str]:
        return [problem for file in self.files for problem in file.problems]


def validate(
    paths: Sequence[str],
    stage: str | None,
    format: str = "auto",
    lengths: Callable[[Row], int] | None = None,
    columns: Columns | None = None,
) -> Report:
    """Read every row of `paths` as `stage` would (None: whatever each file holds).

    Keeps two hashes of each row in memory, about 300 bytes, and no row. `lengths` gives the tokens
    of an example; a `BadRow` that it raises is the row's.
    """
    report, seen = Report(), _Seen()
    for path in paths:
        try:
            files = find(path)
        except DataError as error:
            report.files.append(FileReport(path, problems=error.problems))
            continue
        for file in files:
            found = FileReport(file.path)
            report.files.append(found)
            try:
                _check_file(file, stage, format, columns or {}, lengths, report, seen)
            except DataError as error:
                found.problems += error.problems
    return report


def _check_file(
    file: DataFile,
    stage: str | None,
    format: str,
    columns: Columns,
    lengths: Callable[[Row], int] | None,
    report: Report,
    seen: "_Seen",
) -> None:
    found = report.files[-1]
    parts = segments(file)
    reading = reading_of(parts, format, columns, stage)
    found.format = reading.format
    if stage is not None:
        try:
            check_stage(FORMATS[found.format].kind, stage)
        except BadRow as bad:
            raise DataError([f"{file.path}: {bad}"]) from None
    for segment in parts:
        for record in read(segment):
            try:
                row = parse(record.value, reading)
                if lengths is not None:
                    examples = [row] if stage is None else for_stage(row, stage)
                    report.lengths.update(lengths(example) for example in examples)
            except BadRow as bad:
                found.reject(f"{record.place}: {bad}")
                continue
            found.rows += 1
            found.characters += sum(len(text) for text in texts(row))
            seen.add(row, record.place, report)


class _Seen:
    """Hashes of the rows so far, with the place of each."""

    def __init__(self) -> None:
        self._exact: dict[bytes, str] = {}
        self._near: dict[bytes, str] = {}

    def add(self, row: Row, place: str, report: Report) -> None:
        first = self._exact.setdefault(content_hash(row), place)
        similar = self._near.setdefault(near_hash(row), place)
        if first is not place:
            report.exact += 1
            if len(report.duplicates) < PROBLEMS_KEPT:
                report.duplicates.append(Duplicate(first, place))
        elif similar is not place:
            report.near += 1
            if len(report.near_duplicates) < PROBLEMS_KEPT:
                report.near_duplicates.append(Duplicate(similar, place))


def histogram(lengths: Counter[int], smallest: int = 64) -> Iterator[tuple[int, int]]:
    """(upper bound, examples no longer than it and longer than the bound before), doubling."""
    bound, rest = smallest, dict(lengths)
    while rest:
        yield bound, sum(rest.pop(length) for length in list(rest) if length <= bound)
        bound *= 2
