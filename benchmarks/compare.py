"""What all comparisons share: peak memory, rounds in alternation, the table."""

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

Result = dict[str, float]
Contender = Callable[[Path], Result]
"""Runs once in an empty folder, in processes of its own."""


class Peak:
    """Largest drop of the machine's available memory, looked at every half second, in GiB."""

    gib = 0.0

    def __enter__(self) -> "Peak":
        self._stop = threading.Event()
        before = _available_gib()

        def watch() -> None:
            while not self._stop.wait(0.5):
                self.gib = max(self.gib, before - _available_gib())

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)


def _available_gib() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(li for li in lines if li.startswith("MemAvailable")).split()[1]) / 2**20


def alternate(
    contenders: Mapping[str, Contender],
    rounds: int,
    tell: Callable[[dict[str, list[Result]]], None],
) -> None:
    """Each contender once a round; `tell` gets all results after each run."""
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            with tempfile.TemporaryDirectory() as folder, Peak() as peak:
                result = run(Path(folder))
            results[name].append({**result, "peak GiB": peak.gib})
            print(f"round {number + 1}  {name}: {results[name][-1]}", flush=True)
            tell(results)


def table(
    results: Mapping[str, Sequence[Result]], rate: str, pairs: Sequence[tuple[str, str]]
) -> str:
    """All columns, and of each pair (ours, the other) the ratio of `rate`, round by round."""
    columns = list(next(runs[0] for runs in results.values() if runs))
    lines = ["| contender | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, runs in results.items():
        if runs:
            cells = [cell([run[column] for run in runs]) for column in columns]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    for mine, other in pairs:
        both = zip(results.get(mine, ()), results.get(other, ()), strict=False)
        ratios = [a[rate] / b[rate] for a, b in both]
        if ratios:
            listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            lines.append(f"- {mine}: {mean(ratios):.2f} times {other} (rounds: {listed})")
    return "\n".join(lines) + "\n"


def today() -> str:
    return time.strftime("%Y-%m-%d")


def cell(values: list[float]) -> str:
    middle = f"{mean(values):.3g}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.3g}-{max(values):.3g})"
