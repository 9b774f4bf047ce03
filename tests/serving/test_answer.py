"""vLLM's messages on their way to the caller: errors of a stream get their status."""

import asyncio
import json
from typing import Any

import pytest

from medgpt_ray.serving.assistant import Answer
from medgpt_ray.serving.reply import Reply

STREAM = b"text/event-stream"
DONE = b"data: [DONE]\n\n"


def error(message: str, code: int) -> bytes:
    return b"data: " + json.dumps({"error": {"message": message, "code": code}}).encode() + b"\n\n"


def passed(
    *events: bytes, form: bool = False, kind: bytes = STREAM, reply: Reply | None = None
) -> tuple[int, bytes]:
    """Status and body as the caller gets them."""
    got: list[Any] = []
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}

    async def send(message: Any) -> None:
        got.append(message)

    async def stream() -> None:
        answer = Answer(send, "v1", reply, form=form)
        await answer.send(start)
        for event in events:
            await answer.send({"type": "http.response.body", "body": event, "more_body": True})
        await answer.send({"type": "http.response.body", "body": b""})
        assert answer.status == got[0]["status"]

    asyncio.run(stream())
    assert [message["type"] for message in got].count("http.response.start") == 1
    return got[0]["status"], b"".join(message["body"] for message in got[1:])


def test_a_stream_passes_as_it_is() -> None:
    events = (b'data: {"id": 1}\n\n', error("the engine died", 500), DONE)
    assert passed(*events) == (200, b"".join(events))


def test_embeddings_as_bytes_pass_as_they_are() -> None:
    """Also where a log or the guard follows the answer."""
    reply = Reply(None, {}, fixed_form=True)
    octets = b"\x00\xff\n\n"
    assert passed(octets, kind=b"application/octet-stream", reply=reply) == (200, octets)


@pytest.mark.parametrize("code", [400, 404, 500])
def test_an_error_as_the_first_event_has_its_status(code: int) -> None:
    status, body = passed(error("no such token", code), DONE)
    assert status == code
    assert json.loads(body)["error"]["message"] == "no such token"


def test_a_form_that_no_text_has_is_the_callers_fault() -> None:
    status, body = passed(error("Internal server error", 500), DONE, form=True)
    assert status == 400
    assert json.loads(body)["error"]["param"] == "response_format"
    assert passed(error("Internal server error", 500), DONE)[0] == 500
