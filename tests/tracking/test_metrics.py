import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medgpt_ray.tracking.metrics import MetricsError, MetricsLog, read_metrics
from medgpt_ray.tracking.rundir import RunDirectory


def written(rundir: RunDirectory, steps: range, resume_after: int | None = None) -> None:
    log = MetricsLog(rundir, tensorboard=True, resume_after=resume_after)
    for step in steps:
        log.log(step, {"reward/mean": step / 10, "kl": 0.5})
    log.close()


def test_a_record_is_on_disk_when_log_returns(rundir: RunDirectory) -> None:
    log = MetricsLog(rundir, tensorboard=False, resume_after=None)
    log.log(1, {"reward/mean": 0.25})
    (record,) = read_metrics(rundir.metrics)
    assert record["step"] == 1
    assert record["reward/mean"] == 0.25
    assert record["time"] > 1.6e9
    log.close()
    assert not rundir.tensorboard.exists()


def test_numbers_that_are_not_finite_keep_the_file_valid_json(rundir: RunDirectory) -> None:
    log = MetricsLog(rundir, tensorboard=True, resume_after=None)
    log.log(1, {"kl": math.nan, "loss": math.inf, "grad_norm": -math.inf, "entropy": 1.0})
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads(rundir.metrics.read_text(), parse_constant=refuse)
    assert line["kl"] is line["loss"] is line["grad_norm"] is None
    assert line["entropy"] == 1.0
    (record,) = read_metrics(rundir.metrics)
    assert all(math.isnan(record[name]) for name in ("kl", "loss", "grad_norm"))


def test_resume_drops_later_records_and_nothing_is_there_twice(rundir: RunDirectory) -> None:
    written(rundir, range(1, 6))
    written(rundir, range(4, 8), resume_after=3)
    assert [record["step"] for record in read_metrics(rundir.metrics)] == [1, 2, 3, 4, 5, 6, 7]


def test_resume_from_the_start_drops_everything(rundir: RunDirectory) -> None:
    written(rundir, range(3))
    written(rundir, range(1), resume_after=-1)
    assert [record["step"] for record in read_metrics(rundir.metrics)] == [0]


def test_resume_works_where_the_first_run_wrote_nothing(rundir: RunDirectory) -> None:
    written(rundir, range(1), resume_after=-1)
    assert len(read_metrics(rundir.metrics)) == 1


def test_resume_keeps_null_as_null(rundir: RunDirectory) -> None:
    rundir.metrics.write_text('{"step": 1, "time": 2.5, "kl": null}\n')
    written(rundir, range(2, 3), resume_after=1)
    first = rundir.metrics.read_text().splitlines()[0]
    assert json.loads(first) == {"step": 1, "time": 2.5, "kl": None}


def test_a_new_run_refuses_metrics_that_are_there(rundir: RunDirectory) -> None:
    written(rundir, range(1, 3))
    with pytest.raises(FileExistsError):
        MetricsLog(rundir, tensorboard=False, resume_after=None)
    assert len(read_metrics(rundir.metrics)) == 2


def test_a_half_written_last_line_is_dropped(rundir: RunDirectory) -> None:
    written(rundir, range(1, 4))
    whole = rundir.metrics.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(2, len(last)):
        rundir.metrics.write_bytes(whole[:-cut])
        assert [record["step"] for record in read_metrics(rundir.metrics)] == [1, 2]
    written(rundir, range(3, 5), resume_after=2)
    assert [record["step"] for record in read_metrics(rundir.metrics)] == [1, 2, 3, 4]


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(rundir: RunDirectory) -> None:
    rundir.metrics.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(MetricsError, match=r"metrics\.jsonl:2: not a metrics record"):
        read_metrics(rundir.metrics)


def test_no_file_has_no_records(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_tensorboard_shows_each_step_once_after_a_resume(rundir: RunDirectory) -> None:
    written(rundir, range(1, 6))
    written(rundir, range(4, 8), resume_after=3)
    assert len(list(rundir.tensorboard.iterdir())) == 2
    events = EventAccumulator(str(rundir.tensorboard)).Reload()
    assert sorted(events.Tags()["scalars"]) == ["kl", "reward/mean"]
    scalars = events.Scalars("reward/mean")
    assert [event.step for event in scalars] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.value for event in scalars] == pytest.approx([s / 10 for s in range(1, 8)])


KILLED = """
import sys
from medgpt_ray.tracking.metrics import MetricsLog
from medgpt_ray.tracking.rundir import RunDirectory
log = MetricsLog(RunDirectory(sys.argv[1]), tensorboard=True, resume_after=None)
for step in range(1, 1_000_000):
    log.log(step, {"reward/mean": 0.5, "kl": 0.1})
    print(step, flush=True)
"""


def test_kill_9_loses_no_record_that_was_logged(rundir: RunDirectory) -> None:
    command = [sys.executable, "-c", KILLED, str(rundir.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        told = [int(process.stdout.readline()) for _ in range(50)]
        os.kill(process.pid, signal.SIGKILL)
        told += [int(line) for line in process.stdout if line.endswith("\n")]
        process.wait(timeout=60)
    steps = [record["step"] for record in read_metrics(rundir.metrics)]
    assert steps[: len(told)] == told
    assert len(steps) - len(told) in (0, 1)
    written(rundir, range(31, 33), resume_after=30)
    assert [record["step"] for record in read_metrics(rundir.metrics)] == list(range(1, 33))
