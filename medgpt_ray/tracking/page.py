"""What the reports of all runs have in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medgpt_ray.tracking.curves import Chart
from medgpt_ray.tracking.metrics import Record

NOTHING_YET = "None: no step has ended yet."
"""In place of a page's `quiet`."""


@dataclass(frozen=True)
class Alarm:
    step: int
    what: str
    detail: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.what}: {self.detail}"


@dataclass(frozen=True)
class Page:
    """What the report of one kind of run adds to the rest: a template and what it is filled with.

    `quiet` stands where there are no alarms.
    """

    template: str
    kind: str
    facts: dict[str, str]
    """For the head of the page: label -> text."""
    charts: list[Chart]
    alarms: list[Alarm]
    quiet: str
    values: dict[str, Any]


def not_finite(records: Sequence[Record]) -> list[Alarm]:
    return [
        Alarm(int(record["step"]), "not a finite number", name)
        for record in records
        for name, value in record.items()
        if not math.isfinite(value)
    ]
