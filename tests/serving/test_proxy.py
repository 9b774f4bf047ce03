"""What Ray Serve's proxy answers by itself, by real HTTP messages."""

import asyncio
from typing import Any

import httpx
import pytest

from medgpt_ray.serving.errors import send_json
from medgpt_ray.serving.proxy import OpenAIErrors


def ask(app: Any, path: str = "/v1/models", **request: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(OpenAIErrors(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as http:
            return await http.get(path, **request)

    return asyncio.run(once())


def plain(status: int, *pieces: bytes) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [[b"content-type", b"text/plain; charset=utf-8"], [b"X-Request-ID", b"7"]]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize("status", [404, 408, 429, 500, 503])
def test_an_error_in_plain_text_gets_openais_form(status: int) -> None:
    answer = ask(plain(status, b"Request 7 ", b"timed out."))
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["message"], error["code"]) == ("Request 7 timed out.", status)
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert answer.headers["x-request-id"] == "7"


def test_a_replica_that_ends_without_an_answer_is_told() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    answer = ask(app)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "ask again" in answer.json()["error"]["message"]


def test_all_else_passes_as_it_is() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send_json(send, 429, {"error": "ours"}, {"x-of": "gate"})

    answer = ask(refuse)
    assert (answer.json(), answer.headers["x-of"]) == ({"error": "ours"}, "gate")
    assert ask(plain(200, b"0.1")).text == "0.1"
    assert ask(plain(503, b"draining"), "/-/healthz").text == "draining"


def test_a_caller_does_not_set_the_proxys_limits() -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        names = [name.decode() for name, _ in scope["headers"]]
        await send_json(send, 200, {"names": names}, {})

    own = {"X-Request-Timeout-Seconds": "0.001", "x-request-disconnect-disabled": "?1"}
    names = ask(echo, headers={**own, "x-request-id": "7"}).json()["names"]
    assert "x-request-id" in names
    assert not set(names) & {name.lower() for name in own}
