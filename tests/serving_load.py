"""A steady load on a server of ours."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import openai
from runs import SECONDS


class Load:
    """Four callers, about twelve requests a second; what each version said."""

    def __init__(self, client: openai.OpenAI, model: str) -> None:
        self.client, self.model = client, model
        self.texts: defaultdict[str, set[str]] = defaultdict(set)
        self.answers = 0
        self.failures: list[str] = []
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> "Iterator[Load]":
        threads = [threading.Thread(target=self._call) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(timeout=SECONDS)

    def _call(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                response = self.client.chat.completions.with_raw_response.create(
                    model=self.model,
                    messages=[{"role": "user", "content": "Wash your hands today."}],
                    max_tokens=24,
                    temperature=0,
                )
            except openai.OpenAIError as error:
                self.failures.append(repr(error))
                time.sleep(0.33)
                continue
            version = response.headers["x-medgpt-version"]
            self.texts[version].add(response.parse().choices[0].message.content)
            self.answers += 1
            time.sleep(max(0.0, 0.33 - (time.monotonic() - began)))
