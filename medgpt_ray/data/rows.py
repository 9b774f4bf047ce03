"""One row of data: what can be wrong with it, its JSON, and what makes two rows the same."""

import ast
import functools
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from hashlib import blake2b
from typing import Any

from medgpt_ray.types import Conversation, Document, Message, Preference, Row

PROBLEMS_SHOWN = 20
HASH_BYTES = 16
OPTIONS = re.compile(
    r"options?|(?:answer_)?choices|answer_options|op[a-h]|(?:option|choice|ending)_?(?:[a-h]|\d)|endings",
    re.IGNORECASE,
)
"""Columns with the options of a multiple-choice question; so are A, B, C, ..."""
_LABELS = ("key", "label", "labels", "letter", "id", "index", "score")
"""What names an option beside its text, as in {key, value}."""
_LABEL = re.compile(
    r"(?:(?i:(?:the )?(?:correct )?(?:answer|ans|option|choice)\b\.?(?: is| option)?)"
    r"|(?:正确)?答案(?:是|为)?|选)?"
    r"(?:\W*(?:[A-Ha-h]|\d)\W*|\W*[A-H]{2,5}\W*|\W*[A-H][.)、:：].*|\W*[(（][A-Ha-h][)）].*)",
    re.DOTALL,
)
"""An answer that names options."""
_HALF_PAIR = re.compile("[\ud800-\udfff]")


class DataError(ValueError):
    """Unusable data: `problems` holds every one of them, the message the first 20 and the count."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        shown = self.problems[:PROBLEMS_SHOWN]
        hidden = len(self.problems) - len(shown)
        if hidden:
            shown.append(f"... and {hidden} more ({len(self.problems)} problems in all)")
        return "\n".join(shown)


class BadRow(Exception):
    """What is wrong with one row: a `field` such as `messages[0].role`, "" where it is the whole
    row, and the `reason`, with the fix."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        self.raw = ""
        """The text of a row that could not be read."""
        super().__init__(field, reason)

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" if self.field else self.reason


def parse_json(data: bytes) -> Any:
    """The JSON value that a line is, or raises `BadRow`; a key may stand in an object only once."""
    return parse_json_text(decode(data), "")


