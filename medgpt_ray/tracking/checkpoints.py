"""Checkpoints on disk: `step_N` is complete or not there at all.

Everything is written under a temporary name, flushed to the disk, listed with its size in
`manifest.json`, and renamed. Resume never sees a half-written one.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgpt_ray.config.supervised import SupervisedRun
from medgpt_ray.tracking.rundir import RunDirectory, by_step, write_atomically

MANIFEST = "manifest.json"


class Checkpoints:
    """The folder `checkpoints` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def complete(self) -> dict[int, Path]:
        """Step -> directory, ascending; what lacks a manifest or one of its files is left out."""
        return {step: path for step, path in by_step(self.folder).items() if _is_complete(path)}

    def latest(self) -> Path | None:
        complete = self.complete()
        return complete[max(complete)] if complete else None

    def told(self) -> str:
        """What a run that is broken off leaves, in words."""
        latest = self.latest()
        return f"the last checkpoint is {latest}" if latest else "there is no checkpoint yet"

    def scratch(self, step: int) -> Path:
        """Where the writers of a checkpoint put their files."""
        return self.folder / f".step_{step}.tmp"

    def begin(self, step: int) -> Path:
        """The scratch directory, made anew."""
        scratch = self.scratch(step)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        return scratch

    def commit(self, step: int, state: dict[str, Any], needed: Sequence[str] = ()) -> Path:
        """Make the scratch directory of `step` durable and give it its name.

        FileNotFoundError when one of the `needed` files is not in it: its writer sees another disk.
        """
        scratch = self.scratch(step)
        files = sorted(path for path in scratch.rglob("*") if path.is_file())
        for name in needed:
            if not (scratch / name).is_file():
                raise FileNotFoundError(
                    f"{scratch / name} was not written: output_dir must be on a disk that every "
                    "node of the cluster shares"
                )
        for path in (*files, *(path for path in scratch.rglob("*") if path.is_dir())):
            _flush(path)
        sizes = {str(path.relative_to(scratch)): path.stat().st_size for path in files}
        manifest = {"step": step, "state": state, "files": sizes}
        write_atomically(scratch / MANIFEST, json.dumps(manifest, indent=1))
        target = self.folder / f"step_{step}"
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
        _flush(self.folder)
        return target

    def discard(self, step: int) -> None:
        """Remove the scratch directory of a checkpoint that failed."""
        shutil.rmtree(self.scratch(step), ignore_errors=True)

    def why_no_room(self) -> str:
        """A sentence when the disk has less room than the latest checkpoint took, else nothing.

        Writers deep in a library fail on a full disk with errors that do not say so.
        """
        free = shutil.disk_usage(self.folder).free
        latest = self.latest()
        needed = _size(latest) if latest else 2**20
        if free >= needed:
            return ""
        return (
            f". No space left on device: {self.folder} has {free / 2**20:.0f} MiB free, and a "
            f"checkpoint takes about {needed / 2**20:.0f} MiB; free some, or lower "
            "checkpoint.keep_last"
        )

    def prune(self, keep_last: int, best: int | None) -> None:
        """Delete all but the newest `keep_last` and the `best` step."""
        complete = self.complete()
        keep = {*sorted(complete)[-keep_last:], best}
        for step, path in complete.items():
            if step not in keep:
                shutil.rmtree(path)
        for left_over in self.folder.glob(".step_*.tmp"):
            shutil.rmtree(left_over)


def published(run: RunDirectory) -> Path | None:
    """The checkpoint whose model is that of the run: where `patience` ends it the best, if it was
    kept, else the newest."""
    checkpoints = Checkpoints(run.checkpoints)
    latest, config = checkpoints.latest(), run.read_config()
    patient = isinstance(config, SupervisedRun) and config.data.validation.patience
    best = read_state(latest)["best"] if latest and patient else None
    return checkpoints.complete().get(best[1], latest) if best else latest


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The controller's state in a checkpoint's manifest."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    return dict(manifest["state"])


def _is_complete(path: Path) -> bool:
    if not (path / MANIFEST).is_file():
        return False
    sizes = json.loads((path / MANIFEST).read_text())["files"]
    return all(
        (path / name).is_file() and (path / name).stat().st_size == size
        for name, size in sizes.items()
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
