"""The files of a run's data sets, cut into segments, with the format of each file."""

from dataclasses import dataclass

from medgpt_ray.config.supervised import Source
from medgpt_ray.data.files import content_sha256, find, one_split
from medgpt_ray.data.formats import FORMATS, Reading, check_stage, reading_of
from medgpt_ray.data.rows import BadRow, DataError
from medgpt_ray.data.segments import Segment, read, segments

SEGMENT_BYTES = 2**18
"""Some hundred rows: small enough for segments to be shuffled, large enough for a task."""


@dataclass(frozen=True)
class SourceFiles:
    """One data set of a mixture."""

    segments: tuple[tuple[Segment, Reading], ...]
    """Each with how its file is read."""
    rows: int

    @property
    def sha256(self) -> dict[str, str]:
        """File -> its hash."""
        return {path: content_sha256(path) for path in self.formats}

    @property
    def formats(self) -> dict[str, str]:
        """File -> format."""
        return {segment.file.path: reading.format for segment, reading in self.segments}


def open_source(source: Source, stage: str) -> SourceFiles:
    """Find, cut and count. Raises `DataError` with every file that is none or that does not fit
    the stage. Files that only reading can count, compressed and .json ones, are read once.
    """
    problems: list[str] = []
    found: list[tuple[Segment, Reading]] = []
    rows = 0
    files = find(source.path)
    one_split(source.path, files)
    for file in files:
        try:
            cut = segments(file, SEGMENT_BYTES)
            reading = reading_of(cut, source.format, source.columns, stage)
            check_stage(FORMATS[reading.format].kind, stage)
            found += [(segment, reading) for segment in cut]
            rows += sum(map(_rows, cut))
        except DataError as error:
            problems += error.problems
        except BadRow as bad:
            problems.append(f"{file.path}: {bad}")
    if problems:
        raise DataError(problems)
    return SourceFiles(tuple(found), rows)


def _rows(segment: Segment) -> int:
    return sum(1 for _ in read(segment)) if segment.rows is None else segment.rows
