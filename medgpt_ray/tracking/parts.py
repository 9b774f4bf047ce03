"""A file that is made in parts, in any order, and is there only when it is whole.

Beside `answers.jsonl` the folder `answers.jsonl.parts` holds a file for each part, appearing whole;
whoever begins again after a kill finds which are missing.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medgpt_ray.lock import alone
from medgpt_ray.tracking.rundir import write_atomically


class PartsError(Exception):
    """A folder of parts that belongs to somebody or something else, with the fix."""


class Parts:
    """Making the object touches nothing on disk."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.parts")

    @contextmanager
    def opened(self, made_from: dict[str, Any]) -> Iterator[None]:
        """For this process alone, and for parts that depend on the JSON values `made_from` alone;
        PartsError where that cannot be.
        """
        self.folder.mkdir(exist_ok=True)
        taken = PartsError(f"{self.folder}: another process is at work on it")
        with alone(self.folder / "lock", taken):
            plan = self.folder / "made_from.json"
            before = json.loads(plan.read_text()) if plan.exists() else made_from
            changed = sorted(key for key in made_from if made_from[key] != before.get(key))
            if changed:
                raise PartsError(
                    f"{self.folder}: was begun with another {', '.join(changed)}: repeat that "
                    "command, or delete the folder to begin anew"
                )
            write_atomically(plan, json.dumps(made_from, indent=1))
            yield

    def missing(self, count: int) -> set[int]:
        """Which of the parts 0 to `count` (exclusive) are to be made."""
        return {number for number in range(count) if not self._part(number).exists()}

    def commit(self, number: int, lines: Sequence[str]) -> None:
        write_atomically(self._part(number), "".join(f"{line}\n" for line in lines))

    def join(self, count: int, lines: int) -> None:
        """Make the output of all parts in order, then remove them. It must have so many lines."""
        temporary = self.folder / "whole"
        found = 0
        with temporary.open("wb") as whole:
            for number in range(count):
                content = self._part(number).read_bytes()
                found += content.count(b"\n")
                whole.write(content)
            whole.flush()
            os.fsync(whole.fileno())
        if found != lines:
            raise PartsError(
                f"{self.folder}: its parts have {found} lines, not {lines}: they were changed, "
                "delete the folder to begin anew"
            )
        temporary.rename(self.output)
        shutil.rmtree(self.folder)

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:07d}.jsonl"
