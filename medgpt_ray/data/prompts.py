"""Prompts of a reinforcement-learning run: read, checked, rendered, and drawn in a seeded order.

A row of the data holds `question` (one user turn; `problem` is another name) or `messages` (a
conversation that ends with the user) or `prompt` (either), an optional `answer` (the gold, or a
list of equally good golds; a number is its text), an optional `system` message and any other
columns, which rewards see untouched. Refused are images, a list `history`, control tokens of the
chat template, and options that the question lacks where the answer is one of their labels. Nothing
is truncated and no row is dropped: a bad row is an error.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from medgpt_ray.config.schema import Data
from medgpt_ray.data.control import check_control, control_tokens
from medgpt_ray.data.files import find, one_split
from medgpt_ray.data.formats.columns import MEDIA, given, refused, refused_turns
from medgpt_ray.data.rows import (
    BadRow,
    DataError,
    check_options,
    check_text,
    is_blank,
    kind,
    number_as_text,
)
from medgpt_ray.data.segments import read, segments
from medgpt_ray.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant")


def read_prompts(path: str, tokenizer: "PreTrainedTokenizerBase", data: Data) -> list[Prompt]:
    """All rows of what `path` names, rendered with the tokenizer's chat template.

    Raises `DataError` with every problem.
    """
    problems: list[str] = []
    if not tokenizer.chat_template:
        problems.append(
            f"{tokenizer.name_or_path or 'tokenizer'}: chat_template: missing, use an instruct "
            "model or add chat_template.jinja to the model directory"
        )
    control = control_tokens(tokenizer)
    prompts: list[Prompt] = []
    try:
        files = find(path)
        one_split(path, files)
        alike = len({Path(file.path).name for file in files}) < len(files)
        for record in (
            record for file in files for part in segments(file) for record in read(part)
        ):
            try:
                row = _with_text_answers(_object(record.value))
                messages = _messages(row, data.system_prompt)
                check_control(control, messages)
                token_ids = _render(messages, tokenizer, data) if tokenizer.chat_template else ()
            except BadRow as bad:
                problems.append(f"{record.place}: {bad}")
                continue
            id = record.place if alike else Path(record.place).name
            prompts.append(Prompt(id, messages, token_ids, row))
    except DataError as error:
        problems += error.problems
    if problems:
        raise DataError(problems)
    return prompts


def _object(value: dict[str, Any] | str | BadRow) -> dict[str, Any]:
    if isinstance(value, BadRow):
        raise value
    if isinstance(value, str):
        raise BadRow("", 'is a line of text, expected a JSON object like {"question": ...}')
    return value


def _messages(row: dict[str, Any], system_prompt: str | None) -> tuple[dict[str, str], ...]:
    """The row's conversation, with `system_prompt` in front where it has no system message."""
    names = [name for name in ("question", "messages") if row.get(name) is not None]
    names = names or [name for name in ("prompt", "problem") if row.get(name) is not None][:1]
    if not names:
        raise BadRow("question", "missing, every row needs question, messages or prompt")
    if len(names) > 1:
        raise BadRow(names[0], f"given together with {names[1]}, keep one of them")
    (name,) = names
    if name == "messages" or (name == "prompt" and isinstance(row[name], list)):
        messages = conversation(row[name], name)
    else:
        messages = [{"role": "user", "content": check_text(row[name], name)}]
    check_options(row, "\n".join(message["content"] for message in messages), row.get("answer"))
    refused_turns(row, "history", "is not read: put the turns into messages")
    refused(row, MEDIA, "models here read text only: leave the row out, or this column")
    own = given(row, "system") or given(row, "system_prompt")
    if own is not None:
        check_text(own, "system")
    if messages[0]["role"] == "system":
        if own not in (None, messages[0]["content"]):
            raise BadRow("system", f"given together with the system message of {name}, keep one")
    elif own is not None or system_prompt is not None:  # an empty one keeps the template's own away
        messages.insert(0, {"role": "system", "content": own or system_prompt or ""})
    return tuple(messages)


def _with_text_answers(row: dict[str, Any]) -> dict[str, Any]:
    """`row` with a text, or a list of texts, as its answer where it has one; null is none, as
    Parquet has it."""
    answer = row.get("answer")
    if answer is None:
        return {name: value for name, value in row.items() if name != "answer"}
    texts = [number_as_text(one) for one in (answer if isinstance(answer, list) else [answer])]
    if not texts:
        raise BadRow("answer", "empty list, give an answer or leave the field out")
    for text in texts:
        check_text(text, "answer")
    return row | {"answer": texts if isinstance(answer, list) else texts[0]}


def conversation(turns: Any, name: str = "messages") -> list[dict[str, str]]:
    """`turns`, the column `name`, as messages that end with the user's, or raises `BadRow`. An
    empty system message is none."""
    if not isinstance(turns, list):
        raise BadRow(name, f"is {kind(turns)}, expected a list of {{role, content}}")
    if not turns:
        raise BadRow(name, "empty list, expected at least one user turn")
    messages = []
    for index, turn in enumerate(turns):
        field = f"{name}[{index}]"
        if not isinstance(turn, dict):
            raise BadRow(field, f"is {kind(turn)}, expected {{role, content}}")
        if set(turn) - {"name"} != {"role", "content"}:
            raise BadRow(field, f"has the keys {sorted(turn)}, expected role and content")
        role = turn["role"]
        if role not in ROLES:
            raise BadRow(f"{field}.role", f"{role!r} is not one of {', '.join(ROLES)}")
        if role == "system" and index > 0:
            raise BadRow(f"{field}.role", "a system message can only come first")
        if role == "system" and is_blank(turn["content"]):
            continue
        content = check_text(turn["content"], f"{field}.content")
        messages.append({"role": role, "content": content})
    if turns[-1]["role"] != "user":
        raise BadRow(name, f"ends with {turns[-1]['role']}, the last turn must be the user's")
    return messages


def _render(
    messages: tuple[dict[str, str], ...], tokenizer: "PreTrainedTokenizerBase", data: Data
) -> tuple[int, ...]:
    try:
        token_ids = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:  # templates refuse roles and orders that they do not know
        raise BadRow("messages", f"the model's chat template refuses them: {error}") from None
    if len(token_ids) > data.max_prompt_tokens:
        raise BadRow(
            "prompt",
            f"{len(token_ids)} tokens, more than data.max_prompt_tokens "
            f"({data.max_prompt_tokens}): shorten the row or raise the limit",
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

    def find(self, ids: Sequence[str]) -> list[Prompt]:
        """The prompts of these ids, in this order; the cursor stays."""
        by_id = {prompt.id: prompt for prompt in self._prompts}
        return [by_id[id] for id in ids]

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
