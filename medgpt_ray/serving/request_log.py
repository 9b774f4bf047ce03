"""A line for each request: who, what, how long; what was said with personal data masked."""

import json
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from medgpt_ray.guard.notices import text_of
from medgpt_ray.guard.personal import mask
from medgpt_ray.serving.reply import Reply

LAST_TEXTS = 20
CHARACTERS, MODEL_CHARACTERS = 10_000, 200
LONGEST = 200
"""Characters of the longest piece of personal data."""


class RequestLog:
    """`requests-PID.jsonl` in a folder, readable by its owner alone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"requests-{os.getpid()}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._file = open(descriptor, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="request-log")

    def write_later(
        self, scope: Any, status: int, version: str, seconds: float, reply: Reply | None
    ) -> None:
        """By the one thread of the log: to mask long texts takes longer than streams may wait."""
        written = self._writer.submit(self.write, scope, status, version, seconds, reply)
        written.add_done_callback(_told)

    def write(
        self, scope: Any, status: int, version: str, seconds: float, reply: Reply | None
    ) -> None:
        body = scope["medgpt.body"]
        model = body.get("model")  # what the caller wrote, any text
        answered = reply.texts if reply else {}
        record = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "key": scope["medgpt.key"],
            "path": scope["path"],
            "model": model and _logged(str(model), MODEL_CHARACTERS),
            "version": version,
            "status": status,
            "seconds": round(seconds, 3),
            "usage": reply and reply.usage,
            "guard": reply and reply.guard(),
            "said": [_logged(text) for text in _said(body)[-LAST_TEXTS:]],
            "answered": [_logged(text) for _, text in sorted(answered.items())],
        }
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _told(written: Future[None]) -> None:
    if error := written.exception():
        print(f"request log: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def _logged(text: str, characters: int = CHARACTERS) -> str:
    if len(text) <= characters:
        return mask(text)
    masked = mask(text[: characters + LONGEST])  # what stands at its end may be cut, so not known
    return masked[: max(0, min(characters, len(masked) - LONGEST))] + "..."


def _said(body: dict[str, Any]) -> list[str]:
    messages = body.get("messages")
    if isinstance(messages, list):
        return [text_of(message) for message in messages if isinstance(message, dict)]
    texts = body.get("prompt", body.get("input"))
    return [
        text for text in (texts if isinstance(texts, list) else [texts]) if isinstance(text, str)
    ]
