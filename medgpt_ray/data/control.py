"""Control tokens: what the chat template alone may write, for it begins and ends turns."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medgpt_ray.data.rows import BadRow
from medgpt_ray.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The special tokens that the chat template shows, and those around a text."""
    around = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token} - {None}
    template = str(tokenizer.chat_template)
    special = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return [token for token in special if token in around or token in template]


def check_control(
    control: Sequence[str], messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
) -> None:
    """Raises `BadRow` where a message, one of its calls, or a tool holds one of these tokens."""
    for number, message in enumerate(messages, start=1):
        check_control_text(control, message["content"], "messages", f"the text of message {number}")
        if calls := message.get("tool_calls"):
            check_control_text(control, _text(calls), "messages", f"a call of message {number}")
    if tools:
        check_control_text(control, _text(tools), "tools", "a tool")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def check_control_text(control: Sequence[str], text: str, field: str, what: str) -> None:
    """Raises `BadRow` of `field` where `text`, which is `what`, holds one of these tokens."""
    for token in control:
        if token in text:
            raise BadRow(
                field,
                f"{what} holds {token}, which would be read as the chat template's own: take it "
                "out of the text",
            )
