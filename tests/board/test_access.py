"""Only the holder of the token gets in, and only a page of the board changes anything."""

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from medgpt_ray.board.access import MAX_BODY, Secrets

FIELDS = "/train/fields"
STAGE = {"stage": "sft"}


@pytest.mark.parametrize("path", ["/", "/chat", "/train", "/static/board.js", "/report?run=alone"])
def test_nothing_is_shown_without_the_token(client: TestClient, known: Secrets, path: str) -> None:
    assert client.get(path).status_code in (200, 404)
    client.cookies.clear()
    assert client.get(path).status_code == 403
    client.cookies.set(known.cookie, "wrong")
    assert client.get(path).status_code == 403


def test_the_token_of_the_address_becomes_a_cookie(client: TestClient, known: Secrets) -> None:
    client.cookies.clear()
    assert client.get("/?token=wrong", follow_redirects=False).status_code == 403
    answer = client.get(f"/run?run=alone&token={known.token}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/run?run=alone")
    for word in ("HttpOnly", "SameSite=lax"):
        assert word in answer.headers["set-cookie"]
    assert client.get("/run?run=alone").status_code == 200


def test_the_token_does_not_lead_elsewhere(client: TestClient, known: Secrets) -> None:
    answer = client.get(
        f"http://127.0.0.1:8500//evil.example/?token={known.token}", follow_redirects=False
    )
    assert answer.headers["location"] == "/evil.example/"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8500", "127.0.0.1.evil.example", "[::1"]
)
def test_another_name_of_the_address_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 421
    assert client.get("/", headers={"Host": "localhost:9999"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Origin": "http://127.0.0.1:8501"},
        {"Origin": ""},
        {"X-Form-Token": "wrong"},
        {"X-Form-Token": ""},
    ],
)
@pytest.mark.parametrize("path", [FIELDS, "/train/check", "/chat/answer", "/job/1/stop"])
def test_a_post_of_another_site_is_refused(
    client: TestClient, headers: dict[str, str], path: str
) -> None:
    assert client.post(FIELDS, json=STAGE).status_code == 200
    answer = client.post(path, json=STAGE, headers=headers)
    assert (answer.status_code, answer.text) == (403, "not sent by a page of this board")


@pytest.mark.parametrize("body", ['{"stage": "\\ud800"}', '{"\\ud800": "sft"}', "{", "[]"])
@pytest.mark.parametrize("path", [FIELDS, "/train/check"])
def test_what_is_no_text_is_refused(client: TestClient, path: str, body: str) -> None:
    assert client.post(path, content=body).status_code == 400


def test_a_run_that_is_no_text_fills_no_form(client: TestClient, folder: Path) -> None:
    (folder / "alone" / "config.yaml").write_bytes(b"\xff\xfe")
    answer = client.get("/train/form?run=alone")
    assert (answer.status_code, "config.yaml" in answer.text) == (400, True)


def test_other_methods_and_websockets_are_refused(client: TestClient) -> None:
    assert client.put("/", json={}).status_code == 405
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/"):
        pass


def test_a_large_body_is_refused(client: TestClient) -> None:
    def parts():
        for _ in range(MAX_BODY // 1000 + 1):
            yield b" " * 1000

    assert client.post(FIELDS, content=b" " * (MAX_BODY + 1)).status_code == 413
    assert client.post(FIELDS, content=parts()).status_code == 413


@pytest.mark.parametrize("path", ["/", "/nothing", "/static/board.js", "/run?run=alone"])
def test_no_page_may_fetch_from_elsewhere(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "script-src 'self';" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_training_is_for_this_machine_unless_allowed(opened: Callable[..., TestClient]) -> None:
    others = opened(loopback=False, training=False)
    assert "--allow-training" in others.get("/train").text
    assert others.get("/train/form?preset=tiny/sft").status_code == 403
    for path in (FIELDS, "/train/check", "/job/1/train", "/job/1/stop"):
        assert others.post(path, json=STAGE).status_code == 403
    assert others.get("/", headers={"Host": "board.example"}).status_code == 200
