"""`medgpt generate`: an answer to every row of a file, by any number of vLLM workers.

The input is cut into shards of consecutive rows, and the answers of a shard are committed as one
part of the output. Whenever this is killed, the same command goes on with the parts that are
missing: the output has the rows of the input in their order, each once.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medgpt_ray.actors.cluster import ray_cluster
from medgpt_ray.actors.generation import Engine, Generated, Shard, generate
from medgpt_ray.actors.wait import RunFailed
from medgpt_ray.config.schema import Cluster, Model
from medgpt_ray.data.requests import Request, render, requests
from medgpt_ray.data.rows import BadRow, DataError
from medgpt_ray.interrupt import Interrupted, noted
from medgpt_ray.models.load import (
    causal_config,
    inference_dtype,
    load_tokenizer,
    resolve_model,
    stop_token_ids,
)
from medgpt_ray.preflight_machine import local_gpus
from medgpt_ray.tracking.parts import Parts, PartsError


@dataclass(frozen=True)
class Settings:
    """What the answers depend on; those made with others are never mixed in."""

    system: str | None
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    dtype: str | None
    """None is `inference_dtype()`."""
    rows_per_shard: int


@dataclass(frozen=True)
class Fleet:
    """Who generates; no answer depends on it."""

    workers: int
    kv_cache_gib: float
    shard_s: float
    """A shard takes no longer, or the run ends."""


def run(model: str, file: str, output: str, settings: Settings, fleet: Fleet) -> int:
    """Write `output`, a .jsonl file of the rows of `file` with their answers; the exit status.

    Raises `DataError` with every bad row, or `ModelError`, before anything starts.
    """
    parts = Parts(_new_file(output))
    job = Job(model, file, settings)
    try:
        # Raised inside Ray's calls, an interrupt would come out as an error of theirs.
        with parts.opened(job.made_from()), noted() as signals:
            todo = parts.missing(job.shards)
            if todo:
                _generate(job, parts, todo, fleet, signals)
            parts.join(job.shards, job.rows)
    except PartsError as error:
        raise DataError([str(error)]) from None
    except (RunFailed, Interrupted) as stop:
        print(f"{type(stop).__name__}: {stop}", file=sys.stderr)
        print(f"the same command goes on from {parts.folder}", file=sys.stderr)
        return 130 if isinstance(stop, Interrupted) else 1
    return 0


def _new_file(output: str) -> Path:
    path = Path(output)
    if path.suffix != ".jsonl":
        raise DataError([f"--output: {path}: is no .jsonl file, which is what is written"])
    if path.exists():
        raise DataError([f"--output: {path}: exists, name a new file"])
    if not path.parent.is_dir():
        raise DataError([f"--output: {path.parent}: is no directory"])
    return path


class Job:
    """The rows of the input, read twice: to check all of them, and to hand them out."""

    def __init__(self, model: str, file: str, settings: Settings) -> None:
        self.file, self.settings = file, settings
        self.model = resolve_model(model)
        self.context = causal_config(Model(path=model)).max_position_embeddings
        self.tokenizer = load_tokenizer(model)
        self.rows = 0
        self.longest = 0
        """Tokens of the longest prompt."""
        self.digest = hashlib.sha256()
        self._check()

    @property
    def shards(self) -> int:
        return -(-self.rows // self.settings.rows_per_shard)

    def _check(self) -> None:
        """Render every row once, so that bad ones are told before anything starts."""
        problems: list[str] = []
        for request in requests(self.file, self.settings.system, problems):
            try:
                self.longest = max(self.longest, self._length(request))
            except BadRow as bad:
                problems.append(f"{request.place}: {bad}")
            self.rows += 1
            self.digest.update(json.dumps(request.row, default=str).encode())
        if problems:
            raise DataError(problems)

    def _length(self, request: Request) -> int:
        length, answer = len(render(self.tokenizer, request.messages)), self.settings.max_tokens
        if length + answer > self.context:
            raise BadRow(
                "",
                f"{length} tokens with {answer} of the answer are more than the model's "
                f"{self.context}: shorten the row, or lower --max-tokens",
            )
        return length

    def made_from(self) -> dict[str, Any]:
        """All that the answers depend on, as JSON values; weights by their names, sizes, times."""
        weights = {
            file.name: [file.stat().st_size, file.stat().st_mtime_ns]
            for file in sorted(self.model.glob("*.safetensors"))
        }
        return asdict(self.settings) | {
            "model": str(self.model.resolve()),
            "weights": weights,
            "chat template": self.tokenizer.chat_template,
            "input": self.digest.hexdigest(),
        }

    def chunks(self) -> Iterator[list[Request]]:
        """The rows of each shard."""
        problems: list[str] = []
        rows = requests(self.file, self.settings.system, problems)
        while chunk := list(islice(rows, self.settings.rows_per_shard)):
            yield chunk
        if problems:
            raise DataError(problems)  # the file has changed since it was checked

    def engine(self, fleet: Fleet) -> Engine:
        settings = self.settings
        return Engine(
            model=str(self.model),
            dtype=settings.dtype or inference_dtype(),
            max_model_len=self.longest + settings.max_tokens,
            stop_token_ids=tuple(stop_token_ids(str(self.model))),
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
            gpus=1.0 if local_gpus() else 0.0,
            threads=max(1, (os.cpu_count() or 1) // fleet.workers),
            kv_cache_gib=fleet.kv_cache_gib,
        )


def _generate(job: Job, parts: Parts, todo: set[int], fleet: Fleet, signals: list[int]) -> None:
    """Every part of `todo`, by as many workers as have something to do."""
    drawn: dict[int, list[Request]] = {}

    def shards() -> Iterator[Shard]:
        for number, chunk in enumerate(job.chunks()):
            if number in todo:
                drawn[number] = chunk
                bar.update(rows_done, description="rows")
                prompts = (render(job.tokenizer, request.messages) for request in chunk)
                yield Shard(number, tuple(prompts))

    def commit(shard: Shard, answers: list[Generated]) -> None:
        rows = drawn.pop(shard.number)
        parts.commit(shard.number, [_line(*pair) for pair in zip(rows, answers, strict=True)])
        bar.advance(rows_done, len(rows))

    def check() -> None:
        if signals:
            raise Interrupted(signals[0])

    workers = min(fleet.workers, len(todo))
    cluster = Cluster(cpus=max(workers, os.cpu_count() or 1))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    with bar, ray_cluster(cluster):
        each = job.settings.rows_per_shard
        done = sum(min(each, job.rows - each * n) for n in range(job.shards) if n not in todo)
        rows_done = bar.add_task("starting the engines", total=job.rows, completed=done)
        logs = str((parts.folder / "logs").resolve())
        generate(job.engine(fleet), workers, logs, shards(), commit, fleet.shard_s, check)


def _line(request: Request, answer: Generated) -> str:
    row = request.row | {
        "completion": answer.text,
        "finish_reason": answer.finish_reason,
        "completion_tokens": answer.tokens,
    }
    return json.dumps(row, ensure_ascii=False, default=str)  # Parquet has dates and bytes too
