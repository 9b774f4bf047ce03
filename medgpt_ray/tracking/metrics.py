"""`metrics.jsonl`, one JSON object a line, and the same numbers as TensorBoard event files."""

import json
import math
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from medgpt_ray.tracking.rundir import RunDirectory, write_atomically

Record = dict[str, float]
"""`step`, `time` (seconds since 1970) and the metrics, such as `reward/mean`. NaN: not finite."""


class MetricsError(Exception):
    """A metrics file that cannot be read, with the line."""


class MetricsLog:
    """Appends to the metrics of a run. A record is on its way to the disk when `log` returns.

    `resume_after`: none for a new run (FileExistsError if it has metrics already); else the step of
    the checkpoint that the run continues from (-1: from the start). Records of later steps are
    dropped, so that none is there twice, and so is a line that a killed process left half-written.
    """

    def __init__(self, rundir: RunDirectory, tensorboard: bool, resume_after: int | None) -> None:
        if resume_after is not None:
            _drop_after(rundir.metrics, resume_after)
        self._file = rundir.metrics.open("x" if resume_after is None else "a", encoding="utf-8")
        self._events = EventFileWriter(str(rundir.tensorboard)) if tensorboard else None
        if self._events and resume_after is not None:
            # TensorBoard forgets events from this step on that earlier files hold.
            restart = SessionLog(status=SessionLog.START)
            self._events.add_event(
                Event(wall_time=time.time(), step=resume_after + 1, session_log=restart)
            )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        now = time.time()
        self._file.write(_line({"step": step, "time": round(now, 3), **metrics}))
        self._file.flush()
        if self._events:
            values = [
                Summary.Value(tag=name, simple_value=float(value))
                for name, value in metrics.items()
            ]
            self._events.add_event(Event(wall_time=now, step=step, summary=Summary(value=values)))
            self._events.flush()

    def close(self) -> None:
        self._file.close()
        if self._events:
            self._events.close()


def read_metrics(path: Path) -> list[Record]:
    """All complete records in the order they were written; no file: none.

    A last line cut off by a kill is left out; any other line that is no record raises MetricsError.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")  # what follows the last newline is a line cut off
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            read = json.loads(line)
            record = {k: math.nan if v is None else v for k, v in read.items()}
        except (ValueError, AttributeError) as error:
            if number < len(lines):
                raise MetricsError(f"{path}:{number}: not a metrics record: {error}") from error
            break
        if not isinstance(record.get("step"), int):
            raise MetricsError(f"{path}:{number}: not a metrics record: has no step")
        for name, value in record.items():
            if not isinstance(value, int | float):
                raise MetricsError(f"{path}:{number}: {name} is no number: {value!r:.100}")
        records.append(record)
    return records


def _drop_after(path: Path, step: int) -> None:
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    write_atomically(path, "".join(map(_line, kept)))


def _line(record: Record) -> str:
    """JSON has no NaN and no infinity: both become null."""
    finite = {k: v if isinstance(v, int) else float(v) for k, v in record.items()}
    return json.dumps({k: v if math.isfinite(v) else None for k, v in finite.items()}) + "\n"
