"""What was found, put into a chat: numbered sources, how to cite them, and when to say nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.index import HITS, Hit, Index
from medgpt_ray.retrieval.terms import is_chinese

Message = Mapping[str, Any]
"""In OpenAI's form; the content is a string or a list of parts."""
Fits = Callable[[Sequence[Message]], bool]
"""Whether a chat leaves the model room to answer."""

INSUFFICIENT = "Insufficient information: the documents do not answer this question."
INSUFFICIENT_CHINESE = "资料不足:所收录的文档无法回答这个问题。"

_ENGLISH = """\
Answer the question from the numbered sources below and from nothing else. After each statement \
put the number of its source, as in [1]. If the sources do not contain the answer, reply exactly: \
{insufficient}

Sources:
{sources}

Question: {question}"""
_CHINESE = """\
请只根据下面编号的资料回答问题,每个陈述之后注明资料编号,例如[1]。如果资料中没有答案,请只回复:{insufficient}

资料:
{sources}

问题:{question}"""
_NOTHING = """\
Nothing in the documents answers the question below. Reply exactly: {insufficient}

Question: {question}"""
_NOTHING_CHINESE = """\
所收录的文档中没有下面这个问题的答案,请只回复:{insufficient}

问题:{question}"""


@dataclass(frozen=True)
class Citation:
    """Source `number` of the prompt. `label` is for readers, the rest for programs."""

    number: int
    label: str
    path: str
    heading: tuple[str, ...]
    page: int | None
    line: int | None
    text: str


@dataclass(frozen=True)
class Augmented:
    messages: list[dict[str, Any]]
    """As they were, with the sources in the last user message; any chat template takes them."""
    citations: tuple[Citation, ...]
    """None where nothing suffices."""
    sufficient: bool
    confidence: float
    insufficient_reply: str
    """What the model is told to say where the sources lack the answer, in the question's language.
    A server may say it itself when `sufficient` is false, and save the generation."""


def augment(
    index: Index, messages: Sequence[Message], count: int = HITS, fits: Fits | None = None
) -> Augmented:
    """Search for the last user message, given those before, and put what is found into it.

    The last sources are left out until the chat `fits`, but never the first: without any there is
    nothing to answer from. Raises `RetrievalError` where no user message has text.
    """
    asked = [(at, text) for at, message in enumerate(messages) if (text := _text(message))]
    if not asked:
        raise RetrievalError(["messages: none of role user with text in it"])
    position, question = asked[-1]
    findings = index.search(*(text for _, text in asked), count=count)
    chinese = is_chinese(question)
    reply = INSUFFICIENT_CHINESE if chinese else INSUFFICIENT

    def asked_with(hits: Sequence[Hit]) -> list[dict[str, Any]]:
        changed = [dict(message) for message in messages]
        content = _content(hits, question, chinese, reply)
        changed[position]["content"] = _replaced(messages[position]["content"], content)
        return changed

    hits = findings.hits if findings.sufficient else ()
    while fits and len(hits) > 1 and not fits(asked_with(hits)):
        hits = hits[:-1]
    citations = tuple(_citation(number, hit) for number, hit in enumerate(hits, start=1))
    return Augmented(asked_with(hits), citations, findings.sufficient, findings.confidence, reply)


def _content(hits: Sequence[Hit], question: str, chinese: bool, reply: str) -> str:
    if not hits:
        template = _NOTHING_CHINESE if chinese else _NOTHING
        return template.format(insufficient=reply, question=question)
    sources = "\n\n".join(
        f"[{number}] ({hit.citation})\n{hit.chunk.text}" for number, hit in enumerate(hits, start=1)
    )
    template = _CHINESE if chinese else _ENGLISH
    return template.format(insufficient=reply, sources=sources, question=question)


def _citation(number: int, hit: Hit) -> Citation:
    chunk = hit.chunk
    page, line = chunk.first
    return Citation(number, hit.citation, hit.path, chunk.heading, page, line, chunk.text)


def _text(message: Message) -> str:
    """Of a user's message; "" of any other."""
    content = message.get("content") if message.get("role") == "user" else None
    if isinstance(content, list):
        content = "\n".join(text for part in content if (text := _text_in(part)) is not None)
    return (content or "").strip()


def _text_in(part: Any) -> str | None:
    """Of a part: of type text, input_text and the like, or a text alone."""
    text = part if isinstance(part, str) else part.get("text")
    return text if isinstance(text, str) else None


def _replaced(content: Any, text: str) -> Any:
    """`content` with `text` in place of its own text; images and the like stay."""
    if isinstance(content, str):
        return text
    others = (part for part in content if _text_in(part) is None)
    return [{"type": "text", "text": text}, *others]
