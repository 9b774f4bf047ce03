"""What one sees while it runs: a live panel on a terminal, one plain line a step anywhere else."""

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from statistics import median
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from medgpt_ray.tracking.format import duration, number, percent
from medgpt_ray.tracking.layouts import MEASURES, REINFORCEMENT, SUPERVISED, Shown
from medgpt_ray.tracking.page import Alarm

_HISTORY = 60
_STEPS_FOR_ETA = 10
_WIDE = 88
"""Columns from which the numbers and the times stand side by side."""
_BARS = "▁▂▃▄▅▆▇█"


class Console:
    """Use as a context; the panel stays on the screen at its last state when the context ends.

    `first_step` is the first step of this process: 1, or the one after the checkpoint.
    `total_steps` may be unknown until `expect` estimates it. `output` is standard output unless
    given. What others print goes above the panel.
    """

    def __init__(
        self, total_steps: int | None, first_step: int, output: RichConsole | None = None
    ) -> None:
        self._output = output or RichConsole()
        self._total = total_steps or 0
        self._done = first_step - 1
        self._phase, self._running = "starting", True
        self._phases_seen: set[str] = set()
        self._began = self._phase_began = time.monotonic()
        self._metrics: dict[str, float] = {}
        self._layout = REINFORCEMENT
        self._curve: deque[float] = deque(maxlen=_HISTORY)
        self._step_seconds: deque[float] = deque(maxlen=_STEPS_FOR_ETA)
        self._measured: list[str] = []
        """A line for every held-out evaluation or validation."""
        # FORCE_COLOR makes rich see a terminal in a pipe: a panel redrawn there is unreadable.
        screen = self._output.file.isatty() and not self._output.is_dumb_terminal
        self._live = (
            Live(get_renderable=self._panel, console=self._output, refresh_per_second=4)
            if screen
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            before = (sys.stdout, sys.stderr)
            self._live.start(refresh=True)
            _move_log_handlers(before, (sys.stdout, sys.stderr))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._phase = "stopped" if kind else "done"
        self._running = False
        if self._live:
            during = (sys.stdout, sys.stderr)
            self._live.stop()
            _move_log_handlers(during, (sys.stdout, sys.stderr))

    def phase(self, text: str) -> None:
        """What the run does from now on. In plain lines each phase is told the first time only."""
        self._phase, self._phase_began = text, time.monotonic()
        if not self._live and text not in self._phases_seen:
            self._phases_seen.add(text)
            self._print(f"{text} ...")

    def expect(self, total_steps: int) -> None:
        """How many steps the run will have, as far as one can tell now."""
        self._total = total_steps

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """A training step is done. Metrics that are not there are not shown."""
        self._done, self._metrics = step, dict(metrics)
        self._layout = REINFORCEMENT if "reward/mean" in metrics else SUPERVISED
        if math.isfinite(value := metrics.get(self._layout.main[1], math.nan)):
            self._curve.append(value)
        if "time/step" in metrics:
            self._step_seconds.append(metrics["time/step"])
        if not self._live:
            self._print(self._line())

    def heldout(self, step: int, metrics: dict[str, float]) -> None:
        """Answers to the held-out prompts were scored, in reinforcement learning."""
        self._measure(f"held-out after step {step}: {_heldout_text(metrics)}")

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """The validation rows were measured, in a supervised stage."""
        values = {name.removeprefix("validation/"): value for name, value in metrics.items()}
        told = "  ".join(_told((SUPERVISED.main, *MEASURES), values))
        self._measure(f"validation after step {step}: {told}")

    def notice(self, text: str) -> None:
        """A line that stays: above the panel, or among the plain lines."""
        self._print(text)

    def alarms(self, raised: Sequence[Alarm]) -> None:
        """Faults of learning that are new with the last step."""
        for alarm in raised:
            self.notice(f"ALARM, {alarm}")

    def _measure(self, line: str) -> None:
        self._measured.append(line)
        self._print(line)

    def _line(self) -> str:
        """The plain line of a step."""
        known, layout = self._metrics, self._layout
        faults = [fault for fault in layout.faults if known.get(fault[1])]
        parts = [self._place(), *_told((layout.main, *layout.line, *faults), known)]
        if "time/step" in known:
            parts.append(duration(known["time/step"]))
        return "  ".join([*parts, f"ETA {self._eta()}"])

    def _place(self) -> str:
        """`step 12/90`, or `step 12` while the end is unknown."""
        return f"step {self._done}/{self._total}" if self._total else f"step {self._done}"

    def _print(self, text: str) -> None:
        self._output.print(Text(text), soft_wrap=True)

    def _eta(self) -> str:
        if not (self._total and self._step_seconds):
            return "?"
        return duration((self._total - self._done) * median(self._step_seconds))

    def _panel(self) -> RenderableType:
        now = time.monotonic()
        running = f" for {duration(now - self._phase_began)}" if self._running else ""
        bar = Table.grid(expand=True)
        bar.add_row(ProgressBar(total=max(self._total, 1), completed=self._done))
        parts: list[RenderableType] = [
            bar,
            Text(self._phase + running, style="cyan"),
        ]
        if self._curve and not self._output.options.ascii_only:
            fitting = list(self._curve)[-max(self._output.width - 12, 1) :]
            parts.append(Text(f"{self._layout.main[0]} {sparkline(fitting)}", style="green"))
        parts += [Text(line) for line in self._measured[:1] + self._measured[1:][-1:]]
        numbers, times = self._numbers(), self._times()
        if self._output.width >= _WIDE:
            side_by_side = Table.grid(padding=(0, 4), expand=False)
            side_by_side.add_row(numbers, times)
            parts.append(side_by_side)
        else:
            parts += [numbers, times]
        elapsed = duration(now - self._began)
        title = f"{self._place()}  {elapsed}  ETA {self._eta()}"
        return Panel(Group(*parts), title=Text(title), title_align="left")

    def _numbers(self) -> Table:
        known, layout = self._metrics, self._layout
        label, metric, show = layout.main
        table = _numeric_table(2)
        if metric in known:
            table.add_row(label, Text(show(known[metric]), style="bold green"))
        for name, value in known.items():
            if name.startswith("reward/") and name not in ("reward/mean", "reward/std"):
                table.add_row(Text("  " + name.removeprefix("reward/")), number(value))
        for label, metric, show in (*layout.rows, *layout.faults):
            if metric in known:
                table.add_row(label, show(known[metric]))
        return table

    def _times(self) -> Table:
        whole = self._metrics.get("time/step", 0.0)
        table = _numeric_table(3)
        for name, seconds in self._metrics.items():
            if name.startswith("time/") and name != "time/step":
                share = percent(seconds / whole) if whole else ""
                table.add_row(Text(name.removeprefix("time/")), duration(seconds), share)
        if whole:
            table.add_row("step", duration(whole), "", style="bold")
        return table


def _move_log_handlers(old: tuple[TextIO, TextIO], new: tuple[TextIO, TextIO]) -> None:
    """Rich puts its own streams in place of stdout and stderr, to print above the panel. Handlers
    made earlier hold the old ones and would write across it."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {h for logger in loggers for h in getattr(logger, "handlers", ())}
    for handler in handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream in old:
            handler.setStream(new[old.index(handler.stream)])


def sparkline(values: Sequence[float]) -> str:
    """One bar a value, from the smallest to the largest of them."""
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def _told(shown: Sequence[Shown], known: dict[str, float]) -> list[str]:
    return [f"{label} {show(known[metric])}" for label, metric, show in shown if metric in known]


def _heldout_text(metrics: dict[str, float]) -> str:
    """`reward 0.412 [0.36, 0.46]  exact 0.31 ...`"""
    shown = {name.removeprefix("heldout/"): number(value) for name, value in metrics.items()}
    low, high = shown.pop("ci_low", None), shown.pop("ci_high", None)
    if "reward" in shown and low and high:
        shown["reward"] += f" [{low}, {high}]"
    return "  ".join(f"{name} {value}" for name, value in shown.items())


def _numeric_table(columns: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    for _ in range(columns - 1):
        table.add_column(justify="right", no_wrap=True)
    return table
