"""Processes that the board starts: `medgpt train`, as a dry run and for good.

A configuration has a folder in `.board` beside the runs, with the file and the logs. A training
goes on when the board ends; its run is in the list all the same.
"""

import asyncio
import codecs
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.5
CHUNK = 65_536
ENDING_SECONDS = 10.0
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Busy(Exception):
    """Another process of this kind is still at work."""


@dataclass
class Job:
    """One process with its log."""

    number: int
    kind: str
    """`dry run` or `training`."""
    config: Path
    process: subprocess.Popen[bytes]
    begun: float
    stopping: bool = False

    @property
    def log(self) -> Path:
        return self.config.with_name(f"{self.kind.replace(' ', '-')}.log")

    @property
    def status(self) -> int | None:
        """Exit status, none while it runs."""
        return self.process.poll()

    @property
    def state(self) -> str:
        if self.status is None:
            return "stopping" if self.stopping else "running"
        return "done" if self.status == 0 else f"ended with status {self.status}"

    def stop(self) -> None:
        """Ask it to end: a training saves what it has, which may take some time."""
        self.stopping = True
        self.process.send_signal(signal.SIGTERM)

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """`{"text": ...}` as the log grows, from its beginning, then `{"status": ...}`."""
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        with self.log.open("rb") as log:
            while True:
                ended = self.status is not None  # before the last look at the log
                while data := log.read(CHUNK):
                    yield {"text": _COLOUR.sub("", decode(data))}
                if ended:
                    yield {"status": self.status}
                    return
                await asyncio.sleep(POLL_SECONDS)


class Jobs:
    """Of this board, by number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ".board"
        self.all: dict[int, Job] = {}

    def new_folder(self) -> Path:
        """For one configuration."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for number in range(1, 1000):
            folder = self._folder / f"{stamp}-{number}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return folder
        raise Busy("a thousand configurations in one second")

    def start(self, kind: str, config: Path) -> Job:
        """Raises `Busy`."""
        for job in self.all.values():
            if job.kind == kind and job.status is None:
                raise Busy(f"{kind} {job.number} is still at work: wait for it, or stop it")
        number = len(self.all) + 1
        flags = ["--dry-run"] if kind == "dry run" else []
        log = config.with_name(f"{kind.replace(' ', '-')}.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "medgpt_ray.cli", "train", str(config), *flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the board is not meant for it
                env=os.environ | {"COLUMNS": "110", "PYTHONUNBUFFERED": "1"},
            )
        self.all[number] = Job(number, kind, config, process, time.time())
        return self.all[number]

    def end(self) -> list[Job]:
        """Stops the dry runs; returns the trainings that go on."""
        running = [job for job in self.all.values() if job.status is None]
        for job in running:
            if job.kind == "dry run":
                job.stop()
                try:
                    job.process.wait(ENDING_SECONDS)
                except subprocess.TimeoutExpired:
                    job.process.kill()
                    job.process.wait()
        return [job for job in running if job.kind != "dry run"]
