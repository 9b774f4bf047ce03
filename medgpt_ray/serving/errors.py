"""Refusals in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

import json
from collections.abc import Mapping
from typing import Any

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(
        self, status: int, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param = status, param
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"
        if status in (408, 413):  # the rest of the body is not read
            self.headers["connection"] = "close"

    async def send(self, send: Any) -> None:
        error = {
            "message": str(self),
            "type": TYPES[self.status],
            "param": self.param,
            "code": self.status,
        }
        await send_json(send, self.status, {"error": error}, self.headers)


async def send_json(
    send: Any, status: int, body: Mapping[str, Any], headers: Mapping[str, str]
) -> None:
    content = json.dumps(body, ensure_ascii=False).encode()
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
