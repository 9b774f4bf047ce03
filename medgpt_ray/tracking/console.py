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

_HISTORY = 60
_STEPS_FOR_ETA = 10
_WIDE = 88
"""Columns from which the numbers and the times stand side by side."""
_BARS = "▁▂▃▄▅▆▇█"
_ROWS = [
    ("tokens/s generate", "tokens_per_s/generate", number),
    ("tokens/s learn", "tokens_per_s/learn", number),
    ("KL to reference", "kl", number),
    ("clip fraction", "clip_fraction", percent),
    ("entropy", "entropy", number),
    ("completion length", "completion_length/mean", number),
    ("truncated", "truncated_share", percent),
    ("log-prob difference", "logprob_difference/mean", number),
    ("... largest", "logprob_difference/max", number),
    ("grad norm", "grad_norm", number),
    ("failed samples", "failed_samples", number),
]
_IN_A_LINE = [
    ("reward", "reward/mean", number),
    ("kl", "kl", number),
    ("clip", "clip_fraction", percent),
    ("entropy", "entropy", number),
    ("length", "completion_length/mean", number),
    ("truncated", "truncated_share", percent),
    ("failed", "failed_samples", number),
]


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
        self._rewards: deque[float] = deque(maxlen=_HISTORY)
        self._step_seconds: deque[float] = deque(maxlen=_STEPS_FOR_ETA)
        self._heldout: list[tuple[int, dict[str, float]]] = []
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
        if math.isfinite(reward := metrics.get("reward/mean", math.nan)):
            self._rewards.append(reward)
        if "time/step" in metrics:
            self._step_seconds.append(metrics["time/step"])
        if not self._live:
            parts = [f"step {step}/{self._total}"]
            parts += [
                f"{label} {show(metrics[k])}" for label, k, show in _IN_A_LINE if k in metrics
            ]
            if "time/step" in metrics:
                parts.append(duration(metrics["time/step"]))
            self._print("  ".join([*parts, f"ETA {self._eta()}"]))

    def heldout(self, step: int, metrics: dict[str, float]) -> None:
        self._heldout.append((step, dict(metrics)))
        self._print(f"held-out after step {step}: {_heldout_text(metrics)}")

    def notice(self, text: str) -> None:
        """A line that stays: above the panel, or among the plain lines."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._output.print(Text(text), soft_wrap=True)

    def _eta(self) -> str:
        if not self._step_seconds:
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
        if self._rewards and not self._output.options.ascii_only:
            fitting = list(self._rewards)[-max(self._output.width - 12, 1) :]
            parts.append(Text(f"reward {sparkline(fitting)}", style="green"))
        for step, metrics in self._heldout[:1] + self._heldout[1:][-1:]:
            parts.append(Text(f"held-out after step {step}: {_heldout_text(metrics)}"))
        numbers, times = self._numbers(), self._times()
        if self._output.width >= _WIDE:
            side_by_side = Table.grid(padding=(0, 4), expand=False)
            side_by_side.add_row(numbers, times)
            parts.append(side_by_side)
        else:
            parts += [numbers, times]
        elapsed = duration(now - self._began)
        title = f"step {self._done}/{self._total}  {elapsed}  ETA {self._eta()}"
        return Panel(Group(*parts), title=Text(title), title_align="left")

    def _numbers(self) -> Table:
        known = self._metrics
        table = _numeric_table(2)
        if "reward/mean" in known:
            table.add_row("reward", Text(number(known["reward/mean"]), style="bold green"))
        for name, value in known.items():
            if name.startswith("reward/") and name not in ("reward/mean", "reward/std"):
                table.add_row(Text("  " + name.removeprefix("reward/")), number(value))
        for label, name, show in _ROWS:
            if name in known:
                table.add_row(label, show(known[name]))
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
