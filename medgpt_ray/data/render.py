"""Rows to tokens: the ids exactly as the chat template gives them, and which of them are learned.

Learned is what the assistant writes: from the end of the generation prompt to the token that ends
the turn. A template with `{% generation %}` blocks says itself where that is. In any other a turn
is found by rendering the conversation once more with a mark in its place: the text before and after
the mark is the text before and after the turn, which is checked. So templates may trim, leave out
earlier thoughts or move the system prompt, and one rendering a turn is all it costs (and
one more for tools, each calling turn and each tool's answer).

A token on the border of a turn is learned if it begins inside.

A row of which the template would leave something out in silence (a message, tools, calls, the text
beside them, the thoughts of the last turn) is a bad row. Thoughts of earlier turns are the
template's to leave out.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateError
from rich.text import Text

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data.control import check_control, check_control_text, control_tokens
from medgpt_ray.data.rows import BadRow
from medgpt_ray.data.templates import TEMPLATES, adds_bos, apply, stop_id, stop_text
from medgpt_ray.types import (
    Conversation,
    Document,
    Labelled,
    Message,
    Preference,
    Tokens,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "Qzxmark"
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
Tools = Sequence[dict[str, Any]]
Span = tuple[int, int]
"""From the first character to the one behind the last."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A valid row that cannot be trained on. The reason is the same for all rows that share it."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A conversation as text, its token ids, and the characters that each token stands for."""

    text: str
    ids: list[int]
    offsets: list[Span]


class Renderer:
    """Makes tokens of rows. Pickles, so workers can be handed one.

    Renders with `data.template` where there is one, else with the tokenizer's own; the tokenizer
    stays as it is. Rows that the template cannot show raise `BadRow`, a tokenizer that cannot be
    used a ValueError.

    Example: `Renderer(tokenizer, data).conversation(row)`
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", data: SupervisedData) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{tokenizer.name_or_path}: a slow tokenizer, which does not say which characters "
                "a token stands for: save a fast one (tokenizer.json) in the model directory"
            )
        if data.template is not None:
            tokenizer = copy(tokenizer)
            apply(tokenizer, data.template)
        self._tokenizer = tokenizer
        self._data = data
        self._ends = _end_ids(tokenizer, data.template)
        self._control = control_tokens(tokenizer)
        self._stops = [str(tokenizer.convert_ids_to_tokens(token)) for token in self._ends]

    def document(self, row: Document) -> list[Tokens]:
        """The text and an EOS token, with BOS where the tokenizer begins so; in several pieces
        where it is longer than `data.max_tokens`.

        Each piece begins with the last token of the one before, so every token but the first is
        learned once.
        """
        check_control_text(self._control, row.text, "text", "the text")
        eos = self._tokenizer.eos_token_id
        if eos is None:
            raise ValueError(f"{self._tokenizer.name_or_path}: the tokenizer has no eos_token")
        ids = [*self._encode(row.text).ids, eos]
        if adds_bos(self._tokenizer):
            ids.insert(0, self._tokenizer.bos_token_id)
        limit = self._data.max_tokens
        pieces = (ids[start : start + limit] for start in range(0, len(ids) - 1, limit - 1))
        return [_all_trained(piece) for piece in pieces]

    def conversation(self, row: Conversation) -> Tokens | Dropped:
        """All turns, or as many from the first on as fit and end with the assistant's."""
        messages = self._with_system(row.messages)
        check_control(self._control, messages, row.tools)
        rendered = self._render(messages, row.tools)
        limit = self._data.max_tokens
        cut = len(rendered.ids) > limit
        if cut:
            ends = [index + 1 for index in _assistant_turns(messages)]
            fitting = bisect_right(
                ends, limit, key=lambda end: len(self._render(messages[:end], row.tools).ids)
            )
            if not fitting:
                return Dropped(f"the first exchange is longer than data.max_tokens ({limit})")
            messages = messages[: ends[fitting - 1]]
            rendered = self._render(messages, row.tools)
        self._check_shown(rendered.text, messages, row.tools)
        if self._data.train_on_inputs:
            tokens = _all_trained(rendered.ids)
        else:
            tokens = self._trained(rendered, messages, row.tools)
        return replace(tokens, cut=cut)

    def preference(self, row: Preference) -> tuple[Tokens, Tokens] | Dropped:
        """The prompt with the chosen answer and with the rejected one; only these are learned.

        Both have the same ids up to their first learned token, unless the template renders the
        prompt differently because of the answer.
        """
        chosen = self._answer(row.prompt, row.chosen, row.tools)
        rejected = self._answer(row.prompt, row.rejected, row.tools)
        if isinstance(chosen, Dropped):
            return chosen
        if isinstance(rejected, Dropped):
            return rejected
        if chosen == rejected:
            raise BadRow("rejected", "is the same as chosen, as the chat template shows them")
        return chosen, rejected

    def labelled(self, row: Labelled) -> Tokens | Dropped:
        """The prompt with the answer, which alone is learned."""
        return self._answer(row.prompt, row.completion, row.tools)

    def show(self, tokens: Tokens) -> Text:
        """What the model sees: learned text green and the rest dim, and each named in words."""
        text = Text()
        start, shown = 0, ""
        for trained, run in groupby(tokens.trained):
            start += len(list(run))
            # Decoding from the beginning keeps the spaces that a lone run would lose.
            decoded = str(self._tokenizer.decode([*tokens.ids[:start]], skip_special_tokens=False))
            style, name = ("green", "TRAINED     ") if trained else ("dim", "NOT TRAINED ")
            text.append(f"{name}|").append(decoded[len(shown) :], style).append("|\n")
            shown = decoded
        return text

    def _answer(
        self, prompt: tuple[Message, ...], answer: tuple[Message, ...], tools: Tools
    ) -> Tokens | Dropped:
        before = self._with_system(prompt)
        messages = [*before, *answer]
        check_control(self._control, messages, tools)
        rendered = self._render(messages, tools)
        limit = self._data.max_tokens
        if len(rendered.ids) > limit:
            return Dropped(f"prompt and answer are longer than data.max_tokens ({limit})")
        self._check_shown(rendered.text, messages, tools)
        return self._trained(rendered, messages, tools, first=len(before))

    def _with_system(self, messages: tuple[Message, ...]) -> list[Message]:
        system = self._data.system_prompt
        if system is None or (messages and messages[0]["role"] == "system"):
            return list(messages)
        return [{"role": "system", "content": system}, *messages]

    def _render(self, messages: Sequence[Message], tools: Tools) -> _Rendered:
        text = self._text(messages, tools)
        encoded = self._encode(text)
        return _Rendered(text, encoded.ids, encoded.offsets)

    def _encode(self, text: str) -> Any:
        """By the tokenizer without what transformers wraps around it, which takes as long again.

        As transformers does, it undoes first what another caller may have left set.
        """
        backend = cast(Any, self._tokenizer).backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self._tokenizer.split_special_tokens
        return backend.encode(text, add_special_tokens=False)

    def _text(self, messages: Sequence[Message], tools: Tools, generation: bool = False) -> str:
        if not self._tokenizer.chat_template:
            raise ValueError(
                f"{self._tokenizer.name_or_path}: no chat template, set data.template to one of "
                f"{', '.join(TEMPLATES)}"
            )
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=generation,
            )
        except (TemplateError, TypeError) as error:  # TypeError: content of another type
            raise BadRow("messages", f"the chat template refuses them: {error}") from None
        return cast(str, text)

    def _check_shown(self, text: str, messages: list[Message], tools: Tools) -> None:
        """Raises `BadRow` where `text`, which is these messages, lacks something of them."""
        if tools and self._is_same(text, messages, ()):
            raise BadRow("tools", f"the chat template shows no tools: {_WITH_TOOLS}")
        for number, message in enumerate(messages, start=1):
            role, content = message["role"], message["content"]
            if role in ("system", "user") and not _is_shown_in(content, text):
                what = f"message {number}, the {role}'s"
                raise BadRow("messages", f"the chat template leaves out {what}: {_OTHER_TEMPLATE}")
            if "tool_calls" in message:
                bare = {"role": role, "content": content}
                if self._is_same(text, _with(messages, number, bare), tools):
                    what = f"the calls of message {number}"
                    raise BadRow("messages", f"the chat template leaves out {what}: {_WITH_TOOLS}")
                if not _is_shown_in(content.rpartition("</think>")[2], text):
                    what = f"the text beside the calls of message {number}"
                    raise BadRow(
                        "messages", f"the chat template leaves out {what}: {_OTHER_TEMPLATE}"
                    )
            if role == "tool" and content:
                other = {**message, "content": MARK}
                if self._is_same(text, _with(messages, number, other), tools):
                    what = f"message {number}, a tool's answer"
                    raise BadRow("messages", f"the chat template leaves out {what}: {_WITH_TOOLS}")
        thoughts = _thoughts(messages[-1]["content"])
        if not _is_shown_in(thoughts, text):
            raise BadRow(
                "messages",
                "the chat template leaves out the thoughts of the last turn: set data.template to "
                "one that shows them, such as qwen3, or take them out of the row",
            )

    def _is_same(self, text: str, changed: list[Message], tools: Tools) -> bool:
        """Whether the template shows what was changed as the same `text`."""
        try:
            return self._text(changed, tools) == text
        except BadRow:  # so it reads what was changed
            return False

    def _trained(
        self, rendered: _Rendered, messages: list[Message], tools: Tools, first: int = 0
    ) -> Tokens:
        """The tokens, learned in the assistant's turns from message `first` on."""
        starts = [start for start, _ in rendered.offsets]
        trained = [False] * len(starts)
        for start, end in self._spans(rendered, messages, tools, first):
            low, high = bisect_left(starts, start), bisect_left(starts, end)
            trained[low:high] = [True] * (high - low)
        return Tokens(tuple(rendered.ids), (False, *trained[1:]))

    def _spans(
        self, rendered: _Rendered, messages: list[Message], tools: Tools, first: int
    ) -> Iterator[Span]:
        turns = _assistant_turns(messages)
        blocks = self._blocks(messages, tools)
        if len(blocks) == len(turns):
            yield from (block for turn, block in zip(turns, blocks, strict=True) if turn >= first)
            return
        for turn in turns:
            if turn >= first:
                start, end = self._turn(rendered.text, messages, tools, turn)
                yield start, self._end_of_turn(rendered, end)

    def _blocks(self, messages: list[Message], tools: Tools) -> list[Span]:
        """The `{% generation %}` blocks of a conversation; none where the template has no such."""
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self._tokenizer.get_chat_template(tools=list(tools) or None)
        if not _has_blocks(template):
            return []
        _, (blocks,) = cast(Any, render_jinja_template)(
            [messages],
            tools=list(tools) or None,
            chat_template=template,
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        return list(blocks)

    def _turn(self, text: str, messages: list[Message], tools: Tools, turn: int) -> Span:
        """Where `text` has the assistant's message number `turn`, without what ends the turn."""
        mark = MARK
        while mark in text:
            mark += "q"
        marked = list(messages)
        marked[turn] = {"role": "assistant", "content": mark}
        try:
            head, found, tail = self._text(marked, tools).partition(mark)
        except BadRow as bad:  # it showed the real turn
            raise BadRow(
                "messages",
                "which tokens are the assistant's cannot be told, since the chat template takes no "
                f"plain text in place of message {turn + 1} ({bad.reason}): add {{% generation %}} "
                "blocks to it, or set data.template",
            ) from None
        head = head.removesuffix(self._lead)
        start, end = len(head), self._behind(text, tail)
        if not found or not text[start:end].strip():
            raise BadRow("messages", f"the chat template leaves out message {turn + 1}")
        if end is None or not text.startswith(head):
            raise BadRow(
                "messages",
                f"which tokens are the assistant's cannot be told, since message {turn + 1} "
                "changes how the chat template shows the others: add {% generation %} blocks to "
                "it, or set data.template",
            )
        return start, end

    def _behind(self, text: str, tail: str) -> int | None:
        """Where `tail` begins, with which `text` ends; the token that it begins with may be
        another, for calls can end with one of their own."""
        if text.endswith(tail):
            return len(text) - len(tail)
        for stop in self._stops:
            if tail.startswith(stop) and text.endswith(tail[len(stop) :]):
                before = text[: len(text) - len(tail) + len(stop)]
                found = (len(before) - len(own) for own in self._stops if before.endswith(own))
                return next(found, None)
        return None

    @cached_property
    def _lead(self) -> str:
        """What the template puts between the generation prompt and the answer, such as the space
        after `ASSISTANT:` or an empty `<think>` block: the model has to write it."""
        question = {"role": "user", "content": "?"}
        try:
            plain = self._text([question], ())
            prompt = self._text([question], (), generation=True)
            answered = self._text([question, {"role": "assistant", "content": MARK}], ())
        except BadRow:  # a template that wants more than a question
            return ""
        before = answered.partition(MARK)[0]
        lead = before.removeprefix(prompt)
        if lead == before or (plain == prompt and lead.strip()):
            return ""  # there is no generation prompt, so the header is not part of one
        return lead

    def _end_of_turn(self, rendered: _Rendered, end: int) -> int:
        """Behind the special token that follows a turn's text, with white space at most between;
        `end` itself where none does."""
        at = bisect_left(rendered.offsets, (end, end))
        for token, (start, behind) in zip(rendered.ids[at:], rendered.offsets[at:], strict=True):
            if token in self._ends:
                return behind
            if rendered.text[start:behind].strip():
                break
        return end


_WITH_TOOLS = "set data.template to one that shows them, such as " + ", ".join(
    name for name, template in TEMPLATES.items() if template.tools
)


_OTHER_TEMPLATE = "set data.template to another, or take it out of the row"


def _with(messages: list[Message], number: int, other: Message) -> list[Message]:
    """`messages` with another one in place of message `number`."""
    return [*messages[: number - 1], other, *messages[number:]]


def _is_shown_in(content: str, text: str) -> bool:
    """Whether `text` holds `content`; templates may trim white space, or set it anew."""
    return content.strip() in text or "".join(content.split()) in "".join(text.split())


def _thoughts(content: str) -> str:
    before, end, _ = content.partition("</think>")
    return before.rpartition("<think>")[2] if end else ""


@cache
def _has_blocks(template: str) -> bool:
    return GENERATION.search(template) is not None


def _assistant_turns(messages: Sequence[Message]) -> list[int]:
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]


def _all_trained(ids: Sequence[int]) -> Tokens:
    return Tokens(tuple(ids), (False, *[True] * (len(ids) - 1)))


def _end_ids(tokenizer: "PreTrainedTokenizerBase", template: str | None) -> frozenset[int]:
    """Tokens that can end a turn: the special ones, for their templates differ in which."""
    added = tokenizer.added_tokens_decoder.items()
    special = {token for token, entry in added if entry.special} | set(tokenizer.all_special_ids)
    special.discard(tokenizer.bos_token_id)
    stop = stop_text(template) if template is not None else None
    named = stop_id(tokenizer, stop) if stop is not None else None
    return frozenset(special | ({tokenizer.eos_token_id, named} - {None}))