def decode(data: bytes) -> str:
    """The text that the bytes of a row are, or raises `BadRow`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        whole = "row" if b"\n" in data else "line"
        reason = f"invalid UTF-8 at byte {error.start + 1} of the {whole}"
        raise BadRow("", f"{reason}, convert the file to UTF-8") from None


def parse_json_text(text: str, field: str) -> Any:
    """As `parse_json`, for JSON that is itself the string `field` of a row."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except BadRow as bad:
        raise BadRow(f"{field}.{bad.field}".lstrip("."), bad.reason) from None
    except json.JSONDecodeError as error:
        line = f" of its line {error.lineno}" if error.lineno > 1 else ""
        raise BadRow(field, f"invalid JSON at column {error.colno}{line}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        raise BadRow(field, f"invalid JSON: {error}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow(twice, "given twice in one object, keep one")
    return row


def check_text(value: Any, field: str) -> str:
    """`value`, which has to be a string with more than white space in it."""
    if not isinstance(value, str):
        raise BadRow(field, f"is {kind(value)}, expected a string")
    if not value.strip():
        raise BadRow(field, "empty, expected text")
    _check_characters(value, field)
    return value


def is_blank(value: Any) -> bool:
    """True for null and for a text of nothing but white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def number_as_text(value: Any) -> Any:
    """A finite number as JSON writes it; everything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return json.dumps(value) if isinstance(value, int) or math.isfinite(value) else value


def check_options(row: dict[str, Any], question: str, answer: Any) -> None:
    """Raises `BadRow` where the answer is the label of an option, and no option stands in the
    question: it would be a guess."""
    names = [name for name in row if OPTIONS.fullmatch(name)]
    for letters in ("ABCDEFGH", "abcdefgh"):
        if isinstance(row.get(letters[0]), str) and isinstance(row.get(letters[1]), str):
            names += [name for name in row if name in tuple(letters)]
    answers = answer if isinstance(answer, list) else [answer]
    texts = {_plain(text) for name in names for text in _texts_in(row[name])}
    if texts and all(_plain(str(number_as_text(one))) in texts for one in answers):
        return  # the text of an option
    if any(_LABEL.fullmatch(str(number_as_text(one))) for one in answers):
        check_shown(row, names, question, 'write the options there ("A. ...")', 1, share=0.5)


def check_shown(
    row: dict[str, Any],
    names: Sequence[str],
    question: str,
    fix: str,
    shortest: int,
    share: float = 0.0,
) -> None:
    """Raises `BadRow` for a column of `names` with texts of `shortest` Latin characters or more, of
    which none, or less than `share`, stands in `question`; case, punctuation and white space
    aside."""
    plain = _plain(question) if names else ""
    for name in names:
        texts = [text for text in map(_plain, _texts_in(row[name])) if _size(text) >= shortest]
        shown = sum(_stands_in(text, plain) for text in texts)
        if texts and (not shown or shown < share * len(texts)):
            raise BadRow(name, f"is not read, and does not stand in the question: {fix}")


def _size(text: str) -> int:
    """In Latin characters: a Chinese one says as much as three."""
    return len(text) + 2 * sum("\u4e00" <= character <= "\u9fff" for character in text)


def _texts_in(value: Any) -> Iterator[str]:
    """The texts of a column, of whatever depth, without the labels of options."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        with suppress(ValueError, RecursionError, SyntaxError):
            value = ast.literal_eval(value)
    if isinstance(value, dict):
        for key, item in value.items():
            if str(key).lower() not in _LABELS:
                yield from _texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)
    elif isinstance(value, str):
        yield from (value, *value.splitlines())
    elif isinstance(value, float):
        yield f"{value:g}"
    elif isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def _stands_in(text: str, question: str) -> bool:
    """Whether it does, with or without a label, and not as a part of a longer word or number of
    Latin script. Both are plain."""
    before = r"(?<![a-z0-9])" if re.match("[a-z0-9]", text) else ""
    after = r"(?![a-z0-9])" if re.search("[a-z0-9]$", text) else ""
    bare = text[2:] if re.match("[a-h] .", text) else text
    return any(re.search(f"{before}{re.escape(one)}{after}", question) for one in (text, bare))


def _plain(text: str) -> str:
    return _punctuation().sub(" ", text.casefold()).strip()


def check_values(value: Any, field: str = "") -> None:
    """Raises `BadRow` for what JSON text can hold and no other file can: half a character, NaN."""
    waiting = [(field, value)]
    while waiting:
        field, value = waiting.pop()
        if isinstance(value, str):
            _check_characters(value, field)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise BadRow(field, f"is {value}, which is no JSON number: give null or leave out")
        elif isinstance(value, list):
            waiting += [(f"{field}[{index}]", item) for index, item in enumerate(value)]
        elif isinstance(value, dict):
            for key in value:
                _check_characters(key, field)
            waiting += [(f"{field}.{key}".lstrip("."), item) for key, item in value.items()]


def _check_characters(value: str, field: str) -> None:
    if _HALF_PAIR.search(value):
        reason = "holds half of a surrogate pair, which is no character: write it whole"
        raise BadRow(field, reason)
    if "\0" in value:
        raise BadRow(field, "holds a NUL character: is the file UTF-16? Convert it to UTF-8")


def kind(value: Any) -> str:
    """The JSON type of `value` with its article, as the user knows it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bytes):
        return "binary data"
    return "a list" if isinstance(value, list) else "an object"


def content_hash(row: Row) -> bytes:
    """[16] equal for rows that are equal in everything that is trained on or conditioned on."""
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    for name, value in values.items():
        if name in ("messages", "prompt", "chosen", "rejected", "completion"):
            values[name] = [without_ids(message) for message in value]
    canonical = _json([type(row).__name__, values])
    return blake2b(canonical.encode(), digest_size=HASH_BYTES).digest()


def without_ids(message: Message) -> Message:
    """The message without the ids of its calls, which mean nothing."""
    bare = {name: value for name, value in message.items() if name != "tool_call_id"}
    if "tool_calls" in bare:
        calls = bare["tool_calls"]
        bare["tool_calls"] = [{k: v for k, v in call.items() if k != "id"} for call in calls]
    return bare


def near_hash(row: Row) -> bytes:
    """[16] equal for rows whose texts differ in case, punctuation and white space at most."""
    plain = "\n".join(_punctuation().sub("", text.casefold()) for text in texts(row))
    return blake2b(plain.encode(), digest_size=HASH_BYTES).digest()


def texts(row: Row) -> Iterator[str]:
    """The texts of a row in order, tool calls as JSON; tool schemas are not among them."""
    if isinstance(row, Document):
        yield row.text
        return
    messages: tuple[Message, ...]
    if isinstance(row, Conversation):
        messages = row.messages
    elif isinstance(row, Preference):
        messages = (*row.prompt, *row.chosen, *row.rejected)
    else:
        messages = (*row.prompt, *row.completion)
    for message in messages:
        yield message["content"]
        if "tool_calls" in message:
            yield _json(without_ids(message)["tool_calls"])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@functools.cache
def _punctuation() -> re.Pattern[str]:
    """White space and the punctuation of all living scripts; symbols such as < and + are meaning.

    Of the first 65,536 characters only: `re` is ten times slower with any other in the class.
    """
    marks = (chr(code) for code in range(0x10000))
    punctuation = "".join(mark for mark in marks if unicodedata.category(mark).startswith("P"))
    return re.compile(rf"[\s{re.escape(punctuation)}]+")
