"""A headless Chromium for tests, driven by its own protocol."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

SECONDS = 120
NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    def __init__(self, connection: ClientConnection, session: str) -> None:
        self._connection, self._session = connection, session
        self._number = 0
        self.complaints: list[str] = []
        """What the page's console says, and what its policy forbade."""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._connection.send(json.dumps(message | {"sessionId": self._session}))
        while True:
            answer = json.loads(self._connection.recv(timeout=SECONDS))
            if answer.get("method") == "Log.entryAdded":
                self.complaints.append(answer["params"]["entry"]["text"])
            if answer.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(answer["params"]["exceptionDetails"]))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script: str) -> Any:
        """Until the expression is true."""
        deadline = time.monotonic() + SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"{script}\n{self.text}"
            time.sleep(0.1)
        return value

    @property
    def text(self) -> str:
        """What one can read on the page."""
        return str(self.run("document.body.innerText"))


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Skips the test where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    process = subprocess.Popen(
        [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_address(process, folder), max_size=None) as connection:
            yield _page(connection)
    finally:
        process.terminate()
        process.wait(60)


def _address(process: subprocess.Popen[bytes], folder: Path) -> str:
    file = folder / "DevToolsActivePort"
    deadline = time.monotonic() + SECONDS
    while not (file.exists() and len(lines := file.read_text().split()) == 2):
        assert process.poll() is None, "Chromium ended"
        assert time.monotonic() < deadline, "Chromium never came"
        time.sleep(0.1)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"


def _page(connection: ClientConnection) -> Browser:
    def ask(number: int, method: str, **parameters: Any) -> dict[str, Any]:
        connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(connection.recv(timeout=SECONDS))).get("id") != number:
            pass
        return dict(answer["result"])

    target = ask(-1, "Target.createTarget", url="about:blank")["targetId"]
    session = ask(-2, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    browser = Browser(connection, session)
    for domain in ("Page", "Runtime", "Log"):
        browser.call(f"{domain}.enable")
    return browser
