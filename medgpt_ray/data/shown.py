"""What a chat template leaves out of a conversation in silence makes its row a bad one.

A message, tools, calls, the text beside them, the thoughts of the last turn. Thoughts of earlier
turns are the template's to leave out.
"""

from collections.abc import Callable, Sequence
from typing import Any

from medgpt_ray.data.rows import BadRow
from medgpt_ray.data.templates import TEMPLATES
from medgpt_ray.types import Message

MARK = "Qzxmark"
"""Stands for a text."""
Tools = Sequence[dict[str, Any]]
Render = Callable[[Sequence[Message], Tools], str]

_WITH_TOOLS = "set data.template to one that shows them, such as " + ", ".join(
    name for name, template in TEMPLATES.items() if template.tools
)
_OTHER_TEMPLATE = "set data.template to another, or take it out of the row"


def check_shown(text: str, messages: list[Message], tools: Tools, render: Render) -> None:
    """Raises `BadRow` where `text`, which is these messages, lacks something of them."""
    if tools and _is_same(text, messages, (), render):
        raise BadRow("tools", f"the chat template shows no tools: {_WITH_TOOLS}")
    for number, message in enumerate(messages, start=1):
        role, content = message["role"], message["content"]
        if role in ("system", "user") and not _is_shown_in(content, text):
            what = f"message {number}, the {role}'s"
            raise BadRow("messages", f"the chat template leaves out {what}: {_OTHER_TEMPLATE}")
        if "tool_calls" in message:
            bare = {"role": role, "content": content}
            if _is_same(text, _with(messages, number, bare), tools, render):
                what = f"the calls of message {number}"
                raise BadRow("messages", f"the chat template leaves out {what}: {_WITH_TOOLS}")
            if not _is_shown_in(content.rpartition("</think>")[2], text):
                what = f"the text beside the calls of message {number}"
                raise BadRow("messages", f"the chat template leaves out {what}: {_OTHER_TEMPLATE}")
        if role == "tool" and content:
            other = {**message, "content": MARK}
            if _is_same(text, _with(messages, number, other), tools, render):
                what = f"message {number}, a tool's answer"
                raise BadRow("messages", f"the chat template leaves out {what}: {_WITH_TOOLS}")
    thoughts = _thoughts(messages[-1]["content"])
    if not _is_shown_in(thoughts, text):
        raise BadRow(
            "messages",
            "the chat template leaves out the thoughts of the last turn: set data.template to "
            "one that shows them, such as qwen3, or take them out of the row",
        )


def _is_same(text: str, changed: list[Message], tools: Tools, render: Render) -> bool:
    """Whether the template shows what was changed as the same `text`."""
    try:
        return render(changed, tools) == text
    except BadRow:  # so it reads what was changed
        return False


def _with(messages: list[Message], number: int, other: Message) -> list[Message]:
    """`messages` with another one in place of message `number`."""
    return [*messages[: number - 1], other, *messages[number:]]


def _is_shown_in(content: str, text: str) -> bool:
    """Whether `text` holds `content`; templates may trim white space, or set it anew."""
    return content.strip() in text or "".join(content.split()) in "".join(text.split())


def _thoughts(content: str) -> str:
    before, end, _ = content.partition("</think>")
    return before.rpartition("<think>")[2] if end else ""
