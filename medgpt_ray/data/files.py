"""Files of training data: found, cut into segments that workers share out, and read row by row.

What is wrong with a row is a record like any other, so one bad line loses no other; what is wrong
with a file raises `DataError`. Rows stream: neither a file nor a decompressed one is held whole.
"""

import functools
import glob
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from medgpt_ray.data.json_list import CHUNK_BYTES, Element, elements, too_long
from medgpt_ray.data.rows import BadRow, DataError, check_values, decode, kind, parse_json

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["json", "jsonl", "parquet", "txt", "hf"]

MAX_ROW_BYTES = 8 * 2**20
SEGMENT_BYTES = 4 * 2**20
SUFFIXES: dict[str, Kind] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "txt",
}
TABLES = (".csv", ".tsv", ".xlsx", ".arrow", ".feather")
ARCHIVES = (".xz", ".bz2", ".lz4", ".zip")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
KNOWN = ".json, .jsonl (or .ndjson), .txt (each also with .gz or .zst) and .parquet"
MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"PAR1": ".parquet"}
SPLITS = re.compile(
    r"(?:^|.*[-_.])(?P<split>train(?:ing)?|test|validation|valid|val|dev|eval(?:uation)?)"
    r"(?:[-_.]?(?:set|split|data|\d+(?:[-_]of[-_]\d+)?))*(?:\.[a-z.]+)?",
    re.IGNORECASE,
)
"""Names of files and folders of one split: train.jsonl, medqa_test.json, train-00000-of-00001."""
NO_DATA = re.compile(
    r"(?:readme|licen[cs]e|notice|changelog|requirements|citation)(?:\.txt)?"
    r"|(?:dataset_infos?|dataset_dict)\.json",
    re.IGNORECASE,
)
"""Names of files that stand beside data in a folder and hold none."""
BOM = b"\xef\xbb\xbf"
BATCH_ROWS = 256

# JSON text without any of these holds no value that `check_values` refuses.
_SUSPICIOUS = re.compile(rb"\\u[dD][89a-fA-F]|NaN|Infinity|\d[eE]\+?\d{3}")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file, or one split of a Hugging Face data set."""

    path: str
    """Of a data set `hf:NAME:SPLIT`."""
    kind: Kind
    compression: str | None = None
    """gzip or zstd."""


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

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


def find(path: str) -> list[DataFile]:
    """The data files that `path` names, in the order of their names.

    A directory is searched to its depth without hidden files. Files that hold no data are skipped
    there and in the matches of a glob, and an error where they are named; data that is not read,
    such as .csv, is an error anywhere. A file that is there by several links is read once.
    """
    if "://" in path:
        hint = "download it, or name a data set of the hub as hf:NAME"
        raise DataError([f"{path}: addresses are not read: {hint}"])
    if path.startswith("hf:"):
        return [_data_set(path)]
    path = os.path.expanduser(path)
    with _faults(path):
        if Path(path).is_dir():
            files = _below(Path(path))
        elif Path(path).exists():
            if not (file := data_file(path)):
                raise DataError([f"{path}: unknown kind of file, expected {KNOWN}"])
            return [file]
        elif glob.has_magic(path):
            matches = (Path(match) for match in sorted(glob.glob(path, recursive=True)))
            files = [file for match in matches for file in _below(match)]
        else:
            raise FileNotFoundError(path)
    if not files:
        raise DataError([f"{path}: no data files there, expected {KNOWN}"])
    unique: dict[str, DataFile] = {}
    for file in files:
        unique.setdefault(os.path.realpath(file.path), file)
    return list(unique.values())


def _below(path: Path) -> list[DataFile]:
    names = [path]
    if path.is_dir():
        names, seen = list[Path](), set[str]()
        for folder, folders, found in os.walk(path, onerror=_fail, followlinks=True):
            here = os.path.realpath(folder)
            folders[:] = [name for name in folders if not name.startswith(".")]
            if here in seen:  # a link to a folder that was read, or that it lies in
                folders.clear()
                continue
            seen.add(here)
            names += [Path(folder, name) for name in found if not name.startswith(".")]
    names = [name for name in sorted(names) if name.is_file()]
    problems = [
        f"{name}: is not read, expected {KNOWN}: convert it, or put it elsewhere"
        for name in names
        if _is_other_data(name)
    ]
    if problems:
        raise DataError(problems)
    names = [name for name in names if name == path or not NO_DATA.fullmatch(name.name)]
    return [file for name in names if (file := data_file(str(name)))]


def one_split(path: str, files: Iterable[DataFile]) -> None:
    """Raises `DataError` where a folder or a glob gives training files together with those of a
    test or validation split."""
    found: dict[str, str] = {}
    for file in files:
        parts = Path(os.path.relpath(file.path, os.path.expanduser(path).partition("*")[0])).parts
        named = (SPLITS.fullmatch(part) for part in parts)
        if split := next((match["split"] for match in named if match), None):
            kind = "train" if split.lower().startswith("train") else split.lower()
            found.setdefault(kind, file.path)
    if "train" in found and len(found) > 1:
        shown = ", ".join(f"{split} ({example})" for split, example in found.items())
        raise DataError(
            [f"{path}: holds several splits: {shown}: name the files of the one that is meant"]
        )


def _is_other_data(path: Path) -> bool:
    """A table of another kind, or rows in an archive of another kind."""
    *_, inner, last = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    if last in ARCHIVES:
        return inner in SUFFIXES or inner in TABLES
    return last in TABLES or (last in COMPRESSIONS and inner in TABLES)


def _fail(error: OSError) -> None:
    """A folder that cannot be read holds rows that would be missed."""
    raise error


def data_file(path: str) -> DataFile | None:
    """What the suffixes of a file's name say of it; none for a kind that is not known."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    inner = suffixes[-2:-1] if compression else suffixes[-1:]
    known = SUFFIXES.get(inner[0]) if inner else None
    if suffixes[-1:] == [".parquet"]:
        known = "parquet"
    if known and any("\ud800" <= character <= "\udfff" for character in path):
        raise DataError([f"{path!a}: its name is not UTF-8, rename it"])
    return DataFile(path, known, compression) if known else None


