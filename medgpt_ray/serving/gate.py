"""The first to see a request, whatever its path: keys, rates, sizes, load, and sound JSON.

What passes is known to be small, JSON that Python and vLLM read alike, and paid for. `/health` asks
for no key, so that load balancers can look. Every refusal is counted by status in `/metrics`.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from prometheus_client import Counter

from medgpt_ray.serving.errors import Refusal
from medgpt_ray.serving.fields import Fields
from medgpt_ray.serving.keys import Keys
from medgpt_ray.serving.settings import Limits

HEALTH = "/health"
MODEL_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
PATHS = (HEALTH, "/metrics", "/openapi.json", "/v1/models", *MODEL_PATHS)
"""Everything else that vLLM's application offers is closed: it would go around the guard."""

ANONYMOUS = "anonymous"
UPLOAD_SECONDS = 60.0
MAX_INTEGER = 2**63

Wait = Callable[[str], Awaitable[float]]
"""Counts a request of a key: 0.0, or the seconds until it may come again."""

REFUSED = Counter("medgpt_refused_requests", "Requests refused by the gate", ["status"])


class Gate:
    """ASGI middleware. It leaves `medgpt.key` and, of a POST, `medgpt.body` in the scope."""

    def __init__(
        self,
        app: Any,
        limits: Limits,
        keys: Keys | None = None,
        wait: Wait | None = None,
        paths: Sequence[str] = PATHS,
        fields: Mapping[str, Fields] | None = None,
    ) -> None:
        """`paths`: those of `PATHS` that the model has; `fields`: of some of them."""
        self._app, self._limits, self._keys = app, limits, keys
        self._wait, self._paths, self._fields = wait, paths, fields or {}
        self._running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._pass(scope, receive, send)
            except Refusal as refusal:
                REFUSED.labels(refusal.status).inc()
                await refusal.send(send)
        else:  # no path here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})

    async def _pass(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == HEALTH:
            await self._app(scope, receive, send)
            return
        scope["medgpt.key"] = self._key(scope)
        one_model = path.startswith("/v1/models/") and path != "/v1/models/"
        if path not in self._paths and not one_model:
            raise Refusal(404, f"{path[:100]}: not served, but {', '.join(self._paths)}")
        method = "POST" if path in MODEL_PATHS else "GET"
        if scope["method"] != method:
            raise Refusal(405, f"{path[:100]} takes {method}, not {scope['method']}")
        if method == "GET":
            await self._app(scope, receive, send)
            return
        if self._wait and (seconds := await self._wait(scope["medgpt.key"])):
            per_minute = self._limits.requests_per_minute
            message = f"more than {per_minute} requests a minute with this key"
            raise Refusal(429, message, retry_after=math.ceil(seconds))
        body = await self._read(scope, receive)
        scope["medgpt.body"] = value = parse(body, self._limits.completions_per_request)
        if path in self._fields:
            self._fields[path].check(value)
        if self._running >= self._limits.concurrent_requests:
            raise Refusal(429, f"{self._running} requests are in work, no more fit", retry_after=1)
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1

    def _key(self, scope: Any) -> str:
        if self._keys is None:
            return ANONYMOUS
        key = self._keys.find(_header(scope, b"authorization"))
        if key is None:
            raise Refusal(401, "wrong or missing API key: send Authorization: Bearer KEY")
        return key

    async def _read(self, scope: Any, receive: Any) -> bytes:
        too_large = Refusal(413, f"the body has more than {self._limits.request_bytes} bytes")
        declared = _header(scope, b"content-length") or b"0"
        if declared.isdigit() and int(declared) > self._limits.request_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(408, "the connection ended before the body did")
                    body += message.get("body", b"")
                    if len(body) > self._limits.request_bytes:
                        raise too_large
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise Refusal(408, f"the body took more than {UPLOAD_SECONDS:.0f} s") from None


def parse(body: bytes, completions: int) -> dict[str, Any]:
    """The object in `body`; refuses what JSON readers disagree on or what no engine can take."""
    try:
        value = json.loads(body, parse_constant=_no_number, parse_float=_finite, parse_int=_integer)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply") from None
    except UnicodeEncodeError:
        raise Refusal(400, "the body holds half of a surrogate pair") from None
    except ValueError as error:
        raise Refusal(400, f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refusal(400, "the body is no JSON object")
    n, prompt = value.get("n"), value.get("prompt")
    if n is not None and (isinstance(n, bool) or not isinstance(n, int)):
        raise Refusal(400, "n: is no integer", param="n")
    prompts = len(prompt) if isinstance(prompt, list) and not _token_ids(prompt) else 1
    if (asked := (n or 1) * prompts) > completions:
        message = f"{asked} completions (prompts times n), at most {completions} a request"
        raise Refusal(400, message, param="n")
    return value


def _token_ids(prompt: list[Any]) -> bool:
    return bool(prompt) and isinstance(prompt[0], int)


def _header(scope: Any, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key.lower() == name), None)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is too large")
    return number


def _integer(digits: str) -> int:
    if abs(number := int(digits)) >= MAX_INTEGER:
        raise ValueError(f"{digits[:20]} is too large")
    return number
