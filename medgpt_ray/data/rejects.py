"""Bad rows of a run: an error, or a file that says what was left out and why."""

import json
import os
from pathlib import Path

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data.rows import DataError

ROWS_FOR_A_SHARE = 100
"""Of fewer rows no share is told before the first epoch is over."""


class Rejects:
    """Collects the bad rows that a stream meets. Rows met again in later epochs count once."""

    def __init__(self, file: Path, data: SupervisedData) -> None:
        self.file, self.data = file, data
        self.problems: dict[str, str] = {}
        if file.exists():
            text = file.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            os.truncate(file, len(whole))  # of a line that a kill cut off the row is met again
            known = [json.loads(line) for line in whole.decode().split("\n")[:-1]]
            self.problems = {row["place"]: row["problem"] for row in known}

    def add(self, place: str, problem: str, raw: str) -> None:
        """Note a bad row; with `on_bad_row: skip` it goes to the file."""
        if place in self.problems:
            return
        self.problems[place] = problem
        if self.data.on_bad_row == "skip":
            with self.file.open("a", encoding="utf-8") as file:
                row = {"place": place, "problem": problem, "row": raw}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def check(self, rejected: int, rows: int, whole: bool) -> None:
        """Raise `DataError` when there are bad rows, or with `skip` more than the allowed share.

        `rejected` of `rows` read so far were bad; `whole`: an epoch ends here.
        """
        listed = [f"{place}: {problem}" for place, problem in self.problems.items()]
        if listed and self.data.on_bad_row == "error":
            raise DataError(
                [*listed, "data.on_bad_row: skip leaves such rows out and writes them to a file"]
            )
        enough = whole or rows >= ROWS_FOR_A_SHARE
        if enough and rejected > self.data.max_bad_share * rows:
            raise DataError(
                [
                    f"{rejected} of {rows} rows are bad, more than data.max_bad_share "
                    f"({self.data.max_bad_share:g}); see {self.file}",
                    *listed,
                ]
            )
