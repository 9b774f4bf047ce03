"""Numbers and names as people read them, the same in the terminal and in the report."""

import math
from pathlib import Path


def number(value: float) -> str:
    """Three significant digits: `0.412`, `41.3`, `1,234`, `2.1e-05`."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if round(size) >= 1000:
        return f"{value:,.0f}"
    if value == int(value):
        return f"{int(value)}"
    if size < 0.001:
        return f"{value:.1e}"
    return f"{value:.3f}" if 0.1 <= size < 1 else f"{value:.3g}"


def data_name(path: str) -> str:
    """Of a file or a data set of the hub, without folders of this machine."""
    hub = path.startswith("hf:") and path[3:4] not in ("/", ".", "~")
    return path if hub else Path(path).name


def percent(value: float) -> str:
    """A share: `0.3%`, `42%`."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.1%}" if 0 < abs(value) < 0.1 else f"{value:.0%}"


def duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `4m 05s`, `3h 07m`."""
    if not math.isfinite(seconds):
        return "not finite"
    if seconds == 0:
        return "0 s"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"
