"""The formats of training rows: told apart by their keys, read into rows, written from rows."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medgpt_ray.data.formats import conversations as talk
from medgpt_ray.data.formats import preferences as pairs
from medgpt_ray.data.formats.columns import (
    MEDIA,
    TOLD_APART,
    Object,
    check_thoughts,
    given,
    refused,
    refused_turns,
)
from medgpt_ray.data.rows import PROBLEMS_SHOWN, BadRow, DataError, parse_json_text
from medgpt_ray.data.segments import Segment, read
from medgpt_ray.types import Conversation, Document, Labelled, Preference, Row

KINDS: dict[str, type[Row]] = {
    "pt": Document,
    "sft": Conversation,
    "rm": Preference,
    "dpo": Preference,
    "orpo": Preference,
    "kto": Labelled,
}
"""What a stage trains on; kto takes a preference pair too, as a good and a bad answer."""

WORDS: dict[type[Row], str] = {
    Document: "documents",
    Conversation: "conversations",
    Preference: "preference pairs",
    Labelled: "labelled answers",
}

Keys = frozenset[str]
_ANSWERS = frozenset({"chosen", "rejected"})
_TURNS = frozenset({"messages", "conversations"})
_ANSWER = frozenset({"completion", "response"})
_LABEL = frozenset({"label", "kto_tag"})
LABELS = ("label", "kto_tag", "is_correct")
"""Columns that tell good answers from bad ones where they say yes or no."""
COLUMNS_SHOWN = 40
Columns = Mapping[str, str | list[str]]
"""Our name of a column -> the file's; those that are `unused` may be several."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing a kind of row as an object."""

    kind: type[Row]
    schema: str
    """Its columns in words; those in brackets are optional."""
    matches: Callable[[Keys], bool]
    """Whether an object with these keys looks like it."""
    read: Callable[[Object], Row]
    """Raises `BadRow`; keys that no format knows and that change nothing are ignored."""
    write: Callable[[Any], Object]
    """Of a row of `kind`; raises `BadRow` for one that the format cannot express."""


FORMATS: dict[str, Format] = {
    "sharegpt": Format(
        Conversation,
        "conversations of {from, value}, [system], [tools]",
        lambda keys: "conversations" in keys and not keys & {*_ANSWERS, "kto_tag"},
        talk.read_sharegpt,
        talk.write_sharegpt,
    ),
    "messages": Format(
        Conversation,
        "messages of {role, content, [tool_calls]}, [tools]",
        lambda keys: "messages" in keys and "kto_tag" not in keys,
        talk.read_messages,
        talk.write_messages,
    ),
    "alpaca": Format(
        Conversation,
        "instruction, [input or context], output or response, [system], [history]",
        lambda keys: "instruction" in keys and not keys & {*_ANSWERS, *_TURNS, "kto_tag"},
        talk.read_alpaca,
        talk.write_alpaca,
    ),
    "prompt_completion": Format(
        Conversation,
        "prompt, completion or response, [system], [tools]",
        lambda keys: "prompt" in keys and bool(keys & _ANSWER) and not keys & _LABEL,
        talk.read_prompt_completion,
        talk.write_prompt_completion,
    ),
    "qa": Format(
        Conversation,
        "question, answer",
        lambda keys: keys >= {"question", "answer"} or keys >= {"问", "答"},
        talk.read_qa,
        talk.write_qa,
    ),
    "text": Format(Document, "text", lambda keys: "text" in keys, talk.read_text, talk.write_text),
    "preference_conversations": Format(
        Preference,
        "conversations of {from, value}, chosen, rejected, [system], [tools], [margin]",
        lambda keys: "conversations" in keys and bool(keys & _ANSWERS),
        pairs.read_conversations,
        pairs.write_conversations,
    ),
    "preference_question": Format(
        Preference,
        "[system], [history], question or input, (response_)chosen, (response_)rejected, [margin]",
        lambda keys: (
            bool(keys & {"response_chosen", "response_rejected"})
            or (keys >= _ANSWERS and _asks(keys))
        ),
        pairs.read_question,
        pairs.write_question,
    ),
    "preference_alpaca": Format(
        Preference,
        "instruction, [input or context], chosen, rejected, [system], [history], [margin]",
        lambda keys: "instruction" in keys and "prompt" not in keys and bool(keys & _ANSWERS),
        pairs.read_alpaca,
        pairs.write_alpaca,
    ),
    "preference": Format(
        Preference,
        "[prompt], chosen, rejected, [system], [tools], [margin]",
        lambda keys: (
            keys >= {"preferred_output", "non_preferred_output"}
            or (
                bool(keys & _ANSWERS)
                and not _asks(keys)
                and "conversations" not in keys
                and ("prompt" in keys or "instruction" not in keys)
            )
        ),
        pairs.read_preference,
        pairs.write_preference,
    ),
    "labelled": Format(
        Labelled,
        "prompt, completion or response, label or kto_tag (true or false), [system], [tools]; or "
        "those of sharegpt, messages or alpaca, label or kto_tag",
        lambda keys: (
            bool(keys & _LABEL)
            and (
                bool(keys & _TURNS)
                or ("prompt" in keys and bool(keys & _ANSWER))
                or "instruction" in keys
            )
            and not keys & _ANSWERS
        ),
        pairs.read_labelled,
        pairs.write_labelled,
    ),
}


