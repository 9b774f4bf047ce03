"""In Ray Serve's proxy, before any replica: what the proxy itself answers gets OpenAI's form.

It answers by itself where no replica does (none is free or none is there, one died with the request
or took too long), in plain text or not at all.
"""

from typing import Any

from starlette.middleware import Middleware

from medgpt_ray.serving.errors import TYPES, Refusal

CALLERS_OWN = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
"""Headers by which a caller would change the limits of the proxy."""
LOST = "the request failed before the answer began, as where its replica ended: ask again"


def middlewares() -> list[Middleware]:
    """What RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names."""
    return [Middleware(OpenAIErrors)]


class OpenAIErrors:
    """ASGI middleware: an error in plain text becomes a `Refusal`, and no answer one of 503."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        headers = [header for header in scope["headers"] if header[0].lower() not in CALLERS_OWN]
        started, plain, told = False, None, b""

        async def rewrite(message: Any) -> None:
            nonlocal started, plain, told
            if plain and message["type"] == "http.response.body":
                told += message.get("body", b"")
                if not message.get("more_body"):
                    await _refusal(plain, told).send(send)
                return
            if message["type"] == "http.response.start":
                started = True
                if _is_plain_error(message):
                    plain = message
                    return
            await send(message)

        await self._app({**scope, "headers": headers}, receive, rewrite)
        if not started:
            await Refusal(503, LOST, retry_after=1).send(send)


def _is_plain_error(start: Any) -> bool:
    plain = any(
        name.lower() == b"content-type" and value.startswith(b"text/plain")
        for name, value in start["headers"]
    )
    return bool(start["status"] in TYPES and plain)


def _refusal(start: Any, told: bytes) -> Refusal:
    """With the headers that stood beside the text."""
    status = start["status"]
    retry_after = 1 if status in (429, 503) else None
    refusal = Refusal(status, told.decode(errors="replace"), retry_after=retry_after)
    for name, value in start["headers"]:
        if name.lower() not in (b"content-type", b"content-length"):
            refusal.headers[name.decode().lower()] = value.decode()
    return refusal
