"""The chat, with a model in this process and with a server: the text of `medgpt chat`."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from clusters import free_ports
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from taught import ADAPTED, FEVER, IRON, messages

from medgpt_ray.board.chat_models import ChatError, ChatSource, InProcess, Question, Server
from medgpt_ray.chat import Session
from medgpt_ray.models.chat_model import ChatModel, Sampling

SYSTEM = "Be brief."


async def said(chat: ChatSource, question: Question) -> list[Any]:
    return [piece async for piece in chat.answer(question)]


def text_of(pieces: list[Any]) -> str:
    return "".join(piece.text for piece in pieces)


def ask(client: TestClient, **asked: Any) -> list[dict[str, Any]]:
    answer = client.post("/chat/answer", json=asked)
    assert answer.status_code == 200, answer.text
    lines = answer.text.split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


def test_the_text_is_that_of_the_terminal(
    lora_run: Path, opened: Callable[..., TestClient], capsys: pytest.CaptureFixture[str]
) -> None:
    """At temperature 0: with system prompt and history, and without the adapter too."""
    client = opened(chat=InProcess(str(lora_run)))
    session = Session(str(lora_run), SYSTEM, Sampling(max_tokens=40), "float32")
    system = {"role": "system", "content": SYSTEM}
    for model in ("run", "run without adapter"):
        assert f"<option>{model}</option>" in client.get("/chat").text
        session.handle("/clear")
        session.handle(f"/adapter {'off' if 'without' in model else 'on'}")
        history: list[dict[str, str]] = []
        for question in (IRON[0], FEVER[0]):
            capsys.readouterr()
            session.handle(question)
            expected = capsys.readouterr().out.removesuffix("\n")
            history.append({"role": "user", "content": question})
            events = ask(client, model=model, messages=[system, *history], max_tokens=40)
            text = "".join(event.get("text", "") for event in events)
            assert (text, events[-1]) == (expected, {"finish_reason": "stop"})
            history.append({"role": "assistant", "content": text})
    plain = [messages(ADAPTED[:1]) for _ in range(2)]
    answers = [
        "".join(e.get("text", "") for e in ask(client, model=m, messages=p, max_tokens=40))
        for m, p in zip(("run", "run without adapter"), plain, strict=True)
    ]
    assert answers == [ADAPTED[1], FEVER[1]]


def test_a_long_conversation_and_an_unknown_model_are_told(
    taught_model: Path, opened: Callable[..., TestClient]
) -> None:
    client = opened(chat=InProcess(str(taught_model)))
    long = [{"role": "user", "content": "fever " * 1100}]
    assert "the model takes 1024" in ask(client, model="model", messages=long)[-1]["error"]
    assert "no model 'x'" in ask(client, model="x", messages=messages(FEVER[:1]))[-1]["error"]
    events = ask(client, model="model", messages=messages(FEVER[:1]), max_tokens=40)
    assert len(events) > 5  # piece by piece
    assert events[-1] == {"finish_reason": "stop"}
    cut = ask(client, model="model", messages=messages(FEVER[:1]), max_tokens=2)
    assert cut[-1] == {"finish_reason": "length"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "m", "messages": []},
        {"model": "m", "messages": [{"role": "tool", "content": "x"}]},
        {"model": "m", "messages": messages(FEVER[:1]), "temperature": -1},
        {"model": "m", "messages": messages(FEVER[:1]), "max_tokens": 0},
        {"model": "m", "messages": messages(FEVER[:1]), "stream": False},
    ],
)
def test_what_no_page_sends_is_refused(opened: Callable[..., TestClient], body: Any) -> None:
    client = opened(chat=Server("http://127.0.0.1:1/v1"))
    assert client.post("/chat/answer", json=body).status_code == 400
    assert opened().post("/chat/answer", json=body).status_code == 404


def test_an_answer_that_nobody_reads_ends(tiny_model: Path) -> None:
    """And the next one is answered, whole."""
    chat = InProcess(str(tiny_model))
    question = Question("model", messages(FEVER[:1]), max_tokens=900)

    async def leave() -> tuple[float, str]:
        pieces = chat.answer(question)
        await anext(pieces)
        began = time.monotonic()
        await pieces.aclose()  # type: ignore[attr-defined]
        return time.monotonic() - began, text_of(await said(chat, question))

    async def whole() -> tuple[float, str]:
        began = time.monotonic()
        text = text_of(await said(chat, question))
        return time.monotonic() - began, text

    alone, text = asyncio.run(whole())
    ended, again = asyncio.run(leave())
    assert ended < alone / 2
    assert again == text


def test_a_model_that_fails_is_told_and_logged(
    tiny_model: Path,
    opened: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(
        model: ChatModel, prompt: Any, sampling: Sampling, show: Callable[[str], None]
    ) -> None:
        show("I")
        raise RuntimeError("CUDA error: no kernel\nSearch for it on the web")

    client = opened(chat=InProcess(str(tiny_model)))
    monkeypatch.setattr(ChatModel, "answer", fail)
    events = ask(client, model="model", messages=messages(FEVER[:1]))
    told = "the model failed: RuntimeError: CUDA error: no kernel"
    assert events == [{"text": "I"}, {"error": told}]
    assert "Search for it" in caplog.text


class Recorder:
    """A server that speaks the protocol: what it was sent, and what it is to answer."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, Any]] = []
        self.answer: Callable[[], Response] = lambda: Response(status_code=500)

    async def models(self, request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer key-1":
            return JSONResponse({"error": {"message": "wrong key"}}, 401)
        return JSONResponse({"data": [{"id": "sft"}, {"id": "cardiology"}]})

    async def chat(self, request: Request) -> Response:
        self.seen.append((request.headers.get("authorization"), await request.json()))
        return self.answer()


@pytest.fixture(scope="module")
def recorder() -> Iterator[tuple[str, Recorder]]:
    found = Recorder()
    routes = [
        Route("/v1/models", found.models),
        Route("/v1/chat/completions", found.chat, methods=["POST"]),
    ]
    (port,) = free_ports(1)
    config = uvicorn.Config(Starlette(routes=routes), port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/v1", found
    server.should_exit = True
    thread.join(60)


def chunks(*values: dict[str, Any] | str) -> Callable[[], Response]:
    async def body() -> AsyncIterator[str]:
        for value in values:
            yield value if isinstance(value, str) else f"data: {json.dumps(value)}\n\n"

    return lambda: StreamingResponse(body(), media_type="text/event-stream")


def chunk(text: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


def test_a_server_is_asked_with_the_key_that_no_page_sees(
    recorder: tuple[str, Recorder],
    opened: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, server = recorder
    monkeypatch.setenv("MEDGPT_API_KEYS", "key-1, key-2")
    client = opened(chat=Server(f"{url}/"))
    shown = client.get("/chat").text
    assert "<option>sft</option><option>cardiology</option>" in shown
    assert "key-1" not in shown
    server.answer = chunks(
        chunk(""),
        chunk("叫医"),
        chunk("生。", "stop"),
        {"choices": [], "usage": {}},
        "data: [DONE]\n\n",
    )
    events = ask(client, model="cardiology", messages=messages(FEVER[:1], SYSTEM), max_tokens=9)
    assert events == [{"text": "叫医"}, {"text": "生。"}, {"finish_reason": "stop"}]
    key, sent = server.seen[-1]
    assert key == "Bearer key-1"
    assert sent == {
        "model": "cardiology",
        "messages": messages(FEVER[:1], SYSTEM),
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 9,
        "stream": True,
    }


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_ends_with_a_newline_only(recorder: tuple[str, Recorder], end: str) -> None:
    url, server = recorder
    text = "a\u2028b\u2029c\x85d"
    lines = [json.dumps(chunk(part, "stop"), ensure_ascii=False) for part in (text, "生")]
    server.answer = chunks(*(f"data: {line}{end}{end}" for line in lines), "data: [DONE]")
    pieces = asyncio.run(said(Server(url), Question("sft", messages(FEVER[:1]))))
    assert [piece.text for piece in pieces] == [text, "生"]


def test_what_a_server_refuses_is_told(
    recorder: tuple[str, Recorder],
    opened: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, server = recorder
    monkeypatch.delenv("MEDGPT_API_KEYS", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    client = opened(chat=Server(url))
    assert "/models: 401: wrong key" in client.get("/chat").text
    asked = {"model": "sft", "messages": messages(FEVER[:1])}
    server.answer = lambda: JSONResponse({"error": {"message": "too many requests"}}, 429)
    assert ask(client, **asked) == [{"error": "429: too many requests"}]
    server.answer = chunks(chunk("a"), {"error": {"message": "the engine died"}})
    assert ask(client, **asked) == [{"text": "a"}, {"error": "the engine died"}]
    gone = opened(chat=Server("http://127.0.0.1:1/v1"))
    assert "http://127.0.0.1:1/v1 does not answer" in gone.get("/chat").text
    assert "does not answer" in ask(gone, **asked)[0]["error"]


def test_a_server_that_is_none_is_told(recorder: tuple[str, Recorder]) -> None:
    url, server = recorder
    server.answer = chunks("data: {\n\n")
    with pytest.raises(ChatError, match="no JSON"):
        asyncio.run(said(Server(url), Question("sft", messages(FEVER[:1]))))
