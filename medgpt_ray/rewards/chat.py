"""One question to an OpenAI-compatible server: retries, a time limit, a cache on disk.

The key comes from an environment variable and goes into one header: it is in no error and no
redirected request, and in the cache only where the model's answer repeats it.
"""

import hashlib
import http.client
import json
import os
import random
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

TEMPORARY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FIRST_WAIT_SECONDS = 1.0
Answer = TypeVar("Answer")
_asking: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()  # by question
_guard = threading.Lock()


class ChatError(RuntimeError):
    """No usable answer: what the server said, or did not say, and the fix."""


class Unreadable(ValueError):
    """An answer that is not of the form that was asked for."""


class _Temporary(Exception):
    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask, and how long to try."""

    base_url: str
    model: str
    key: str = field(repr=False)
    key_variable: str
    attempts: int
    time_limit_s: float
    max_tokens: int
    cache: Path

    @property
    def url(self) -> str:
        return self.base_url.rstrip("/") + "/chat/completions"

    def without_key(self, text: str) -> str:
        """What the server says, where it repeats the key that it was sent."""
        return text.replace(self.key, "***") if self.key else text


def server(
    model: str | None,
    base_url: str | None,
    api_key_env: str,
    attempts: int,
    time_limit_s: float,
    max_tokens: int,
    cache: str | None,
) -> Server:
    """A server from arguments, and from the environment where they are None."""
    base_url = base_url or os.environ.get("OPENAI_BASE_URL")
    model = model or os.environ.get("MEDGPT_JUDGE_MODEL")
    if not base_url:
        raise ValueError("argument base_url: missing, give it or set OPENAI_BASE_URL")
    if not base_url.startswith(("http://", "https://")) or "@" in base_url:
        raise ValueError("argument base_url: expected http(s)://host/v1, without user or password")
    if not model:
        raise ValueError("argument model: missing, give it or set MEDGPT_JUDGE_MODEL")
    key = os.environ.get(api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"environment variable {api_key_env}: holds what cannot be a key")
    home = Path(os.environ.get("MEDGPT_CACHE", Path.home() / ".cache" / "medgpt_ray"))
    path = Path(cache) if cache else home / "judge.sqlite"
    return Server(base_url, model, key, api_key_env, attempts, time_limit_s, max_tokens, path)


def ask(server: Server, messages: list[dict[str, str]], read: Callable[[str], Answer]) -> Answer:
    """What `read` makes of the model's answer; the same question is never asked twice.

    `read` raises `Unreadable` for an answer that does not fit: the model is then asked again, as it
    is after errors that may pass (429, 5xx, no connection). Raises `ChatError` after
    `server.attempts` or `server.time_limit_s`.
    """
    request = {
        "model": server.model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": server.max_tokens,
    }
    digest = hashlib.sha256(json.dumps([server.base_url, request]).encode()).hexdigest()
    deadline = time.monotonic() + server.time_limit_s
    with _guard:
        lock = _asking.setdefault(digest, threading.Lock())
    if not lock.acquire(timeout=server.time_limit_s):
        raise ChatError(f"{server.url}: another thread asked the same and had no answer in time")
    try:
        with closing(_open(server.cache)) as cache:
            found = cache.execute("SELECT answer FROM answers WHERE id = ?", (digest,)).fetchone()
            if found:
                return read(found[0])
            answer, value = _until_readable(server, request, read, deadline)
            with cache:
                cache.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (digest, answer))
            return value
    finally:
        lock.release()


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    cache = sqlite3.connect(path, timeout=30)
    cache.execute("CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, answer TEXT NOT NULL)")
    return cache


def _until_readable(
    server: Server, request: dict[str, Any], read: Callable[[str], Answer], deadline: float
) -> tuple[str, Answer]:
    why = ""
    for attempt in range(server.attempts):
        wait = 0.0
        try:
            answer = _post(server, request, deadline)
            return answer, read(answer)
        except Unreadable as error:
            why = server.without_key(str(error))[:200]
        except _Temporary as error:
            backoff = FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.75, 1.25)
            why, wait = str(error), error.wait if error.wait is not None else backoff
        if time.monotonic() + wait >= deadline:
            raise ChatError(f"{server.url}: gave up after {server.time_limit_s:g} s: {why}")
        if attempt + 1 < server.attempts:
            time.sleep(wait)
    raise ChatError(f"{server.url}: gave up after {server.attempts} attempts: {why}")


def _post(server: Server, request: dict[str, Any], deadline: float) -> str:
    call = urllib.request.Request(server.url, json.dumps(request).encode(), method="POST")
    call.add_header("Content-Type", "application/json")
    if server.key:
        call.add_unredirected_header("Authorization", f"Bearer {server.key}")
    try:
        with urllib.request.urlopen(call, timeout=max(0.001, deadline - time.monotonic())) as reply:
            body = _read(reply, deadline)
    except urllib.error.HTTPError as error:
        with error:
            raise _http_error(server, error) from None
    except (OSError, http.client.HTTPException) as error:  # URLError, time-outs, lost connections
        raise _Temporary(f"{type(error).__name__}: {error}") from None
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        said = server.without_key(body.decode(errors="replace"))
        raise ChatError(f"{server.url}: not the answer of a chat server: {said[:200]!r}") from None
    if not isinstance(content, str):
        raise Unreadable("the answer holds no text")
    return content


def _read(reply: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, also of a server that sends it drop by drop, until the deadline."""
    body, length = b"", reply.length or 0
    while piece := reply.read1(65536):
        body += piece
        if time.monotonic() > deadline:
            raise _Temporary("the answer did not end in time")
    if len(body) < length:
        raise _Temporary("the connection broke off within the answer")
    return body


def _http_error(server: Server, error: urllib.error.HTTPError) -> Exception:
    said = server.without_key(error.read(4000).decode(errors="replace"))
    why = f"HTTP {error.code} {server.without_key(error.reason)}: {said[:400]}"
    if error.code in TEMPORARY:
        after = error.headers.get("Retry-After", "")
        return _Temporary(why, float(after) if after.isdecimal() else None)
    fix = f"; set {server.key_variable} to a key of that server" if error.code in (401, 403) else ""
    return ChatError(f"{server.url}: {why}{fix}")
