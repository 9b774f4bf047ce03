"""Files of training data, read: cut into segments that workers share out, and those row by row.

What is wrong with a row is a record like any other, so one bad line loses no other; what is wrong
with a file raises `DataError`. Rows stream: neither a file nor a decompressed one is held whole.
"""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from medgpt_ray.data import hub
from medgpt_ray.data.files import DataFile, faults
from medgpt_ray.data.json_list import CHUNK_BYTES, Element, elements, too_long
from medgpt_ray.data.rows import BadRow, DataError, check_values, decode, kind, parse_json

MAX_ROW_BYTES = 8 * 2**20
SEGMENT_BYTES = 4 * 2**20
MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"PAR1": ".parquet"}
BOM = b"\xef\xbb\xbf"
BATCH_ROWS = 256

# JSON text without any of these holds no value that `check_values` refuses.
_SUSPICIOUS = re.compile(rb"\\u[dD][89a-fA-F]|NaN|Infinity|\d[eE]\+?\d{3}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a file that can be read on its own."""

    file: DataFile
    start: int
    end: int | None
    """`start` to `end` (exclusive) are bytes of a jsonl or txt file, row groups of Parquet, rows of
    a Hugging Face data set; none is the end of the file."""
    first_line: int
    """Number of the first line, or of the first row where there are no lines; counted from 1."""
    rows: int | None
    """None where only reading would tell: compressed and .json files."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it was read: an object, the text of a txt line, or what is wrong with it."""

    path: str
    line: int
    """Where the row begins; of Parquet and Hugging Face data sets the number of the row."""
    value: dict[str, Any] | str | BadRow
    nth: int = 1
    """Of the rows that begin in this line: a JSON list may stand on one."""

    @property
    def place(self) -> str:
        """As `notes.jsonl:7`, or `notes.json:1#7` for the seventh row of a line."""
        return f"{self.path}:{self.line}" + (f"#{self.nth}" if self.nth > 1 else "")


def segments(file: DataFile, bytes_per_segment: int = SEGMENT_BYTES) -> list[Segment]:
    """`file` cut into parts of about `bytes_per_segment`, each at least one row.

    Raises `DataError` for a file that cannot be opened or holds no row.
    """
    with faults(file.path):
        if file.kind == "parquet":
            cut = _row_groups(file, bytes_per_segment)
        elif file.kind == "hf":
            cut = _row_ranges(file, bytes_per_segment)
        elif file.kind == "json" or file.compression:
            return [Segment(file, 0, None, 1, None)]
        else:
            cut = _line_ranges(file, bytes_per_segment)
    if not cut:
        raise _empty(file.path)
    return cut


def _line_ranges(file: DataFile, bytes_per_segment: int) -> list[Segment]:
    cut: list[Segment] = []
    start = end = rows = 0
    first_line = line = 1
    with _open(file) as stream:
        for text, size in _lines(stream):
            if file.kind == "jsonl" and not (cut or rows) and text.strip() in (b"[", b"{"):
                hint = "write one object a line, or call a file that is one list .json"
                raise DataError([f"{file.path}:{line}: JSON over several lines: {hint}"])
            end, line, rows = end + size, line + 1, rows + bool(text.strip())
            if end - start >= bytes_per_segment:
                cut.append(Segment(file, start, end, first_line, rows))
                start, first_line, rows = end, line, 0
    cut.append(Segment(file, start, end, first_line, rows))
    return [segment for segment in cut if segment.rows]


def _row_groups(file: DataFile, bytes_per_segment: int) -> list[Segment]:
    metadata = pq.read_metadata(file.path)
    cut, start, first, rows, size = [], 0, 1, 0, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows, size = rows + group.num_rows, size + group.total_byte_size
        if rows and (size >= bytes_per_segment or number + 1 == metadata.num_row_groups):
            cut.append(Segment(file, start, number + 1, first, rows))
            start, first, rows, size = number + 1, first + rows, 0, 0
    return cut


def _row_ranges(file: DataFile, bytes_per_segment: int) -> list[Segment]:
    table = hub.load(file.path)
    rows = table.num_rows
    each = max(1, rows * bytes_per_segment // max(1, table.data.nbytes))
    return [
        Segment(file, start, min(start + each, rows), start + 1, min(each, rows - start))
        for start in range(0, rows, each)
    ]


def read(segment: Segment) -> Iterator[Record]:
    """The rows of `segment` in order; blank lines are skipped.

    Raises `DataError` where the file itself turns out to be damaged, after the rows before that.
    """
    file, before, nth = segment.file, 0, 1
    with faults(file.path):
        for line, value in _values(segment):
            nth = nth + 1 if line == before else 1
            before = line
            yield Record(file.path, line, value, nth)
    if not before:
        raise _empty(file.path)


def _values(segment: Segment) -> Iterator[tuple[int, dict[str, Any] | str | BadRow]]:
    file = segment.file
    if file.kind == "parquet":
        yield from _parquet_rows(segment)
    elif file.kind == "hf":
        rows = hub.load(file.path).select(range(segment.start, cast(int, segment.end)))
        yield from _arrow_rows(rows.with_format("arrow").iter(BATCH_ROWS), segment.first_line)
    else:
        for line, data in _list_elements(file) if _is_list(file) else _text_lines(segment):
            try:
                yield line, _value(data, file)
            except BadRow as bad:
                if isinstance(data, bytes):
                    bad.raw = data.decode("utf-8", "backslashreplace")
                yield line, bad


def _value(data: bytes | BadRow, file: DataFile) -> dict[str, Any] | str:
    if isinstance(data, BadRow):
        raise data
    if data.startswith(BOM):
        raise BadRow("", "byte order mark, save the file as UTF-8 without one")
    if len(data) > MAX_ROW_BYTES:
        raise too_long(MAX_ROW_BYTES)
    if file.kind == "txt":
        return decode(data)
    row = parse_json(data)
    if not isinstance(row, dict):
        raise BadRow("", f"is {kind(row)}, expected a JSON object")
    if _SUSPICIOUS.search(data):
        check_values(row)
    return row


def _is_list(file: DataFile) -> bool:
    """Whether a .json file holds one list; else it is one object a line, called json by mistake."""
    if file.kind != "json":
        return False
    with _open(file) as stream:
        start = stream.readline(MAX_ROW_BYTES).removeprefix(BOM).strip()
        while not start and (line := stream.readline(MAX_ROW_BYTES)):
            start = line.strip()
    if start == b"{":
        problem = f"{file.path}: one JSON object over several lines, expected a list of objects"
        raise DataError([problem])
    return start.startswith(b"[")


def _list_elements(file: DataFile) -> Iterator[Element]:
    with _open(file) as stream:
        yield from elements(stream, MAX_ROW_BYTES)


def _text_lines(segment: Segment) -> Iterator[tuple[int, bytes]]:
    with _open(segment.file) as stream:
        if segment.start:
            stream.seek(segment.start)
        position = segment.start
        for line, (text, size) in enumerate(_lines(stream), start=segment.first_line):
            if text.strip():
                yield line, text
            position += size
            if position == segment.end:
                return


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line without its end, cut to MAX_ROW_BYTES + 1, and the bytes that it takes whole."""
    while line := stream.readline(MAX_ROW_BYTES + 1):
        size, end = len(line), line
        while not end.endswith(b"\n") and (end := stream.readline(CHUNK_BYTES)):
            size += len(end)
        yield line.rstrip(b"\r\n"), size


@contextmanager
def _open(file: DataFile) -> Iterator[BinaryIO]:
    """The bytes of a text file, decompressed: by pyarrow, as zstandard misses a cut-off file."""
    if file.compression:
        raw = pa.input_stream(file.path, compression=file.compression)
    else:
        raw = io.FileIO(file.path)
    with io.BufferedReader(raw, CHUNK_BYTES) as stream:
        start = stream.peek(4)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            problem = f"{file.path}: is UTF-16, save it as UTF-8 without a byte order mark"
            raise DataError([problem])
        if suffix := next((known for magic, known in MAGIC.items() if start.startswith(magic)), ""):
            raise DataError([f"{file.path}: is a {suffix} file by its content, call it so"])
        yield stream


def _parquet_rows(segment: Segment) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    with pq.ParquetFile(segment.file.path) as parquet:
        groups = range(segment.start, cast(int, segment.end))
        batches = parquet.iter_batches(BATCH_ROWS, row_groups=groups)
        yield from _arrow_rows(batches, segment.first_line)


def _arrow_rows(
    batches: Iterable[pa.RecordBatch | pa.Table], first: int
) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    number = first
    for batch in batches:
        for index in range(batch.num_rows):
            yield number, _arrow_row(batch.slice(index, 1))
            number += 1


def _arrow_row(row: pa.RecordBatch | pa.Table) -> dict[str, Any] | BadRow:
    if row.nbytes > MAX_ROW_BYTES:
        return too_long(MAX_ROW_BYTES)
    try:
        (values,) = row.to_pylist()
    except UnicodeDecodeError as error:
        return BadRow("", f"invalid UTF-8 at byte {error.start + 1} of a text, write it as UTF-8")
    except OverflowError as error:
        return BadRow("", f"holds a date or time beyond those of Python ({error})")
    return {name: _without_nulls(value) for name, value in values.items()}


def _without_nulls(value: Any) -> Any:
    """Arrow fills the fields that an object lacks and its neighbours have with null."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _empty(path: str) -> DataError:
    return DataError([f"{path}: empty, expected at least one row"])
