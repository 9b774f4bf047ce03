"""Prompts of a reinforcement-learning run: read, checked, rendered, and drawn in a seeded order.

A row of the JSONL file holds `question` (one user turn) or `messages` (a conversation that ends
with the user), an optional `answer` (the gold, or a list of equally good golds) and any other
columns, which rewards see untouched. Nothing is truncated and no row is dropped: a bad row is an
error.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from medgpt_ray.config.schema import Data
from medgpt_ray.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBLEMS_SHOWN = 20
ROLES = ("system", "user", "assistant")
BOM = b"\xef\xbb\xbf"


class DataError(ValueError):
    """Unusable data: `problems` holds every one of them, the message the first 20 and the count."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        shown = self.problems[:PROBLEMS_SHOWN]
        hidden = len(self.problems) - len(shown)
        if hidden:
            shown.append(f"... and {hidden} more ({len(self.problems)} problems in all)")
        super().__init__("\n".join(shown))


class _Bad(Exception):
    """What is wrong with one row: `field: what, the fix`."""


def read_prompts(path: str, tokenizer: "PreTrainedTokenizerBase", data: Data) -> list[Prompt]:
    """All rows of the JSONL file `path`, rendered with the tokenizer's chat template.

    Blank lines are skipped. Raises `DataError` with every problem of the file.
    """
    problems: list[str] = []
    if not tokenizer.chat_template:
        problems.append(
            f"{tokenizer.name_or_path or 'tokenizer'}: chat_template: missing, use an instruct "
            "model or add chat_template.jinja to the model directory"
        )
    content = _read_bytes(path, problems)
    prompts: list[Prompt] = []
    blank = True
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        blank = False
        try:
            row = _parse(line)
            messages = _messages(row, data.system_prompt)
            token_ids = _render(messages, tokenizer, data) if tokenizer.chat_template else ()
        except _Bad as bad:
            problems.append(f"{path}:{number}: {bad}")
            continue
        prompts.append(Prompt(f"{Path(path).name}:{number}", messages, token_ids, row))
    if blank and not problems:
        problems.append(f"{path}: empty file, expected one JSON object a line")
    if problems:
        raise DataError(problems)
    return prompts


def _read_bytes(path: str, problems: list[str]) -> bytes:
    """The file without a byte order mark, which is a problem of its own; b"" when unreadable."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        problems.append(f"{path}: no such file (relative to {Path.cwd()})")
        return b""
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return b""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        problems.append(f"{path}: is UTF-16, save it as UTF-8 without a byte order mark")
        return b""
    if content.startswith(BOM):
        problems.append(f"{path}:1: byte order mark, save it as UTF-8 without one")
        return content.removeprefix(BOM)
    return content


def _parse(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Bad(
            f"invalid UTF-8 at byte {error.start + 1} of the line, convert the file to UTF-8"
        ) from None
    try:
        row = json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        raise _Bad(f"invalid JSON at column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        raise _Bad(f"invalid JSON: {error}") from None
    if not isinstance(row, dict):
        raise _Bad(f'is {_kind(row)}, expected a JSON object like {{"question": ...}}')
    return row


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Bad(f"{twice}: given twice in one object, keep one")
    return row


def _messages(row: dict[str, Any], system_prompt: str | None) -> tuple[dict[str, str], ...]:
    """The row's conversation, with `system_prompt` in front where it has no system message."""
    if "question" in row and "messages" in row:
        raise _Bad("question: given together with messages, keep one of them")
    if "question" in row:
        messages = [{"role": "user", "content": _text(row["question"], "question")}]
    elif "messages" in row:
        messages = _conversation(row["messages"])
    else:
        raise _Bad("question: missing, every row needs question or messages")
    if "answer" in row:
        answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        if not answers:
            raise _Bad("answer: empty list, give an answer or leave the field out")
        for answer in answers:
            _text(answer, "answer")
    if system_prompt is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return tuple(messages)


