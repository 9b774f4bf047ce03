"""Data files from one format to another. Rows go through `types.Row`, so nothing that is trained on
gets lost: a row that the target cannot express is an error, and then no file is written."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medgpt_ray.data.check import PROBLEMS_KEPT
from medgpt_ray.data.files import DataFile, data_file, find, one_split
from medgpt_ray.data.formats import FORMATS, WORDS, Columns, as_labelled, parse, reading_of
from medgpt_ray.data.rows import BadRow, DataError
from medgpt_ray.data.segments import BATCH_ROWS, read, segments
from medgpt_ray.types import Conversation, Document, Labelled, Preference, Row

Write = Callable[[dict[str, Any]], None]

# Columns of a Parquet file: the same whatever the rows hold, so that these can stream.
COLUMNS = {
    "sharegpt": ("conversations", "tools"),
    "messages": ("messages", "tools"),
    "alpaca": ("system", "history", "instruction", "input", "output"),
    "prompt_completion": ("prompt", "completion", "tools"),
    "qa": ("question", "answer"),
    "text": ("text",),
    "preference_conversations": ("conversations", "chosen", "rejected", "tools", "margin"),
    "preference_question": (
        *("system", "history", "question"),
        *("response_chosen", "response_rejected", "margin"),
    ),
    "preference_alpaca": (
        *("system", "history", "instruction", "input"),
        *("chosen", "rejected", "margin"),
    ),
    "preference": ("prompt", "chosen", "rejected", "tools", "margin"),
    "labelled": ("prompt", "completion", "label", "tools"),
}
_SHAREGPT = pa.list_(pa.struct({"from": pa.string(), "value": pa.string()}))
_FUNCTION = pa.struct({"name": pa.string(), "arguments": pa.string()})
_CALL = pa.struct({"id": pa.string(), "type": pa.string(), "function": _FUNCTION})
_TURN = {"role": pa.string(), "content": pa.string()}
_OPENAI = pa.list_(
    pa.struct(
        _TURN | {"tool_calls": pa.list_(_CALL), "tool_call_id": pa.string(), "name": pa.string()}
    )
)
_TYPES = {
    "conversations": _SHAREGPT,
    **dict.fromkeys(("messages", "prompt", "completion", "chosen", "rejected"), _OPENAI),
    "history": pa.list_(pa.list_(pa.string())),
    "margin": pa.float64(),
    "label": pa.bool_(),
}
_ANSWERS = {"preference_conversations": _SHAREGPT, "preference_alpaca": pa.string()}
"""Types of the two answers where they are not messages."""


def convert(
    paths: Sequence[str],
    output: str,
    to: str,
    format: str = "auto",
    columns: Columns | None = None,
) -> int:
    """Write the rows of `paths` to `output` in the format `to`; returns how many were written.

    Raises `DataError` with every row that cannot be read or expressed. `output` is replaced whole
    at the end, or not touched.
    """
    problems: list[str] = []
    files: list[DataFile] = []
    for path in paths:
        try:
            files += (found := find(path))
            one_split(path, found)
        except DataError as error:
            problems += error.problems
    target = data_file(output)
    if target is None or target.kind == "txt":
        kinds = ".jsonl, .json (both also with .gz or .zst) or .parquet"
        raise DataError([f"{output}: unknown kind of file, expected {kinds}"])
    if Path(output).resolve() in [Path(file.path).resolve() for file in files]:
        raise DataError([f"{output}: is one of the files to convert, write to another"])
    if not Path(output).parent.is_dir():
        raise DataError([f"{output}: cannot be written: {Path(output).parent} is no directory"])
    rows = 0
    with _replacing(target, to) as write:
        for place, row in _rows(files, format, columns or {}, problems):
            try:
                records = [FORMATS[to].write(one) for one in _of_kind(row, to)]
            except BadRow as bad:
                problems.append(f"{place}: {bad}")
                continue
            for record in records:
                write(record)
            rows += len(records)
        if problems:
            raise DataError(problems)
    return rows


def _rows(
    files: Sequence[DataFile], format: str, columns: Columns, problems: list[str]
) -> Iterator[tuple[str, Row]]:
    """Good rows with their `file:line`; what is wrong with others goes into `problems`."""
    for file in files:
        try:
            parts = segments(file)
            reading = reading_of(parts, format, columns, None)
            for record in (record for part in parts for record in read(part)):
                if len(problems) >= PROBLEMS_KEPT:
                    return
                try:
                    yield record.place, parse(record.value, reading)
                except BadRow as bad:
                    problems.append(f"{record.place}: {bad}")
        except DataError as error:
            problems += error.problems


def _of_kind(row: Row, to: str) -> tuple[Row, ...]:
    """`row` as the format `to` holds rows: a pair is two labelled answers, a conversation without
    tools is a text, its turns parted by empty lines."""
    kind = FORMATS[to].kind
    if isinstance(row, kind):
        return (row,)
    if kind is Labelled and isinstance(row, Preference):
        if row.margin is not None:
            raise BadRow("margin", f"{to} cannot express it")
        return as_labelled(row)
    if kind is Document and isinstance(row, Conversation):
        if row.tools or any("tool_calls" in message for message in row.messages):
            raise BadRow("tools", f"{to} cannot express them")
        return (Document("\n\n".join(message["content"] for message in row.messages)),)
    raise BadRow("", f"{to} holds {WORDS[kind]}, and these are {WORDS[type(row)]}")


@contextmanager
def _replacing(target: DataFile, to: str) -> Iterator[Write]:
    """A function that writes records; its file takes the place of `target` unless there is an
    exception."""
    path = Path(target.path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = {"jsonl": _jsonl, "json": _json, "parquet": _parquet}[target.kind]
    try:
        with writer(str(temporary), target.compression, to) as write:
            yield write
        temporary.replace(path)
    except OSError as error:
        raise DataError([f"{path}: cannot be written: {error.strerror or error}"]) from None
    finally:
        with suppress(OSError):  # renamed, or never made
            temporary.unlink()


@contextmanager
def _jsonl(path: str, compression: str | None, to: str) -> Iterator[Write]:
    with pa.output_stream(path, compression=compression) as stream:
        yield lambda record: stream.write(_line(record) + b"\n")


@contextmanager
def _json(path: str, compression: str | None, to: str) -> Iterator[Write]:
    with pa.output_stream(path, compression=compression) as stream:
        before = b"[\n"

        def write(record: dict[str, Any]) -> None:
            nonlocal before
            stream.write(before + _line(record))
            before = b",\n"

        yield write
        stream.write(b"\n]\n")


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


@contextmanager
def _parquet(path: str, compression: str | None, to: str) -> Iterator[Write]:
    types = _TYPES
    if to in _ANSWERS:
        types = _TYPES | dict.fromkeys(("chosen", "rejected"), _ANSWERS[to])
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS[to]])
    waiting: list[dict[str, Any]] = []

    with pq.ParquetWriter(path, schema) as writer:

        def write(record: dict[str, Any]) -> None:
            waiting.append(_columnar(record, to))
            if len(waiting) == BATCH_ROWS * 16:
                flush()

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(waiting, schema))
            waiting.clear()

        yield write
        if waiting:
            flush()


def _columnar(record: dict[str, Any], to: str) -> dict[str, Any]:
    """A column has one type, so schemas of functions are JSON text and an answer is its turns."""
    record = dict(record)
    if isinstance(record.get("tools"), list):
        record["tools"] = json.dumps(record["tools"], ensure_ascii=False)
    if to == "preference_conversations":
        for name in ("chosen", "rejected"):
            if isinstance(record[name], str):
                record[name] = [{"from": "gpt", "value": record[name]}]
    return record