def segments(file: DataFile, bytes_per_segment: int = SEGMENT_BYTES) -> list[Segment]:
    """`file` cut into parts of about `bytes_per_segment`, each at least one row.

    Raises `DataError` for a file that cannot be opened or holds no row.
    """
    with _faults(file.path):
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
    table = _load(file.path)
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
    file, empty = segment.file, True
    with _faults(file.path):
        for line, value in _values(segment):
            empty = False
            yield Record(file.path, line, value)
    if empty:
        raise _empty(file.path)


def _values(segment: Segment) -> Iterator[tuple[int, dict[str, Any] | str | BadRow]]:
    file = segment.file
    if file.kind == "parquet":
        yield from _parquet_rows(segment)
    elif file.kind == "hf":
        rows = _load(file.path).select(range(segment.start, cast(int, segment.end)))
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


def _data_set(path: str) -> DataFile:
    """`hf:NAME` is its train split, or the only one that it has."""
    name, _, split = path.removeprefix("hf:").partition(":")
    if not name:
        raise DataError([f"{path}: expected hf:NAME or hf:NAME:SPLIT"])
    if not split:
        with _hub_faults(path) as datasets:
            splits = datasets.get_dataset_split_names(name)
        if "train" not in splits and len(splits) > 1:
            raise DataError([f"{path}: has the splits {', '.join(splits)}: add one as {path}:NAME"])
        split = "train" if "train" in splits else splits[0]
    return DataFile(f"hf:{name}:{split}", "hf")


@functools.lru_cache(maxsize=4)
def _load(path: str) -> "Dataset":
    name, _, split = path.removeprefix("hf:").partition(":")
    with _hub_faults(path) as datasets:
        return datasets.load_dataset(name, split=split)


@contextmanager
def _hub_faults(path: str) -> Iterator[Any]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        yield datasets
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError([f"{path}: cannot be loaded: {' '.join(str(error).split())}"]) from None


@contextmanager
def _faults(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError([f"{path}: no such file (relative to {Path.cwd()})"]) from None
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        where = getattr(error, "filename", None) or path
        raise DataError([f"{where}: cannot be read: {reason}"]) from None


def _empty(path: str) -> DataError:
    return DataError([f"{path}: empty, expected at least one row"])
