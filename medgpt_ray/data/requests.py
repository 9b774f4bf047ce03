"""Rows that ask a model something: read from files, checked, and rendered as its chat template
says.

A row holds `question` or `prompt` (one user turn) or `messages` (a conversation that ends with the
user); a line of a txt file is a user turn. Other columns are kept for the output.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from medgpt_ray.data.files import find
from medgpt_ray.data.prompts import conversation
from medgpt_ray.data.rows import BadRow, DataError, check_text
from medgpt_ray.data.segments import Record, read, segments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASKING = ("question", "prompt", "messages")
ANSWERED = ("completion", "finish_reason", "completion_tokens")
"""Columns that an answer adds to its row."""


@dataclass(frozen=True, slots=True)
class Request:
    """Example: `Request("wards.jsonl:7", {"question": "Dose?"}, ({"role": "user", "content":
    "Dose?"},))`
    """

    place: str
    """`file:line`"""
    row: dict[str, Any] = field(hash=False)
    """As it was read."""
    messages: tuple[dict[str, str], ...] = field(hash=False)


def requests(path: str, system_prompt: str | None, problems: list[str]) -> Iterator[Request]:
    """The rows of a file in order; what is wrong with others goes into `problems`, with its place.

    Raises `DataError` for a file that cannot be read.
    """
    files = find(path)
    if len(files) > 1:
        raise DataError([f"{path}: names {len(files)} files, name one"])
    for record in (record for part in segments(files[0]) for record in read(part)):
        try:
            yield _request(record, system_prompt)
        except BadRow as bad:
            problems.append(f"{record.place}: {bad}")


def _request(record: Record, system_prompt: str | None) -> Request:
    row = record.value
    if isinstance(row, BadRow):
        raise row
    if isinstance(row, str):
        row = {"prompt": row}
    given = [name for name in ASKING if name in row]
    if len(given) != 1:
        found = f"has {' and '.join(given)}" if given else f"has only {', '.join(row) or 'nothing'}"
        raise BadRow("", f"{found}, expected one of {', '.join(ASKING)}")
    for name in ANSWERED:
        if name in row:
            raise BadRow(name, "is a column that the answer adds: rename it")
    (name,) = given
    if name == "messages":
        messages = conversation(row[name])
    else:
        messages = [{"role": "user", "content": check_text(row[name], name)}]
    if system_prompt is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return Request(record.place, row, tuple(messages))


def render(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, str]]
) -> tuple[int, ...]:
    """Token ids of a conversation up to where the model goes on, or raises `BadRow`."""
    try:
        ids = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
    except TemplateError as error:  # templates refuse roles and orders that they do not know
        raise BadRow("messages", f"the model's chat template refuses them: {error}") from None
    return tuple(ids)