def _conversation(turns: Any) -> list[dict[str, str]]:
    if not isinstance(turns, list):
        raise _Bad(f"messages: is {_kind(turns)}, expected a list of {{role, content}}")
    if not turns:
        raise _Bad("messages: empty list, expected at least one user turn")
    for index, turn in enumerate(turns):
        field = f"messages[{index}]"
        if not isinstance(turn, dict):
            raise _Bad(f"{field}: is {_kind(turn)}, expected {{role, content}}")
        if set(turn) != {"role", "content"}:
            raise _Bad(f"{field}: has the keys {sorted(turn)}, expected role and content")
        role = turn["role"]
        if role not in ROLES:
            raise _Bad(f"{field}.role: {role!r} is not one of {', '.join(ROLES)}")
        if role == "system" and index > 0:
            raise _Bad(f"{field}.role: a system message can only come first")
        _text(turn["content"], f"{field}.content")
    if turns[-1]["role"] != "user":
        raise _Bad(f"messages: ends with {turns[-1]['role']}, the last turn must be the user's")
    return [dict(turn) for turn in turns]


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _Bad(f"{field}: is {_kind(value)}, expected a string")
    if not value.strip():
        raise _Bad(f"{field}: empty, expected text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _Bad(
            f"{field}: holds half of a surrogate pair, which is no character: write it whole"
        )
    return value


def _kind(value: Any) -> str:
    """The JSON type of `value` with its article, as the user knows it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return (
        "a string"
        if isinstance(value, str)
        else "a list"
        if isinstance(value, list)
        else "an object"
    )


def _render(
    messages: tuple[dict[str, str], ...], tokenizer: "PreTrainedTokenizerBase", data: Data
) -> tuple[int, ...]:
    try:
        token_ids = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:  # templates refuse roles and orders that they do not know
        raise _Bad(f"messages: the model's chat template refuses them: {error}") from None
    if len(token_ids) > data.max_prompt_tokens:
        raise _Bad(
            f"prompt: {len(token_ids)} tokens, more than data.max_prompt_tokens "
            f"({data.max_prompt_tokens}): shorten the row or raise the limit"
        )
    return tuple(token_ids)


class PromptSource:
    """An endless cursor over `prompts`: each epoch holds every prompt once, in a seeded order.

    The order of epoch e depends on `seed` and e alone, so the cursor is one count. A draw across
    the end of an epoch can hold the same prompt twice: tell groups apart by position, not by id.

    Example: `source = PromptSource(prompts, seed=0); batch = source.take(16)`
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        assert prompts, "read_prompts refuses empty files"
        self._prompts = tuple(prompts)
        self._seed = seed
        self._stream = self._from(0, 0)
        self._taken = 0
        digest = hashlib.sha256()
        for prompt in self._prompts:
            digest.update(repr((prompt.id, prompt.token_ids)).encode())
        self._fingerprint = digest.hexdigest()

    @property
    def epoch(self) -> float:
        """Epochs drawn so far; 1.5 is half-way through the second."""
        return self._taken / len(self._prompts)

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts."""
        self._taken += count
        return [next(self._stream) for _ in range(count)]

    def state(self) -> dict[str, Any]:
        """The cursor as JSON values, for the checkpoint."""
        return {"taken": self._taken, "seed": self._seed, "prompts": self._fingerprint}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken; refuses that of other prompts or seeds."""
        if state["prompts"] != self._fingerprint:
            problem = (
                "training prompts, system prompt or tokenizer differ from those of the checkpoint: "
                "resume with the same data, or start a new run"
            )
            raise DataError([problem])
        if state["seed"] != self._seed:
            problem = (
                f"seed {self._seed} is not the checkpoint's ({state['seed']}): resume with that"
            )
            raise DataError([problem])
        self._taken = state["taken"]
        self._stream = self._from(*divmod(self._taken, len(self._prompts)))

    def _from(self, epoch: int, position: int) -> Iterator[Prompt]:
        while True:
            order = list(range(len(self._prompts)))
            random.Random(f"{self._seed}/{epoch}").shuffle(order)
            for index in order[position:]:
                yield self._prompts[index]
            epoch, position = epoch + 1, 0
