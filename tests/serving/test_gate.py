"""The gate, by real HTTP messages; behind it an application that answers what it was given."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from medgpt_ray.serving.errors import send_json
from medgpt_ray.serving.gate import MODEL_PATHS, Gate
from medgpt_ray.serving.keys import Keys
from medgpt_ray.serving.rate import RateLimit
from medgpt_ray.serving.settings import Limits

CHAT = MODEL_PATHS[0]
LIMITS = Limits(request_bytes=200, concurrent_requests=2)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await send_json(send, 200, {"body": scope.get("medgpt.body"), "key": scope["path"]}, {})


def client(app: Any = echo, **options: Any) -> httpx.AsyncClient:
    gate = Gate(app, options.pop("limits", LIMITS), **options)
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://gate")


def ask(method: str, path: str, /, *, gate: dict | None = None, **request: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        async with client(**(gate or {})) as http:
            return await http.request(method, path, **request)

    return asyncio.run(once())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(""),
        {"Authorization": "right-key-1"},
        {"Authorization": "Basic right-key-1"},
        {"Authorization": "Bearer right-key-1 right-key-1"},
        {"x-api-key": "right-key-1"},
    ],
)
@pytest.mark.parametrize("path", [*MODEL_PATHS, "/metrics", "/v1/models", "/invocations", "/"])
def test_every_path_asks_for_a_key(path, headers):
    answer = ask("POST", path, gate={"keys": Keys(["right-key-1"])}, headers=headers, json={})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


def test_the_right_key_passes_and_health_needs_none():
    gate = {"keys": Keys(["one", "right-key-1"])}
    assert ask("GET", "/health", gate=gate).status_code == 200
    assert ask("GET", "/metrics", gate=gate, headers=bearer("right-key-1")).status_code == 200
    answer = ask("POST", CHAT, gate=gate, headers=bearer("right-key-1"), json={"a": 1})
    assert answer.json()["body"] == {"a": 1}


@pytest.mark.parametrize(
    "path",
    [
        "/invocations",
        "/tokenize",
        "/v1/responses",
        "/v1/messages",
        "/ping",
        "/v1/chat/completions/",
    ],
)
def test_other_paths_of_vllm_are_closed(path):
    assert ask("POST", path, json={}).status_code == 404


def test_a_model_without_a_name_is_no_path():
    assert ask("GET", "/v1/models/").status_code == 404
    assert ask("GET", "/v1/models/tiny").status_code == 200


def test_other_methods_are_refused():
    assert ask("GET", CHAT).status_code == 405
    assert ask("POST", "/v1/models", json={}).status_code == 405


def test_a_large_body_is_refused_declared_or_not():
    async def parts():
        for _ in range(30):
            yield b" " * 10

    assert ask("POST", CHAT, content=b" " * 201).status_code == 413
    assert ask("POST", CHAT, content=parts()).status_code == 413
    assert ask("POST", CHAT, content=b'{"a": "' + b"x" * 190 + b'"}').status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'"x"',
        b'{"temperature": NaN}',
        b'{"temperature": -Infinity}',
        b'{"temperature": 1e999}',
        b'{"seed": 99999999999999999999}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'{"a": ' + b"[" * 90_000,
        b'{"n": 129}',
        b'{"n": 65, "prompt": ["a", "b"]}',
        b'{"n": "2"}',
        b'{"n": 2.0}',
        b'{"n": true}',
    ],
)
def test_what_is_no_sound_json_is_refused(body):
    answer = ask("POST", CHAT, gate={"limits": Limits(request_bytes=100_000)}, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == 400


def test_a_list_of_tokens_is_one_prompt():
    body = {"prompt": list(range(300)), "n": 100}
    gate = {"limits": Limits(request_bytes=100_000)}
    assert ask("POST", MODEL_PATHS[1], gate=gate, json=body).status_code == 200


def test_more_than_fit_are_told_to_come_again_and_the_accepted_are_answered():
    begun, go = [], asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == CHAT:
            begun.append(scope)
            await go.wait()
        await echo(scope, receive, send)

    async def crowd() -> list[httpx.Response]:
        async with client(slow) as http:
            tasks = [asyncio.create_task(http.post(CHAT, json={})) for _ in range(5)]
            while sum(task.done() for task in tasks) < 3:
                await asyncio.sleep(0.01)
            assert (await http.get("/health")).status_code == 200
            go.set()
            answers = await asyncio.gather(*tasks)
            answers.append(await http.post(CHAT, json={}))  # room again
            return answers

    *answers, later = asyncio.run(asyncio.wait_for(crowd(), 30))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200, 200, 429, 429, 429]
    assert len(begun) == 3
    assert later.status_code == 200
    assert {a.headers["retry-after"] for a in answers if a.status_code == 429} == {"1"}


def test_the_rate_of_a_key():
    now = [0.0]
    limit = RateLimit(3, clock=lambda: now[0])
    assert [limit.wait_seconds("a") for _ in range(3)] == [0.0] * 3
    assert limit.wait_seconds("a") == pytest.approx(20)
    assert limit.wait_seconds("b") == 0.0
    now[0] = 20.0
    assert limit.wait_seconds("a") == 0.0
    assert limit.wait_seconds("a") > 0
    now[0] = 3600.0
    assert [limit.wait_seconds("a") > 0 for _ in range(4)] == [False] * 3 + [True]


def test_a_rate_refusal_says_when_to_come_again():
    limit = RateLimit(1)

    async def wait(key: str) -> float:
        return limit.wait_seconds(key)

    async def twice() -> list[httpx.Response]:
        limits = Limits(requests_per_minute=1)
        async with client(wait=wait, limits=limits) as http:
            return [await http.post(CHAT, content=json.dumps({})) for _ in range(2)]

    first, second = asyncio.run(twice())
    assert (first.status_code, second.status_code) == (200, 429)
    assert 1 <= int(second.headers["retry-after"]) <= 60
    assert second.json()["error"]["type"] == "rate_limit_error"


def test_websockets_are_closed():
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(Gate(echo, LIMITS)({"type": "websocket", "path": "/v1/realtime"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
