"""Rows to tokens: the ids exactly as the chat template gives them, and which of them are learned.

Learned is what the assistant writes: from the end of the generation prompt to the token that ends
the turn. A template with `{% generation %}` blocks says itself where that is. Of most conversations
the text is what the messages say, and between them what the template puts there whatever they say,
which one rendering for each order of roles tells. In any other text a turn is found by rendering
the conversation once more with a mark in its place: the text before and after the mark is the text
before and after the turn, which is checked. So templates may trim, leave out earlier thoughts or
move the system prompt; that costs one rendering a turn (and one more for tools, each calling turn
and each tool's answer).

A token on the border of a turn is learned if it begins inside.

A row of which the template would leave something out in silence is a bad row, see `shown`.
"""

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateError
from rich.text import Text

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data.control import check_control, check_control_text, control_tokens
from medgpt_ray.data.encoding import Encoded, Encoder, Tokenising
from medgpt_ray.data.rows import BadRow
from medgpt_ray.data.shown import MARK, Tools, check_shown
from medgpt_ray.data.templates import TEMPLATES, adds_bos, apply, stop_id, stop_text
from medgpt_ray.types import (
    Conversation,
    Document,
    Labelled,
    Message,
    Preference,
    Row,
    Tokens,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
Span = tuple[int, int]
"""From the first character to the one behind the last."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A valid row that cannot be trained on. The reason is the same for all rows that share it."""

    reason: str


class Renderer:
    """Makes tokens of rows. Pickles, so workers can be handed one.

    Renders with `data.template` where there is one, else with the tokenizer's own; the tokenizer
    stays as it is. Rows that the template cannot show raise `BadRow`, a tokenizer that cannot be
    used a ValueError.

    Example: `Renderer(tokenizer, data).render(row)`
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
        self.encoder = Encoder(tokenizer)
        self._data = data
        self._frames: dict[tuple[str, ...], list[str]] = {}
        self._ends = _end_ids(tokenizer, data.template)
        self._control = control_tokens(tokenizer)
        self._stops = [str(tokenizer.convert_ids_to_tokens(token)) for token in self._ends]

    def render(self, row: Row) -> list[Tokens] | Dropped:
        """The sequences of a row: pieces of a document, one conversation, chosen and rejected."""
        (made,) = self.encoder.together([self.tokenise(row)])
        return made

    def tokenise(self, row: Row) -> Tokenising[list[Tokens] | Dropped]:
        """What `render` returns, when its texts are encoded by others."""
        if isinstance(row, Document):
            return self._document(row)
        if isinstance(row, Preference):
            return self._preference(row)
        return self._conversation(row) if isinstance(row, Conversation) else self._labelled(row)

    def _document(self, row: Document) -> Tokenising[list[Tokens] | Dropped]:
        """The text and an EOS token, with BOS where the tokenizer begins so; in several pieces
        where it is longer than `data.max_tokens`.

        Each piece begins with the last token of the one before, so every token but the first is
        learned once.
        """
        check_control_text(self._control, row.text, "text", "the text")
        eos = self._tokenizer.eos_token_id
        if eos is None:
            raise ValueError(f"{self._tokenizer.name_or_path}: the tokenizer has no eos_token")
        ids = [*(yield row.text).ids, eos]
        if adds_bos(self._tokenizer):
            ids.insert(0, self._tokenizer.bos_token_id)
        limit = self._data.max_tokens
        pieces = (ids[start : start + limit] for start in range(0, len(ids) - 1, limit - 1))
        return [_all_trained(piece) for piece in pieces]

    def _conversation(self, row: Conversation) -> Tokenising[list[Tokens] | Dropped]:
        """All turns, or as many from the first on as fit and end with the assistant's."""
        messages = self._with_system(row.messages)
        check_control(self._control, messages, row.tools)
        encoded = yield self._text(messages, row.tools)
        limit = self._data.max_tokens
        cut = len(encoded.ids) > limit
        if cut:
            ends = [index + 1 for index in _assistant_turns(messages)]
            fitting, beyond = 0, len(ends)  # as bisect does
            while fitting < beyond:
                middle = (fitting + beyond) // 2
                shorter = yield self._text(messages[: ends[middle]], row.tools)
                if len(shorter.ids) <= limit:
                    fitting, encoded = middle + 1, shorter
                else:
                    beyond = middle
            if not fitting:
                return Dropped(f"the first exchange is longer than data.max_tokens ({limit})")
            messages = messages[: ends[fitting - 1]]
        places = self._places(encoded.text, messages, row.tools)
        if self._data.train_on_inputs:
            tokens = _all_trained(encoded.ids)
        else:
            tokens = self._trained(encoded, messages, row.tools, places)
        return [replace(tokens, cut=cut)]

    def _preference(self, row: Preference) -> Tokenising[list[Tokens] | Dropped]:
        """The prompt with the chosen answer and with the rejected one; only these are learned.

        Both have the same ids up to their first learned token, unless the template renders the
        prompt differently because of the answer.
        """
        chosen = yield from self._answer(row.prompt, row.chosen, row.tools)
        rejected = yield from self._answer(row.prompt, row.rejected, row.tools)
        if isinstance(chosen, Dropped):
            return chosen
        if isinstance(rejected, Dropped):
            return rejected
        if chosen == rejected:
            raise BadRow("rejected", "is the same as chosen, as the chat template shows them")
        return [chosen, rejected]

    def _labelled(self, row: Labelled) -> Tokenising[list[Tokens] | Dropped]:
        """The prompt with the answer, which alone is learned."""
        tokens = yield from self._answer(row.prompt, row.completion, row.tools)
        return tokens if isinstance(tokens, Dropped) else [tokens]

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
    ) -> Tokenising[Tokens | Dropped]:
        before = self._with_system(prompt)
        messages = [*before, *answer]
        check_control(self._control, messages, tools)
        encoded = yield self._text(messages, tools)
        limit = self._data.max_tokens
        if len(encoded.ids) > limit:
            return Dropped(f"prompt and answer are longer than data.max_tokens ({limit})")
        places = self._places(encoded.text, messages, tools)
        return self._trained(encoded, messages, tools, places, first=len(before))

    def _with_system(self, messages: tuple[Message, ...]) -> list[Message]:
        system = self._data.system_prompt
        if system is None or (messages and messages[0]["role"] == "system"):
            return list(messages)
        return [{"role": "system", "content": system}, *messages]

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

    def _places(self, text: str, messages: list[Message], tools: Tools) -> list[Span] | None:
        """Where `text` has each of the messages, if it is these and between them what the template
        puts between any. Else None, when it was checked that it leaves nothing out (`BadRow`)."""
        if not tools and all(len(message) == 2 for message in messages):
            frame = self._frame(tuple(message["role"] for message in messages))
            parts, places, start = [frame[0]], [], len(frame[0])
            for message, behind in zip(messages, frame[1:], strict=True):
                content = message["content"]
                places.append((start, start + len(content)))
                parts += (content, behind)
                start += len(content) + len(behind)
            if text == "".join(parts) and all(message["content"].strip() for message in messages):
                return places
        check_shown(text, messages, tools, self._text)
        return None

    def _frame(self, roles: tuple[str, ...]) -> list[str]:
        """What the template puts before, between and behind messages of these roles; what no text
        begins with where it does not show them one after the other."""
        if roles not in self._frames:
            marks = [f"{MARK}{number}q" for number in range(len(roles))]
            pairs = zip(roles, marks, strict=True)
            try:
                text = self._text([{"role": role, "content": mark} for role, mark in pairs], ())
            except BadRow:  # it reads what they say
                text = ""
            frame = []
            for mark in marks:
                before, _, text = text.partition(mark)
                frame.append(before)
            self._frames[roles] = [*frame, text]
        return self._frames[roles]

    def _trained(
        self,
        encoded: Encoded,
        messages: list[Message],
        tools: Tools,
        places: list[Span] | None,
        first: int = 0,
    ) -> Tokens:
        """The tokens, learned in the assistant's turns from message `first` on."""
        trained = [False] * len(encoded.ids)
        turns = _assistant_turns(messages)
        blocks = self._blocks(messages, tools)
        for number, turn in enumerate(turns):
            if turn < first:
                continue
            if len(blocks) == len(turns):
                start, end = map(encoded.token_at, blocks[number])
            else:
                span = self._turn(encoded.text, messages, tools, turn, places)
                start, end = encoded.token_at(span[0]), self._end_of_turn(encoded, span[1])
            trained[start:end] = [True] * (end - start)
        return Tokens(tuple(encoded.ids), (False, *trained[1:]))

    def _blocks(self, messages: list[Message], tools: Tools) -> list[Span]:
        """The `{% generation %}` blocks of a conversation; none where the template has no such."""
        template = self._tokenizer.get_chat_template(tools=list(tools) or None)
        if not _has_blocks(template):
            return []
        from transformers.utils.chat_template_utils import render_jinja_template

        _, (blocks,) = cast(Any, render_jinja_template)(
            [messages],
            tools=list(tools) or None,
            chat_template=template,
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        return list(blocks)

    def _turn(
        self,
        text: str,
        messages: list[Message],
        tools: Tools,
        turn: int,
        places: list[Span] | None,
    ) -> Span:
        """Where `text` has the assistant's message number `turn`, without what ends the turn."""
        if places is not None:
            start, end = places[turn]
            return len(text[:start].removesuffix(self._lead)), end
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
        start, behind = len(head), self._behind(text, tail)
        if not found or not text[start:behind].strip():
            raise BadRow("messages", f"the chat template leaves out message {turn + 1}")
        if behind is None or not text.startswith(head):
            raise BadRow(
                "messages",
                f"which tokens are the assistant's cannot be told, since message {turn + 1} "
                "changes how the chat template shows the others: add {% generation %} blocks to "
                "it, or set data.template",
            )
        return start, behind

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

    def _end_of_turn(self, encoded: Encoded, end: int) -> int:
        """The token behind the special one that follows a turn's text, which ends with character
        `end`, with white space at most between; the first behind the text where none does."""
        first = encoded.token_at(end)
        rest = encoded.text[end:]
        white = len(rest) - len(rest.lstrip())
        for token in range(first, encoded.token_at(end + white + 1)):
            if encoded.ids[token] in self._ends:
                return token + 1
        return first


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
