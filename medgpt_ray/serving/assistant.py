"""What a request meets between the gate and vLLM: its adapter's version, retrieved passages, the
safety guard, the log. Where none of them has a part in the answer, its bytes pass as they are.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from medgpt_ray.guard.notices import examine
from medgpt_ray.serving.adapters import Adapters
from medgpt_ray.serving.errors import Refusal, send_json
from medgpt_ray.serving.reply import Reply
from medgpt_ray.serving.request_log import RequestLog
from medgpt_ray.serving.tools import told_of

VERSION_HEADER = b"x-medgpt-version"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
FORMS = ("response_format", "structured_outputs")
FITS_SECONDS = 60.0
"""The longest that counting the tokens of a chat may take."""
DEAD_END = "Internal server error"
"""What vLLM says where a grammar left the model no next token."""

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Augmented:
    """A conversation with retrieved passages in it."""

    messages: Messages
    passages: Sequence[str] = ()
    """What the model is shown: a dose from there has its context."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """For the `medgpt` field of the answer, such as the sources."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the request, in place of the caller's."""


Augment = Callable[[Messages, Callable[[Messages], bool] | None], Augmented]
"""The second says whether a conversation leaves room for the answer."""


class Assistant:
    """ASGI middleware, inside the gate."""

    def __init__(
        self,
        app: Any,
        version: str,
        *,
        adapters: Adapters | None = None,
        tell_tools: bool = False,
        guard: bool = False,
        augment: Augment | None = None,
        fits: Callable[[Mapping[str, Any]], Awaitable[bool]] | None = None,
        log: RequestLog | None = None,
    ) -> None:
        """`tell_tools`: the model's chat template shows it no tools; `fits`: whether a body leaves
        room for its answer."""
        self._app, self._version, self._adapters = app, version, adapters
        self._tell_tools = tell_tools
        self._guard, self._augment, self._log = guard, augment, log
        self._fits = fits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if "medgpt.body" not in scope:
            await self._app(scope, receive, send)
            return
        body = scope["medgpt.body"]
        adapters = self._adapters
        async with adapters.use(body.get("model")) if adapters else nullcontext() as adapter:
            version = self._version
            if adapter:
                body = {**body, "model": adapter}
                version += "+" + adapter.rpartition("@")[2]
            reply, body = await self._prepare(scope["path"], body)
            form = any(map(body.get, FORMS))
            answer = Answer(send, version, reply, form=form)
            began = time.monotonic()
            try:
                await self._forward(scope, body, receive, answer)
            finally:
                if self._log:
                    seconds = time.monotonic() - began
                    self._log.write_later(scope, answer.status, version, seconds, reply)

    async def _prepare(
        self, path: str, body: dict[str, Any]
    ) -> tuple[Reply | None, dict[str, Any]]:
        """How the answer is followed, and the body for the model; malformed ones are vLLM's."""
        messages, case, augmented, asked = body.get("messages"), None, Augmented(()), body
        if path == CHAT and _listed(messages):
            if self._augment:
                augmented = await self._augmented(body)
                # With a form of the caller's own, the model is asked for the sentence, not bound.
                formed = _formed(asked) or isinstance(asked.get("tool_choice"), dict)
                bound = {} if formed else augmented.fields
                body = {**body, "messages": list(augmented.messages), **bound}
            body = self._told(body)
            if self._guard:
                case = await asyncio.to_thread(examine, messages, augmented.passages)
        elif path == COMPLETIONS and self._guard and (text := _prompt_text(body.get("prompt"))):
            case = await asyncio.to_thread(examine, [{"role": "user", "content": text}])
        if case is None and not augmented.notes and self._log is None:
            return None, body
        fixed = _formed(asked) or path == COMPLETIONS
        return Reply(case, augmented.notes, fixed_form=fixed), body

    async def _augmented(self, body: dict[str, Any]) -> Augmented:
        loop = asyncio.get_running_loop()

        def fits(messages: Messages) -> bool:
            asked = self._fits(self._told({**body, "messages": list(messages)}))
            counting = asyncio.run_coroutine_threadsafe(asked, loop)
            try:
                return counting.result(FITS_SECONDS)
            except TimeoutError:
                counting.cancel()
                told = "the tokens of the chat could not be counted"
                raise Refusal(503, told, retry_after=1) from None

        return await asyncio.to_thread(
            self._augment, body["messages"], fits if self._fits else None
        )

    def _told(self, body: dict[str, Any]) -> dict[str, Any]:
        """With the tools in the messages, where the chat template does not show them."""
        if not (self._tell_tools and _wants_tools(body)):
            return body
        return {**body, "messages": told_of(body["tools"], body["messages"])}

    async def _forward(self, scope: Any, body: Any, receive: Any, answer: "Answer") -> None:
        content = json.dumps(body, ensure_ascii=False).encode()
        kept = [
            (name, value)
            for name, value in scope["headers"]
            if name.lower() not in (b"content-length", b"transfer-encoding", b"content-encoding")
        ]
        headers = [*kept, (b"content-length", b"%d" % len(content))]
        first = {"type": "http.request", "body": content, "more_body": False}
        pending = [first]

        async def replay() -> Any:
            return pending.pop() if pending else await receive()

        await self._app({**scope, "headers": headers}, replay, answer.send)


