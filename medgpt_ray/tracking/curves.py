"""The curves of the report as inline SVG. Colours are CSS variables, so they follow dark mode.

Texts that come from a run (names of rewards) stay outside, in the legend that the template writes.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medgpt_ray.tracking.format import number, percent
from medgpt_ray.tracking.metrics import Record

_COLOURS = 8
_FEW = 40
"""Up to this many points, each one is marked."""
_MANY = 400
"""More points than a picture has room for."""
# Matplotlib wants true colours: these stand for the variables of the style sheet and are replaced.
_INK, _GRID = "#0000ee", "#0000ef"
_VARIABLES = {_INK: "var(--soft)", _GRID: "var(--line)"} | {
    f"#0000c{i}": f"var(--c{i})" for i in range(_COLOURS)
}


@dataclass(frozen=True)
class Line:
    """`values[i]` at `steps[i]`; NaN leaves a gap. `low` and `high` make points with error bars."""

    name: str
    steps: list[float]
    values: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


@dataclass(frozen=True)
class Chart:
    """A picture, and in the legend for each line its name, colour number and last value."""

    title: str
    svg: str
    legend: list[tuple[str, int, str]]


def line(records: Sequence[Record], name: str, metric: str) -> Line:
    """A metric over the steps that have it."""
    known = [(record["step"], record[metric]) for record in records if metric in record]
    return Line(name, [step for step, _ in known], [value for _, value in known])


def thinned(line: Line) -> tuple[Line, int]:
    """A line of many points as means over so many of them each; of few points as it is, and 1."""
    size = math.ceil(len(line.steps) / _MANY)
    if size < 2:
        return line, 1
    starts = range(0, len(line.steps), size)
    steps = [fmean(line.steps[start : start + size]) for start in starts]
    groups = [list(filter(math.isfinite, line.values[i : i + size])) for i in starts]
    return Line(line.name, steps, [fmean(group) if group else math.nan for group in groups]), size


def chart(
    title: str,
    lines: Sequence[Line],
    show: Callable[[float], str] = number,
    stacked: bool = False,
) -> Chart | None:
    """None where no line has a finite value. `show` writes the values of the legend."""
    lines = [line for line in lines if any(math.isfinite(value) for value in line.values)]
    if not lines:
        return None
    legend = [(line.name, i % _COLOURS, show(line.values[-1])) for i, line in enumerate(lines)]
    # Text as text, in the page's font; the salt gives each picture ids of its own, the same always.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure = Figure(figsize=(4.6, 2.3), layout="constrained")
        axes = figure.add_subplot()
        _style(axes)
        if stacked:
            _draw_areas(axes, lines)
        else:
            _draw_lines(axes, lines)
        steps = {step for line in lines for step in line.steps}
        if len(steps) == 1:  # else the axis zooms into fractions of it
            axes.set_xlim(min(steps) - 1, max(steps) + 1)
        if show is percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        return Chart(title, _svg(figure), legend)


def _draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    for i, line in enumerate(lines):
        colour = f"#0000c{i % _COLOURS}"
        if line.low is not None and line.high is not None:
            below = [value - low for value, low in zip(line.values, line.low, strict=True)]
            above = [high - value for value, high in zip(line.values, line.high, strict=True)]
            axes.errorbar(
                line.steps,
                line.values,
                yerr=[below, above],
                fmt="o",
                color=colour,
                markersize=5,
                capsize=3,
                zorder=3,
            )
        else:
            marker = "o" if len(line.steps) <= _FEW else None
            axes.plot(line.steps, line.values, color=colour, linewidth=1.5, marker=marker, ms=2.5)


def _draw_areas(axes: Axes, lines: Sequence[Line]) -> None:
    """Seconds of the phases on top of each other; steps without a phase count it as zero."""
    steps = sorted({step for line in lines for step in line.steps})
    rows = [dict(zip(line.steps, line.values, strict=True)) for line in lines]
    values = [[_finite(row.get(step, 0.0)) for step in steps] for row in rows]
    if len(steps) == 1:  # an area needs a width
        steps = [steps[0] - 0.4, steps[0] + 0.4]
        values = [row * 2 for row in values]
    colours = [f"#0000c{i % _COLOURS}" for i in range(len(lines))]
    axes.stackplot(steps, values, colors=colours, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.margins(x=0)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _style(axes: Axes) -> None:
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0, labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("step", color=_INK, fontsize=8)


def _svg(figure: Figure) -> str:
    text = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML declaration, which HTML does not have
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # figure_1, axes_1 ...: once in a page only
    return re.sub("|".join(_VARIABLES), lambda match: _VARIABLES[match[0]], svg)
