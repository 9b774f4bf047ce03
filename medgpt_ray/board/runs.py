"""The runs below a folder, read from their directories as they are now."""

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgpt_ray.config.loader import ConfigError, load
from medgpt_ray.config.schema import RlRun
from medgpt_ray.tracking import report_rl, report_supervised
from medgpt_ray.tracking.layouts import REINFORCEMENT, SUPERVISED
from medgpt_ray.tracking.metrics import MetricsError, Record, read_metrics
from medgpt_ray.tracking.page import Page
from medgpt_ray.tracking.rundir import RunDirectory
from medgpt_ray.tracking.samples import SamplesError

DEPTH = 3
"""Folders below the one that is shown: a pipeline keeps its runs in folders of its own."""
QUIET_SECONDS = 300
"""Without a sign for so long, a run that is not done counts as stopped."""
METRICS_SHOWN = 4


class RunUnreadable(Exception):
    """A file of a run that cannot be read, with the reason, in one line."""


@dataclass(frozen=True)
class Summary:
    """A line of the list of runs."""

    name: str
    stage: str
    model: str
    step: int
    total: int | None
    """None where the data decide how many there are."""
    state: str
    """`done`, `failed`, `running` (it wrote something lately) or `stopped`."""
    written: float
    """Seconds since 1970."""
    metrics: list[tuple[str, str]]
    failure: str
    """Why it failed, empty where it did not."""


class Runs:
    """Runs by name, which is their path below the folder. Files are read again when they change.

    What reads a run raises `RunUnreadable`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Hashable, tuple[Hashable, Any]] = {}
        self._drawing = threading.Lock()  # matplotlib's settings belong to the process

    def find(self) -> dict[str, RunDirectory]:
        """All runs, in the order of their names."""
        if not self.folder.is_dir():
            return {}
        if _holds_run(self.folder):
            return {self.folder.resolve().name: RunDirectory(self.folder)}
        found = _below(self.folder, DEPTH)
        return {str(path.relative_to(self.folder)): RunDirectory(path) for path in sorted(found)}

    def config(self, run: RunDirectory) -> Any:
        with _reading(run.config):
            return self._remembered(
                (run.path, "config"), _stamp(run.config), lambda: _config(run.config)
            )

    def records(self, run: RunDirectory) -> list[Record]:
        with _reading(run.metrics):
            return self._remembered(
                (run.path, "metrics"), _stamp(run.metrics), lambda: read_metrics(run.metrics)
            )

    def page(self, run: RunDirectory) -> Page:
        """What the report would show now: curves, alarms, held-out scores."""
        config, records = self.config(run), self.records(run)
        stage = report_rl if isinstance(config, RlRun) else report_supervised

        def draw() -> Page:
            with self._drawing:
                return stage.page(run, config, records)

        with _reading(run.path):
            stamp = (_stamp(run.metrics), _stamp(run.heldout), _stamp(run.samples))
            return self._remembered((run.path, "page"), stamp, draw)

    def summary(self, name: str, run: RunDirectory) -> Summary:
        config, records = self.config(run), self.records(run)
        layout = REINFORCEMENT if isinstance(config, RlRun) else SUPERVISED
        trained = [record for record in records if layout.main[1] in record]
        now = trained[-1] if trained else {}
        shown = [
            (label, show(now[metric]))
            for label, metric, show in (layout.main, *layout.line)
            if metric in now
        ]
        with _reading(run.failure):
            failure = run.read_failure()
        with _reading(run.path):
            written = max(_changed(run))
        return Summary(
            name=name,
            stage=config.algorithm.name if isinstance(config, RlRun) else config.stage,
            model=config.model.path,
            step=int(now.get("step", 0)),
            total=config.steps,
            state=_state(run, failure, written),
            written=written,
            metrics=shown[:METRICS_SHOWN],
            failure=failure,
        )

    def _remembered(self, key: Hashable, stamp: Hashable, make: Callable[[], Any]) -> Any:
        known = self._known.get(key)
        if known is None or known[0] != stamp:
            self._known[key] = known = (stamp, make())
        return known[1]


def _holds_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() and (path / "lineage.json").is_file()


def _below(folder: Path, depth: int) -> list[Path]:
    found = []
    for path in folder.iterdir():
        if path.is_symlink() or path.name.startswith(".") or not path.is_dir():
            continue
        if not os.access(path, os.R_OK | os.X_OK):  # somebody else's
            continue
        if _holds_run(path):
            found.append(path)
        elif depth > 1:
            with suppress(FileNotFoundError):  # deleted meanwhile
                found += _below(path, depth - 1)
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Makes `RunUnreadable` of what is wrong with `path` or, for a folder, with a file in it."""
    try:
        yield
    except OSError as error:
        raise RunUnreadable(f"{error.filename or path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RunUnreadable(f"{path}: is not UTF-8") from error
    except (ConfigError, MetricsError, SamplesError) as error:  # they name the file
        raise RunUnreadable("; ".join(str(error).splitlines())) from error


def _config(path: Path) -> Any:
    config = load(path).config
    if config.stage == "pipeline":
        raise ConfigError([f"{path}: of a pipeline, not of a run"])
    return config


def _stamp(path: Path) -> Hashable:
    """Changes with the content of a file, or with the entries of a folder."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _changed(run: RunDirectory) -> list[float]:
    logs = run.logs.iterdir() if run.logs.is_dir() else ()
    places = (run.metrics, run.samples, run.heldout, run.checkpoints, *logs)
    found = [run.config, *(place for place in places if place.exists())]
    return [place.stat().st_mtime for place in found]


def _state(run: RunDirectory, failure: str, written: float) -> str:
    if failure:
        return "failed"
    if run.finished:
        return "done"
    return "running" if time.time() - written < QUIET_SECONDS else "stopped"