class Answer:
    """vLLM's messages on their way to the caller, through `reply` where there is one.

    What vLLM finds wrong with a request after it has begun to stream comes as the first event: it
    is answered as where nothing is streamed, with its status.
    """

    def __init__(self, send: Any, version: str, reply: Reply | None, *, form: bool) -> None:
        """`form`: the caller asked for one, as a JSON schema or a pattern."""
        self._send, self._version, self._reply, self._form = send, version, reply, form
        self.status = 0
        self._start: Any = None
        self._stream = self._is_text = self._begun = self._refused = False
        self._buffer = b""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], (VERSION_HEADER, self._version.encode())]
            kinds = [v for k, v in headers if k.lower() == b"content-type"]
            self._stream = any(kind.startswith(b"text/event-stream") for kind in kinds)
            self._is_text = self._stream or any(b"json" in kind for kind in kinds)
            self._start = {**message, "headers": headers}
            if self._passes and not self._dead_end and not self._stream:
                await self._send(self._start)
        elif self._refused:
            return
        elif self._stream and not self._begun and (error := _error_in(message)):
            self._refused, self.status = True, error["code"]
            if self._dead_end and error["message"] == DEAD_END:
                await self._refuse_form()
            else:
                version = {VERSION_HEADER.decode(): self._version}
                await send_json(self._send, self.status, {"error": error}, version)
        elif self._dead_end:
            self._buffer += message.get("body", b"")
            if not message.get("more_body"):
                await self._send_failure()
        elif self._stream:
            if not self._begun:
                self._begun = True
                await self._send(self._start)
            shown = message if self._passes else {**message, "body": self._events(message)}
            await self._send(shown)
        elif self._passes:
            await self._send(message)
        else:
            self._buffer += message.get("body", b"")
            if not message.get("more_body"):
                await self._send_whole()

    @property
    def _dead_end(self) -> bool:
        """Whether it may be that a grammar left the model no next token: the caller's fault."""
        return self._form and self.status == 500

    @property
    def _passes(self) -> bool:
        return self._reply is None or self.status != 200 or not self._is_text

    def _events(self, message: Any) -> bytes:
        """Whole events out of what has come; the rest waits for the next message."""
        self._buffer += message.get("body", b"")
        *events, self._buffer = self._buffer.split(b"\n\n")
        out = b"".join(self._event(event) + b"\n\n" for event in events)
        if not message.get("more_body"):
            out, self._buffer = out + self._buffer, b""
        return out

    def _event(self, event: bytes) -> bytes:
        data = event.removeprefix(b"data: ")
        if not event.startswith(b"data: ") or data == b"[DONE]":  # a comment, or the end
            return event
        return b"data: " + _dumps(self._reply.chunk(json.loads(data)))

    async def _send_failure(self) -> None:
        if f'"{DEAD_END}"'.encode() in self._buffer:  # else the engine says what befell it
            await self._refuse_form()
        else:
            await self._send(self._start)
            await self._send({"type": "http.response.body", "body": self._buffer})

    async def _refuse_form(self) -> None:
        self.status = 400
        message = "no text has the form that was asked for"
        await Refusal(400, message, "response_format").send(self._send)

    async def _send_whole(self) -> None:
        content = _dumps(self._reply.whole(json.loads(self._buffer)))
        headers = [(k, v) for k, v in self._start["headers"] if k.lower() != b"content-length"]
        headers.append((b"content-length", b"%d" % len(content)))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})


def _error_in(message: Any) -> dict[str, Any] | None:
    """The error that the first event of a stream is, if it is one."""
    event = message.get("body", b"")
    if not event.startswith(b'data: {"error":'):
        return None
    error: dict[str, Any] = json.loads(event.partition(b"\n")[0].removeprefix(b"data: "))["error"]
    return error


def _formed(body: Mapping[str, Any]) -> bool:
    """Whether the caller asks for a form; plain text is none."""
    return any(map(body.get, FORMS)) and body.get("response_format") != {"type": "text"}


def _wants_tools(body: Mapping[str, Any]) -> bool:
    given = body.get("tools")
    return bool(given) and _listed(given) and body.get("tool_choice") != "none"


def _prompt_text(prompt: Any) -> str:
    """Of a completion: one text or several; token ids are not looked at."""
    texts = prompt if isinstance(prompt, list) else [prompt]
    return "\n".join(text for text in texts if isinstance(text, str))


def _listed(objects: Any) -> bool:
    return isinstance(objects, list) and all(isinstance(item, dict) for item in objects)


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
