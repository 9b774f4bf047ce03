import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medgpt_ray.tracking.samples import (
    SamplesError,
    last_user_message,
    read_failures,
    read_samples,
    write_samples,
)
from medgpt_ray.types import RewardFailure, Sample

MakeSample = Callable[..., Sample]
HOSTILE = [
    "<script>alert('x')</script>",
    "",
    "W" * 100_000,
    "布洛芬 🩺 جرعة",
    "line\nline\r\n\t\x00\x1b[31m",
    '{"json": "\\u0000"}',
]


def test_samples_come_back_as_they_were(tmp_path: Path, make_sample: MakeSample) -> None:
    samples = [make_sample(line, text=text, question=text) for line, text in enumerate(HOSTILE)]
    samples.append(make_sample(99, failure="ValueError: no number in 'x'"))
    write_samples(tmp_path / "step_1.parquet", samples)
    assert read_samples(tmp_path / "step_1.parquet") == samples
    assert [file.name for file in tmp_path.iterdir()] == ["step_1.parquet"]


def test_columns_are_what_a_reader_looks_for(tmp_path: Path, make_sample: MakeSample) -> None:
    file = tmp_path / "step_1.parquet"
    write_samples(file, [make_sample(1, reward=0.75), make_sample(2, failure="boom")])
    first, second = pq.read_table(file).to_pylist()
    assert first["prompt_id"] == "heldout.jsonl:1"
    assert first["index"] == 1
    assert first["prompt"] == "What is the dose?"
    assert first["completion"] == "5 mg"
    assert first["token_ids"] == [504, 7, 2]
    assert first["log_probs"] == [-0.1, -1 / 3, -1e-12]
    assert first["versions"][1] == {"version": 4, "start": 1, "end": 3}
    assert first["reward"] == first["reward/exact"] == 0.75
    assert first["advantage"] == -0.25
    assert first["finish_reason"] == "stop"
    assert first["failure"] is None
    assert second["reward/exact"] is None
    assert second["reward/brevity"] == 1.0
    assert second["failure"] == {"function": "scores:exact", "error": "boom"}


def test_failures_are_found(tmp_path: Path, make_sample: MakeSample) -> None:
    file = tmp_path / "step_1.parquet"
    write_samples(file, [make_sample(1), make_sample(2, reward=math.nan, failure="boom")])
    expected = RewardFailure("scores:exact", "heldout.jsonl:2", 1, "boom")
    assert read_failures(file) == [expected]


def test_a_step_without_samples_is_a_file_without_rows(tmp_path: Path) -> None:
    write_samples(tmp_path / "step_1.parquet", [])
    assert read_samples(tmp_path / "step_1.parquet") == []


def test_a_sample_that_cannot_be_written_keeps_the_old_file(
    tmp_path: Path, make_sample: MakeSample
) -> None:
    file = tmp_path / "step_1.parquet"
    write_samples(file, [make_sample(1)])
    unwritable = make_sample(2)
    endless: list[object] = []
    endless.append(endless)
    unwritable = replace(unwritable, prompt=replace(unwritable.prompt, row={"answer": endless}))
    with pytest.raises(ValueError, match="Circular"):
        write_samples(file, [unwritable])
    assert read_samples(file) == [make_sample(1)]
    assert list(tmp_path.iterdir()) == [file]


def test_the_last_user_message_counts(make_sample: MakeSample) -> None:
    prompt = make_sample(1).prompt
    later = (
        {"role": "assistant", "content": "5 mg"},
        {"role": "user", "content": "And at night?"},
        {"role": "assistant", "content": "None"},
    )
    assert last_user_message(replace(prompt, messages=prompt.messages + later)) == "And at night?"
    assert last_user_message(replace(prompt, messages=prompt.messages[:1])) == ""


def test_a_file_of_another_version_is_named(tmp_path: Path, make_sample: MakeSample) -> None:
    path = tmp_path / "step_1.parquet"
    write_samples(path, [make_sample(1)])
    pq.write_table(pq.read_table(path).drop_columns(["observed"]), path)
    with pytest.raises(SamplesError, match=r"step_1\.parquet: .* without observed"):
        read_samples(path)


def test_a_damaged_text_is_named(tmp_path: Path, make_sample: MakeSample) -> None:
    path = tmp_path / "step_1.parquet"
    write_samples(path, [make_sample(1)])
    table = pq.read_table(path)
    column = table.column_names.index("completion")
    text = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    pq.write_table(table.set_column(column, "completion", text), path)
    with pytest.raises(SamplesError, match=r"step_1\.parquet: cannot be read: .*UTF8"):
        read_samples(path)


def test_rows_of_parquet_have_dates(tmp_path: Path, make_sample: MakeSample) -> None:
    sample = make_sample(1)
    row = {**sample.prompt.row, "admitted": date(2026, 11, 28), "photo": b"x"}
    dated = replace(sample, prompt=replace(sample.prompt, row=row))
    write_samples(tmp_path / "step_1.parquet", [dated])
    (read,) = read_samples(tmp_path / "step_1.parquet")
    assert read.prompt.row == {**sample.prompt.row, "admitted": "2026-11-28", "photo": "b'x'"}
