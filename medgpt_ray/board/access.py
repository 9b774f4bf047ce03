"""Who may ask the board: whoever has the token of this process, from a page of this board.

The address that `medgpt board` prints carries the token; a cookie keeps it. What changes something
is a POST, and is taken only with the Origin of this board and the word that its pages carry, so no
other site can send it. Every answer forbids the browser to fetch anything from elsewhere.
"""

import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse, Response

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 1_000_000
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Styles inline: the curves carry their own."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Secrets:
    """Random for each process."""

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(24)
        self.form = secrets.token_urlsafe(24)
        """In every page, and in the header `X-Form-Token` of every POST."""
        self.cookie = f"medgpt_board_{port}"  # cookies are shared by the ports of a host


class Access:
    """ASGI middleware."""

    def __init__(self, app: Any, known: Secrets, loopback: bool) -> None:
        self._app, self._secrets, self._loopback = app, known, loopback

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no page here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return

        async def protected(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refusal(scope)
        if answer is None:
            await self._app(scope, _limited(scope, receive), protected)
        else:
            await answer(scope, receive, protected)

    def _refusal(self, scope: Any) -> Response | None:
        """The answer of a request that goes no further."""
        headers = Headers(scope=scope)
        host = _split(f"//{headers.get('host', '')}").hostname
        if self._loopback and host not in LOOPBACK:  # another name that leads to this address
            return PlainTextResponse("open the board at 127.0.0.1 or localhost", 421)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if given := query.pop("token", None):
            return self._let_in(scope["path"], query, given[0])
        if not _same(_cookie(headers, self._secrets.cookie), self._secrets.token):
            message = "open the address that `medgpt board` printed: it carries the token"
            return PlainTextResponse(message, 403)
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST":
            return PlainTextResponse("GET or POST", 405)
        origin = _split(headers.get("origin", ""))
        ours = origin.scheme in ("http", "https") and origin.netloc == headers.get("host")
        if not ours or not _same(headers.get("x-form-token", ""), self._secrets.form):
            return PlainTextResponse("not sent by a page of this board", 403)
        return None

    def _let_in(self, path: str, query: dict[str, list[str]], token: str) -> Response:
        if not _same(token, self._secrets.token):
            return PlainTextResponse("wrong token", 403)
        target = "/" + path.lstrip("/")  # `//host` would lead elsewhere
        rest = urlencode(query, doseq=True)
        answer = RedirectResponse(f"{target}?{rest}" if rest else target, 303)
        answer.set_cookie(self._secrets.cookie, token, httponly=True, samesite="lax")
        return answer


def _split(url: str) -> SplitResult:
    """Of what is no address, the parts are empty."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _same(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode(), known.encode())


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _limited(scope: Any, receive: Any) -> Any:
    """`receive` that ends a body of more than `MAX_BODY` bytes with 413."""
    declared = Headers(scope=scope).get("content-length", "0")
    seen = int(declared) if declared.isdigit() and int(declared) > MAX_BODY else 0

    async def limited() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise HTTPException(413, f"more than {MAX_BODY} bytes")
        return message

    return limited
