"""The formats of training rows: told apart by their keys, read into rows, written from rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medgpt_ray.data.files import Segment, read
from medgpt_ray.data.formats import conversations as talk
from medgpt_ray.data.formats import preferences as pairs
from medgpt_ray.data.formats.columns import Object
from medgpt_ray.data.rows import PROBLEMS_SHOWN, BadRow, DataError
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


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing a kind of row as an object."""

    kind: type[Row]
    schema: str
    """Its columns in words; those in brackets are optional."""
    matches: Callable[[Keys], bool]
    """Whether an object with these keys looks like it."""
    read: Callable[[Object], Row]
    """Raises `BadRow`; keys that no format knows are ignored."""
    write: Callable[[Any], Object]
    """Of a row of `kind`; raises `BadRow` for one that the format cannot express."""


FORMATS: dict[str, Format] = {
    "sharegpt": Format(
        Conversation,
        "conversations of {from, value}, [system], [tools]",
        lambda keys: "conversations" in keys and not keys & {"chosen", "rejected"},
        talk.read_sharegpt,
        talk.write_sharegpt,
    ),
    "messages": Format(
        Conversation,
        "messages of {role, content, [tool_calls]}, [tools]",
        lambda keys: "messages" in keys,
        talk.read_messages,
        talk.write_messages,
    ),
    "alpaca": Format(
        Conversation,
        "instruction, [input], output, [system], [history]",
        lambda keys: "instruction" in keys and not keys & {"chosen", "rejected"},
        talk.read_alpaca,
        talk.write_alpaca,
    ),
    "prompt_completion": Format(
        Conversation,
        "prompt, completion or response, [system], [tools]",
        lambda keys: (
            "prompt" in keys and bool(keys & {"completion", "response"}) and "label" not in keys
        ),
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
        lambda keys: "conversations" in keys and bool(keys & {"chosen", "rejected"}),
        pairs.read_conversations,
        pairs.write_conversations,
    ),
    "preference_question": Format(
        Preference,
        "[system], [history], question, response_chosen, response_rejected, [margin]",
        lambda keys: (
            bool(keys & {"response_chosen", "response_rejected"})
            or ("question" in keys and keys >= {"chosen", "rejected"})
        ),
        pairs.read_question,
        pairs.write_question,
    ),
    "preference_alpaca": Format(
        Preference,
        "instruction, [input], chosen, rejected, [system], [history], [margin]",
        lambda keys: (
            "instruction" in keys and "prompt" not in keys and bool(keys & {"chosen", "rejected"})
        ),
        pairs.read_alpaca,
        pairs.write_alpaca,
    ),
    "preference": Format(
        Preference,
        "[prompt], chosen, rejected, [system], [tools], [margin]",
        lambda keys: (
            bool(keys & {"chosen", "rejected"})
            and not keys & {"conversations", "question"}
            and ("prompt" in keys or "instruction" not in keys)
        ),
        pairs.read_preference,
        pairs.write_preference,
    ),
    "labelled": Format(
        Labelled,
        "prompt, completion or response, label (true or false), [system], [tools]",
        lambda keys: keys >= {"prompt", "label"} and bool(keys & {"completion", "response"}),
        pairs.read_labelled,
        pairs.write_labelled,
    ),
}


def detect(record: dict[str, Any] | str | BadRow) -> str:
    """The name of the one format that the keys of `record` fit; a plain text is a document."""
    if isinstance(record, BadRow):
        raise record
    if isinstance(record, str):
        return "text"
    # A file with columns for several formats leaves null what a row does not have.
    filled = frozenset(key for key, value in record.items() if value is not None)
    for keys in (filled, frozenset(record)):
        found = [name for name, format in FORMATS.items() if format.matches(keys)]
        if len(found) == 1:
            return found[0]
        if found:
            raise BadRow("", f"could be {' or '.join(found)}: name its format")
    known = "; ".join(f"{name} ({format.schema})" for name, format in FORMATS.items())
    raise BadRow("", f"has the keys {list(record)}, which fit no known format: {known}")


def detect_file(segments: Sequence[Segment]) -> str:
    """The format of the first readable row of a file, for all of its rows."""
    problems = []
    for segment in segments:
        for record in read(segment):
            try:
                return detect(record.value)
            except BadRow as bad:
                problems.append(f"{record.place}: {bad}")
                if len(problems) == PROBLEMS_SHOWN:
                    raise DataError(problems) from None
    raise DataError(problems)


def parse(record: dict[str, Any] | str | BadRow, name: str) -> Row:
    """The row that `record` is in the format `name`, or raises `BadRow`."""
    if isinstance(record, BadRow):
        raise record
    if isinstance(record, str):
        if name != "text":
            raise BadRow("", f"is a line of text, expected {name} ({FORMATS[name].schema})")
        record = {"text": record}
    return FORMATS[name].read(record)


def check_stage(kind: type[Row], stage: str) -> None:
    """Raises `BadRow` where `stage` cannot train on rows of that kind."""
    wanted = KINDS[stage]
    if kind is wanted or (wanted is Labelled and kind is Preference):
        return
    if wanted is Document and kind is Conversation:
        fix = "make texts of them with `medgpt data convert`, or train with stage sft"
    else:
        fix = f"train with stage {' or '.join(s for s, known in KINDS.items() if known is kind)}"
    raise BadRow("", f"stage {stage} trains on {WORDS[wanted]}, these are {WORDS[kind]}: {fix}")


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
