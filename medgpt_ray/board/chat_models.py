"""Who answers in the chat: an OpenAI-compatible server, or a model in this process.

Both give the answer as it is written. The server's key stays here: the browser never sees it.
"""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from medgpt_ray.models.errors import ModelError

KEY_VARIABLES = ("MEDGPT_API_KEYS", "OPENAI_API_KEY")
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 300.0
"""The longest wait for the next piece of an answer, and for the model while it answers others."""
MODELS_SECONDS = 10.0

Messages = Sequence[dict[str, str]]


class ChatError(Exception):
    """No answer, with the reason as the user should read it."""


@dataclass(frozen=True)
class Question:
    """Example: `Question("sft", [{"role": "user", "content": "Dose?"}])`"""

    model: str
    messages: Messages
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512


@dataclass(frozen=True)
class Piece:
    """`text` as it comes; the last piece has the reason of the end: `stop` or `length`."""

    text: str
    finish_reason: str | None = None


class ChatSource(Protocol):
    @property
    def place(self) -> str:
        """For people."""

    async def models(self) -> list[str]:
        """Names to choose from, the default first. Raises `ChatError`."""

    def answer(self, question: Question) -> AsyncIterator[Piece]:
        """Raises `ChatError`. Closing the iterator ends the generation."""


class Server:
    """An OpenAI-compatible server, such as `medgpt serve`."""

    def __init__(self, url: str) -> None:
        self.place = url.rstrip("/")
        found = (os.environ.get(name, "") for name in KEY_VARIABLES)
        keys = next((text.replace(",", " ").split() for text in found if text.strip()), [])
        self._headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}

    async def models(self) -> list[str]:
        async with self._client(MODELS_SECONDS) as http:
            try:
                answer = await http.get(f"{self.place}/models")
            except httpx.HTTPError as error:
                raise ChatError(f"{self.place} does not answer: {_reason(error)}") from error
        if answer.status_code != 200:
            raise ChatError(f"{self.place}/models: {_message(answer.status_code, answer.text)}")
        try:
            return [str(model["id"]) for model in answer.json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ChatError(f"{self.place}/models is no list of models") from error

    async def answer(self, question: Question) -> AsyncIterator[Piece]:
        body = {
            "model": question.model,
            "messages": list(question.messages),
            "temperature": question.temperature,
            "top_p": question.top_p,
            "max_tokens": question.max_tokens,
            "stream": True,
        }
        async with self._client(SILENCE_SECONDS) as http:
            try:
                path = f"{self.place}/chat/completions"
                async with http.stream("POST", path, json=body) as reply:
                    if reply.status_code != 200:
                        text = (await reply.aread()).decode(errors="replace")
                        raise ChatError(_message(reply.status_code, text))
                    async for line in _lines(reply):
                        if (piece := _piece(line)) is not None:
                            yield piece
            except httpx.HTTPError as error:
                raise ChatError(f"{self.place} does not answer: {_reason(error)}") from error

    def _client(self, silence: float) -> httpx.AsyncClient:
        timeout = httpx.Timeout(silence, connect=CONNECT_SECONDS)
        # No proxy of the environment: the key goes to the address that was named.
        return httpx.AsyncClient(headers=self._headers, timeout=timeout, trust_env=False)


async def _lines(reply: httpx.Response) -> AsyncIterator[str]:
    """Ended by newlines alone: httpx ends lines at U+2028 and others too, which JSON may hold."""
    rest = ""
    async for text in reply.aiter_text():
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line
    yield rest


def _piece(line: str) -> Piece | None:
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return None
    try:
        value = json.loads(data)
        if "error" in value:
            raise ChatError(str(value["error"]["message"]))
        if not value["choices"]:  # the usage
            return None
        choice = value["choices"][0]
        return Piece(choice["delta"].get("content") or "", choice.get("finish_reason"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChatError(f"the server's answer is no JSON of OpenAI's form: {data[:100]}") from error


def _message(status: int, body: str) -> str:
    try:
        return f"{status}: {json.loads(body)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{status}: {body[:300]}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


class _Stopped(KeyboardInterrupt):
    """Raised in the thread of an answer that nobody reads any more; `ChatModel` ends it as it does
    for Ctrl-C."""


@dataclass
class InProcess:
    """A run or a model directory on this machine, with the answers of `medgpt chat`. One question
    is answered at a time."""

    path: str
    _loaded: dict[str, Any] = field(default_factory=dict)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        """Loads the model. Raises `ModelError` for what cannot chat."""
        from transformers.utils.logging import disable_progress_bar

        from medgpt_ray.config.schema import Model
        from medgpt_ray.models.chat_model import ChatModel
        from medgpt_ray.models.load import inference_dtype, resolve_model
        from medgpt_ray.models.merge import find_source

        disable_progress_bar()
        directory = str(resolve_model(self.path))
        self.place = self.path
        self._name = Path(self.path).name or self.path
        model = Model(path=directory, dtype=inference_dtype())
        self._loaded[self._name] = ChatModel(model, directory)
        self._untrained = ""
        if find_source(self.path).adapter is not None:
            self._untrained = f"{self._name} without adapter"

    async def models(self) -> list[str]:
        return [self._name, *([self._untrained] if self._untrained else [])]

    async def answer(self, question: Question) -> AsyncIterator[Piece]:
        if question.model not in await self.models():
            raise ChatError(f"no model {question.model!r}")
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._one_at_a_time.acquire()
        except TimeoutError:
            raise ChatError("the model is answering others, try again later") from None
        try:
            async with aclosing(self._generate(question)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._one_at_a_time.release()

    async def _generate(self, question: Question) -> AsyncIterator[Piece]:
        pieces: asyncio.Queue[Piece] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        unread, stopped = threading.Event(), threading.Event()

        def show(text: str) -> None:
            if not unread.is_set():
                loop.call_soon_threadsafe(pieces.put_nowait, Piece(text))
            elif not stopped.is_set():  # once: the model shows the rest when it is stopped
                stopped.set()
                raise _Stopped

        def work() -> None:
            reason = self._work(question, show)
            loop.call_soon_threadsafe(pieces.put_nowait, Piece("", reason))

        task = asyncio.create_task(asyncio.to_thread(work))
        task.add_done_callback(lambda _: pieces.put_nowait(Piece("", "end")))
        try:
            while (piece := await pieces.get()).finish_reason != "end":
                yield piece
            await task
        finally:
            unread.set()
            await asyncio.wait([task], timeout=SILENCE_SECONDS)

    def _work(self, question: Question, show: Any) -> str:
        """In a thread of its own; the reason of the end."""
        from medgpt_ray.data.requests import render
        from medgpt_ray.data.rows import BadRow
        from medgpt_ray.models.chat_model import Sampling

        try:
            model = self._model(question.model)
            prompt = render(model.tokenizer, question.messages)
        except (BadRow, ModelError) as error:
            raise ChatError(str(error)) from error
        if len(prompt) >= model.context:
            raise ChatError(
                f"the conversation has {len(prompt)} tokens, the model takes {model.context}: "
                "begin anew"
            )
        sampling = Sampling(question.temperature, question.top_p, question.max_tokens)
        return str(model.answer(prompt, sampling, show).finish_reason)

    def _model(self, name: str) -> Any:
        """The one without adapter is loaded when it is first asked."""
        if name not in self._loaded:
            from medgpt_ray.models.chat_model import ChatModel
            from medgpt_ray.models.load import inference_dtype, resolve_model
            from medgpt_ray.models.merge import starting_model

            base = starting_model(self.path).model_copy(update={"dtype": inference_dtype()})
            self._loaded[name] = ChatModel(base, str(resolve_model(self.path)))
        return self._loaded[name]