def _asks(keys: Keys) -> bool:
    """Whether they are those of a preference pair with the question as a text of its own."""
    others = {"prompt", "instruction", "conversations"}
    return "question" in keys or ("input" in keys and not keys & others)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the rows of a file are read."""

    format: str
    columns: Columns = field(default_factory=dict)


def detect(
    record: dict[str, Any] | str | BadRow,
    stage: str | None = None,
    columns: Columns | None = None,
) -> str:
    """The name of the one format that the keys of `record` fit; a plain text is a document.

    Of several it is the one that `stage` can train on. `columns` are those of `Reading`.
    """
    if isinstance(record, BadRow):
        raise record
    if isinstance(record, str):
        if record.startswith("{") and _is_object(record):
            raise BadRow("", "is a JSON object in a file of plain text: rename the file to .jsonl")
        return "text"
    # A file with columns for several formats leaves null what a row does not have.
    named = _renamed(record, columns or {})
    topic = named.get("label") not in (True, False, 0, 1)
    topic = topic and ("prompt" not in named or stage in ("pt", "sft"))
    if topic:  # it tells no answers apart
        named = {key: value for key, value in named.items() if key != "label"}
    filled = frozenset(key for key, value in named.items() if value is not None)
    for keys in (filled, frozenset(named)):
        found = [name for name, format in FORMATS.items() if format.matches(keys)]
        if stage is not None:
            found = [name for name in found if _fits(FORMATS[name].kind, stage)] or found
        if len(found) == 1:
            return found[0]
        if found:
            fix = "name its format" + ("" if stage else " or the stage that it is for")
            raise BadRow("", f"could be {' or '.join(found)}: {fix}")
    known = "; ".join(f"{name} ({format.schema})" for name, format in FORMATS.items())
    raise BadRow(
        "",
        f"has the keys {list(record)}, which fit no known format{_likely(record)}: {known}. Where "
        "the columns have other names, say so with columns, such as {question: Question, answer: "
        "Response}",
    )


def _is_object(text: str) -> bool:
    try:
        return isinstance(parse_json_text(text, ""), dict)
    except BadRow:
        return False


OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversation", "dialogue", "dialog"),
    "conversations": ("conversations", "conversation", "data"),
    "prompt": ("prompt", "query", "question", "inputs", "input", "instruction"),
    "completion": ("completion", "response", "answer", "targets", "target", "output", "outputs"),
}


def _likely(record: Object) -> str:
    """The columns that would make a conversation of it, in words; "" where none would."""
    lower = {name.lower(): name for name in record}
    for format, wanted in (
        ("messages", ("messages",)),
        ("prompt_completion", ("prompt", "completion")),
        ("sharegpt", ("conversations",)),
    ):
        columns = {
            name: lower[other]
            for name in wanted
            for other in reversed(OTHER_NAMES[name])
            if other in lower
        }
        if columns.keys() != set(wanted):
            continue
        try:
            FORMATS[format].read({name: record[other] for name, other in columns.items()})
        except BadRow:
            continue
        told = ",".join(f"{name}={other}" for name, other in columns.items() if name != other)
        return f" (with --columns {told} it would be a conversation)"
    return ""


def detect_file(
    segments: Sequence[Segment], stage: str | None = None, columns: Columns | None = None
) -> str:
    """The format of the first readable row of a file, for all of its rows."""
    problems = []
    for segment in segments:
        for record in read(segment):
            try:
                return detect(record.value, stage, columns)
            except BadRow as bad:
                problems.append(f"{record.place}: {bad}")
                if len(problems) == PROBLEMS_SHOWN:
                    raise DataError(problems) from None
    raise DataError(problems)


def reading_of(
    segments: Sequence[Segment], format: str, columns: Columns, stage: str | None
) -> Reading:
    """How to read the file that was cut into `segments`; the format `auto` is found out.

    Raises `DataError` where it cannot be, or where no row has a column of `columns`.
    """
    if columns:
        _check_columns(segments, columns)
    name = detect_file(segments, stage, columns) if format == "auto" else format
    return Reading(name, columns)


def _check_columns(segments: Sequence[Segment], columns: Columns) -> None:
    known: dict[str, None] = {}
    named = _pairs(columns)
    for record in (record for segment in segments for record in read(segment)):
        if isinstance(record.value, dict):
            known |= dict.fromkeys(record.value)
        if known.keys() >= {column for _, column in named}:
            return
    there = ", ".join(list(known)[:COLUMNS_SHOWN]) or "none"
    raise DataError(
        [
            f"{segments[0].file.path}: columns.{name}: no row has the column {column!r}, those "
            f"there are: {there}"
            for name, column in named
            if column not in known
        ]
    )


def _pairs(columns: Columns) -> list[tuple[str, str]]:
    return [
        (ours, name)
        for ours, names in columns.items()
        for name in ([names] if isinstance(names, str) else names)
    ]


def _renamed(record: Object, columns: Columns) -> Object:
    """`record` with our names for its columns, and without the unused ones."""
    if not columns:
        return record
    named = _pairs(columns)
    taken = {*columns, *(name for _, name in named)}
    others = {name: value for name, value in record.items() if name not in taken}
    read = {ours: record[name] for ours, name in named if name in record and ours != "unused"}
    return read | others


def parse(record: dict[str, Any] | str | BadRow, reading: Reading | str) -> Row:
    """The row that `record` is as `reading` (or the name of a format) says, or raises `BadRow`."""
    if isinstance(record, BadRow):
        raise record
    if isinstance(reading, str):
        reading = Reading(reading)
    format, columns = FORMATS[reading.format], reading.columns
    if isinstance(record, str):
        if format.kind is not Document:
            expected = f"{reading.format} ({format.schema})"
            raise BadRow("", f"is a line of text, expected {expected}")
        record = {"text": record}
    record = _renamed(record, columns)
    if format.kind is not Document and given(record, "system_prompt") is not None:
        if given(record, "system") not in (None, record["system_prompt"]):
            raise BadRow("system_prompt", "given together with system, keep one of them")
        columns = {**columns, "system": "system_prompt"}
        record = record | {"system": record["system_prompt"]}
    try:
        _check_unread(record, format.kind)
        row = format.read(record)
        if isinstance(row, Conversation | Labelled):
            said = row.messages if isinstance(row, Conversation) else row.completion
            check_thoughts(record, [message["content"] for message in said])
        elif "thoughts" in columns and isinstance(row, Preference):
            raise BadRow("thoughts", "is not read of pairs: put the thoughts into the answers")
        return row
    except BadRow as bad:
        head = re.split(r"[\[.]", bad.field, maxsplit=1)[0]
        whole = bad.reason == "missing" and bad.field == head
        where = f", and the file is read as {reading.format}" if whole else ""
        field = str(columns.get(head, head)) + bad.field[len(head) :]
        raise BadRow(field, bad.reason + where) from None


def _check_unread(record: Object, kind: type[Row]) -> None:
    """Raises `BadRow` for a column that no format reads and that changes what is learned."""
    if kind is not Document:
        refused(record, MEDIA, "only texts are trained on: leave the row out, or this column")
        refused_turns(record, "functions", "is not read: rename it to tools")
    for name in LABELS if kind is Conversation else ():
        value = record.get(name)
        if value in (True, False, "true", "false", "True", "False"):  # 0 and 1 are equal to these
            raise BadRow(name, TOLD_APART)


def check_stage(kind: type[Row], stage: str) -> None:
    """Raises `BadRow` where `stage` cannot train on rows of that kind."""
    if _fits(kind, stage):
        return
    wanted = KINDS[stage]
    if wanted is Document and kind is Conversation:
        fix = "make texts of them with `medgpt data convert`, or train with stage sft"
    else:
        fix = f"train with stage {' or '.join(each for each in KINDS if _fits(kind, each))}"
    raise BadRow("", f"stage {stage} trains on {WORDS[wanted]}, these are {WORDS[kind]}: {fix}")


def _fits(kind: type[Row], stage: str) -> bool:
    return kind is KINDS[stage] or (KINDS[stage] is Labelled and kind is Preference)


def for_stage(row: Row, stage: str) -> tuple[Row, ...]:
    """What `stage` trains on for this row, or raises `BadRow` where that is nothing."""
    check_stage(type(row), stage)
    return as_labelled(row) if stage == "kto" and isinstance(row, Preference) else (row,)


def as_labelled(row: Preference) -> tuple[Labelled, Labelled]:
    """The good and the bad answer of a pair, for stages that know no pairs."""
    return (
        Labelled(row.prompt, row.chosen, True, row.tools),
        Labelled(row.prompt, row.rejected, False, row.tools),
    )
