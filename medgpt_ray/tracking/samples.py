"""Samples as parquet, one row each, for people and for other programs; nothing is lost on the way.

`prompt` and `completion` are the texts to look at; `messages` and `row` hold the rest of the prompt
as JSON. A reward part has a column of its own, null where that function gave no score.
"""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medgpt_ray.tracking.rundir import write_atomically
from medgpt_ray.types import Completion, Prompt, RewardFailure, Sample, VersionSpan

_PART = "reward/"
_SPAN = pa.struct([("version", pa.int64()), ("start", pa.int64()), ("end", pa.int64())])
_STRETCH = pa.struct([("start", pa.int64()), ("end", pa.int64())])
_FAILURE = pa.struct([("function", pa.string()), ("error", pa.string())])
_COLUMNS = [
    ("prompt_id", pa.string()),
    ("index", pa.int64()),
    ("prompt", pa.string()),
    ("completion", pa.string()),
    ("finish_reason", pa.string()),
    ("reward", pa.float64()),
    ("advantage", pa.float64()),
    ("failure", _FAILURE),
    ("versions", pa.list_(_SPAN)),
    ("observed", pa.list_(_STRETCH)),
    ("token_ids", pa.list_(pa.int32())),
    ("log_probs", pa.list_(pa.float64())),
    ("prompt_token_ids", pa.list_(pa.int32())),
    ("messages", pa.string()),
    ("row", pa.string()),
]


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write the file atomically."""
    parts = list(dict.fromkeys(name for sample in samples for name in sample.reward_parts))
    schema = pa.schema(_COLUMNS + [(_PART + name, pa.float64()) for name in parts])
    table = pa.Table.from_pylist([_to_row(sample) for sample in samples], schema=schema)
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


class SamplesError(ValueError):
    """A file of samples in another form, or damaged."""


def read_samples(path: Path) -> list[Sample]:
    """The samples as they were written, in order. `SamplesError` for another version's file, or a
    damaged one."""
    table = _table(path)
    if missing := [name for name, _ in _COLUMNS if name not in table.column_names]:
        raise SamplesError(f"{path}: of another version of medgpt, without {', '.join(missing)}")
    return [_from_row(row) for row in table.to_pylist()]


def read_failures(path: Path) -> list[RewardFailure]:
    """Only the failures of a file: reads three of its columns."""
    table = _table(path, ["prompt_id", "index", "failure"])
    return [_failure(row) for row in table.to_pylist() if row["failure"]]


def _table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        table = pq.read_table(path, columns=columns)
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise SamplesError(f"{path}: cannot be read: {reason}") from error


def last_user_message(prompt: Prompt) -> str:
    """What a reward function gets as `prompt`; empty where no user speaks."""
    users = [message["content"] for message in prompt.messages if message["role"] == "user"]
    return users[-1] if users else ""


def _to_row(sample: Sample) -> dict[str, Any]:
    prompt, completion, failure = sample.prompt, sample.completion, sample.failure
    return {
        "prompt_id": prompt.id,
        "index": completion.index,
        "prompt": last_user_message(prompt),
        "completion": completion.text,
        "finish_reason": completion.finish_reason,
        "reward": sample.reward,
        "advantage": sample.advantage,
        "failure": failure and {"function": failure.function, "error": failure.error},
        "versions": [
            {"version": span.version, "start": span.start, "end": span.end}
            for span in completion.versions
        ],
        "observed": [{"start": start, "end": end} for start, end in completion.observed],
        "token_ids": completion.token_ids,
        "log_probs": completion.log_probs,
        "prompt_token_ids": prompt.token_ids,
        "messages": json.dumps(prompt.messages, ensure_ascii=False),
        # of Parquet a row has dates and bytes too
        "row": json.dumps(prompt.row, ensure_ascii=False, default=str),
        **{_PART + name: score for name, score in sample.reward_parts.items()},
    }


def _from_row(row: dict[str, Any]) -> Sample:
    prompt = Prompt(
        id=row["prompt_id"],
        messages=tuple(json.loads(row["messages"])),
        token_ids=tuple(row["prompt_token_ids"]),
        row=json.loads(row["row"]),
    )
    completion = Completion(
        prompt_id=row["prompt_id"],
        index=row["index"],
        token_ids=tuple(row["token_ids"]),
        log_probs=tuple(row["log_probs"]),
        text=row["completion"],
        finish_reason=row["finish_reason"],
        versions=tuple(VersionSpan(**span) for span in row["versions"]),
        observed=tuple((part["start"], part["end"]) for part in row["observed"]),
    )
    parts = {
        name.removeprefix(_PART): score
        for name, score in row.items()
        if name.startswith(_PART) and score is not None
    }
    return Sample(
        prompt=prompt,
        completion=completion,
        reward_parts=parts,
        reward=row["reward"],
        advantage=row["advantage"],
        failure=_failure(row) if row["failure"] else None,
    )


def _failure(row: dict[str, Any]) -> RewardFailure:
    return RewardFailure(prompt_id=row["prompt_id"], index=row["index"], **row["failure"])
