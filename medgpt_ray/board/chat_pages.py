"""The chat: a page, and the answers as server-sent events."""

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from medgpt_ray.board import sse
from medgpt_ray.board.chat_models import ChatError, ChatSource, Question
from medgpt_ray.board.site import site_of


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: str = Field(pattern="^(system|user|assistant)$")
    content: str


class Asked(BaseModel):
    """What the page sends."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float = Field(default=0.0, ge=0, le=10)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1, le=100_000)


async def page(request: Request) -> Response:
    site = site_of(request)
    models, problem = [], ""
    if site.chat is not None:
        try:
            models = await site.chat.models()
        except ChatError as error:
            problem = str(error)
    return site.page("chat.html.j2", models=models, problem=problem)


async def answer(request: Request) -> Response:
    """Events `{"text": ...}`, then `{"finish_reason": ...}` or `{"error": ...}`."""
    site = site_of(request)
    if site.chat is None:
        raise HTTPException(404, "the board was started without --model and --url")
    try:
        asked = Asked.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise HTTPException(400, f"{place}: {first['msg']}") from None
    messages = [message.model_dump() for message in asked.messages]
    question = Question(asked.model, messages, asked.temperature, asked.top_p, asked.max_tokens)
    return sse.stream(_events(site.chat, question))


async def _events(chat: ChatSource, question: Question) -> AsyncIterator[dict[str, Any]]:
    try:
        async with aclosing(chat.answer(question)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if piece.text:
                    yield {"text": piece.text}
                if piece.finish_reason:
                    yield {"finish_reason": piece.finish_reason}
    except ChatError as error:
        yield {"error": str(error)}
    except Exception as error:  # the model's own, such as no memory left: the page waits
        logging.getLogger(__name__).exception("no answer to a question of the chat")
        reason = str(error).partition("\n")[0]
        yield {"error": f"the model failed: {type(error).__name__}: {reason}"}
