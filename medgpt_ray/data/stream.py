"""Training rows as a stream of shuffled examples: Ray Data reads and tokenises while others learn.

Files are cut into segments of a few hundred rows. An epoch reads the segments in a seeded order, a
window of `shuffle_rows` rows at a time, and shuffles the examples of each window. Both orders
depend on the seed and the epoch alone. So the cursor is a handful of numbers, and a resumed run
reads from the start of its window, not of its data. At most a window is held in memory, whatever
the size of the data.
"""

import gc
import hashlib
import math
import os
import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
import ray.data

from medgpt_ray.data.examples import (
    Example,
    Recipe,
    Work,
    examples_of,
    renderer_of,
    tokenise,
)
from medgpt_ray.data.rejects import Rejects
from medgpt_ray.data.render import Renderer
from medgpt_ray.data.rows import DataError
from medgpt_ray.data.sources import SourceFiles

FETCH_S = 300.0
"""The longest that a task may wait for what it is to read."""
WINDOWS_AT_A_TIME = 128
"""Windows that one Ray Data execution reads; the next execution follows it, seconds later."""
MOST_WORKS_PER_TASK = 16


@dataclass
class Counts:
    """What became of the rows of one source so far."""

    rows: int = 0
    examples: int = 0
    rejected: int = 0
    held_out: int = 0
    near_duplicates: int = 0
    """Rows that differ from a validation row in case, punctuation or spaces only."""
    cut: int = 0
    """Conversations that lost their last turns."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> rows that are valid and do not fit."""


@dataclass
class Window:
    """Examples that are shuffled with each other. It begins with row `row` of work `work`."""

    epoch: int
    work: int
    row: int
    rows_before: int
    """Rows of the epoch in earlier windows."""
    counts: list[Counts]
    """Of everything before it."""
    rows: int = 0
    examples: list[Example] = field(default_factory=list)
    last: bool = False
    """The epoch ends with it."""

    @property
    def place(self) -> tuple[int, int, int]:
        return self.epoch, self.work, self.row


@dataclass(frozen=True, slots=True)
class Batch:
    """The examples of one update, and the share of the run done before and after it."""

    examples: list[Example]
    span: tuple[float, float]


class Stream:
    """Batches of a run in their order. Iterating moves the cursor; `state` and `restore` keep it.

    `steps` batches in all, repeating the data as needed, or those of `epochs` passes. Raises
    `DataError` for bad rows, as `rejects` decides, and when no row is left to train on.
    """

    def __init__(
        self,
        recipe: Recipe,
        sources: Sequence[SourceFiles],
        rejects: Rejects,
        *,
        examples_per_step: int,
        epochs: float,
        steps: int | None,
    ) -> None:
        self.recipe, self.sources, self.rejects = recipe, sources, rejects
        self.size, self.epochs, self.steps = examples_per_step, epochs, steps
        self.rows_per_epoch = sum(
            source.rows * configured.weight
            for configured, source in zip(recipe.data.train, sources, strict=True)
        )
        self.counts = [Counts() for _ in sources]
        self._window = Window(0, 0, 0, 0, deepcopy(self.counts))
        self._taken = 0
        self.done = 0
        """Batches so far."""
        self.progress = 0.0
        """Passes over the data so far."""

    def __iter__(self) -> Iterator[Batch]:
        examples = self._examples()
        while self.steps is None or self.done < self.steps:
            before = self._share()
            batch = list(islice(examples, self.size))
            if not batch:
                return
            self.done += 1
            yield Batch(batch, (before, self._share()))

    def _share(self) -> float:
        if self.steps is not None:
            return self.done / self.steps
        return min(self.progress / self.epochs, 1.0)

    def state(self) -> dict[str, Any]:
        """The cursor as JSON values. The window under way is read again from its start."""
        window = self._window
        return {
            "epoch": window.epoch,
            "work": window.work,
            "row": window.row,
            "rows_before": window.rows_before,
            "taken": self._taken,
            "done": self.done,
            "progress": self.progress,
            "counts": [asdict(counts) for counts in window.counts],
            "data": self._fingerprint(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; refuses that of other data or another way to read them."""
        if state["data"] != self._fingerprint():
            raise DataError(
                [
                    "data: the training files, or how they are read, differ from those of the "
                    "checkpoint: put them back, or choose another output_dir"
                ]
            )
        self.counts = [Counts(**counts) for counts in state["counts"]]
        self._window = Window(
            state["epoch"],
            state["work"],
            state["row"],
            state["rows_before"],
            deepcopy(self.counts),
        )
        self._taken, self.done = state["taken"], state["done"]
        self.progress = state["progress"]

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        recipe = self.recipe
        # A run that met a bad row may go on by leaving it out: those before it were all good.
        free = {"cpus": True, "on_bad_row": True, "max_bad_share": True}
        data = recipe.data.model_dump_json(exclude={**free, "validation": {"format"}})
        digest.update(f"{recipe.stage} {recipe.seed} {data}".encode())
        digest.update(repr([source.segments for source in self.sources]).encode())
        return digest.hexdigest()

    def _examples(self) -> Iterator[Example]:
        """Examples from the cursor on, which each one moves behind itself."""
        for window in self._windows():
            if window.place != self._window.place:
                self._taken = 0
            self._window = window
            random.Random(f"{self.recipe.seed}/{window.epoch}/{window.work}/{window.row}").shuffle(
                window.examples
            )
            while self._taken < len(window.examples):
                progress = self._progress(window, (self._taken + 1) / len(window.examples))
                if self.steps is None and progress > self.epochs + 1e-9:
                    return
                self._taken, self.progress = self._taken + 1, progress
                yield window.examples[self._taken - 1]
            self.progress = self._progress(window, 1.0)
            if window.last and not any(counts.examples for counts in self.counts):
                raise DataError([self._nothing_left()])

    def _progress(self, window: Window, share: float) -> float:
        if window.last and share == 1:
            return window.epoch + 1.0
        rows = window.rows_before + share * window.rows
        return window.epoch + min(rows / self.rows_per_epoch, 1.0)

    def _nothing_left(self) -> str:
        causes = [f"{self._total('rejected')} rows are bad"]
        causes += [f"{self._total('held_out')} are held out for validation"]
        for counts in self.counts:
            causes += [f"{count}: {reason}" for reason, count in counts.dropped.items()]
        return f"data.train: no row is left to train on ({'; '.join(causes)})"

    def _windows(self) -> Iterator[Window]:
        """Windows from the cursor's on, in the order of reading."""
        first = self._window
        window: Window | None = None
        before = first.rows_before
        for epoch, work, number, row, examples in self._rows(first.epoch, first.work, first.row):
            if window and (epoch != window.epoch or window.rows >= self.recipe.data.shuffle_rows):
                window.last = epoch != window.epoch
                before = 0 if window.last else before + window.rows
                yield self._checked(window)
                window = None
            if window is None:
                window = Window(epoch, work, number, before, deepcopy(self.counts))
            window.rows += row["rows"]
            window.examples += examples
            self._count(self.counts[row["source"]], row, examples)
        if window:
            window.last = True
            yield self._checked(window)

    def _checked(self, window: Window) -> Window:
        self.rejects.check(self._total("rejected"), self._total("rows"), whole=window.last)
        return window

    def _total(self, what: str) -> int:
        """A count of all sources together."""
        return sum(getattr(counts, what) for counts in self.counts)

    def _count(self, counts: Counts, row: dict[str, Any], examples: list[Example]) -> None:
        counts.rows += row["rows"]
        counts.near_duplicates += row["near"]
        counts.held_out += row["held_out"]
        counts.cut += row["cut"]
        if row["problem"]:
            counts.rejected += 1
            self.rejects.add(row["place"], row["problem"], row["raw"])
        elif row["dropped"]:
            counts.dropped[row["dropped"]] = counts.dropped.get(row["dropped"], 0) + 1
        counts.examples += len(examples)

    def _rows(
        self, epoch: int, work: int, skip: int
    ) -> Iterator[tuple[int, int, int, dict[str, Any], list[Example]]]:
        """(epoch, work of the epoch, row of the work, the row, its examples), from the `skip`-th
        row of a work on."""
        renderer = ray.put(renderer_of(self.recipe.tokenizer, self.recipe.data))
        while leg := self._leg(epoch, work):
            works = [order[number] for _, number, order in leg]
            at, row_number = 0, 0
            for table in read_and_tokenise(self.recipe, renderer, works):
                for row, examples in examples_of(table, self.recipe.paired):
                    if row["work"] != at:
                        at, row_number = row["work"], 0
                    if at or row_number >= skip:
                        yield leg[at][0], leg[at][1], row_number, row, examples
                    row_number += 1
            epoch, work, skip = leg[-1][0], leg[-1][1] + 1, 0

    def _leg(self, epoch: int, work: int) -> list[tuple[int, int, list[Work]]]:
        """(epoch, number, all works of the epoch) of the next works that are read together.

        Ray Data reads as far ahead as memory lets it, beside the learners: so some windows, or
        what the steps to come can use, up to where a window or the epoch ends, and one work more,
        whose first row tells that.
        """
        window = self.recipe.data.shuffle_rows
        needed = math.inf if self.steps is None else self._rows_for(self.steps - self.done)
        leg: list[tuple[int, int, list[Work]]] = []
        rows, enough = 0.0, False
        for item in self._works(epoch, work):
            leg.append(item)
            if enough:
                break
            _, number, order = item
            rows += self._rows_in(order[number])
            epoch_ends = number == len(order) - 1
            wanted = min(WINDOWS_AT_A_TIME * window, needed if epoch_ends else needed + window)
            enough = rows >= wanted
        return leg

    def _rows_for(self, steps: int) -> float:
        """About how many rows steps use up, by how many examples the rows so far have made."""
        examples = self._total("examples")
        return steps * self.size * (self._total("rows") / examples if examples else 1.0)

    def _works(self, epoch: int, work: int) -> Iterator[tuple[int, int, list[Work]]]:
        """(epoch, number, all works of the epoch) from one work on, endless for a run of steps."""
        while self.steps is not None or epoch < self.epochs:
            order = self._order(epoch)
            yield from ((epoch, number, order) for number in range(work, len(order)))
            epoch, work = epoch + 1, 0

    def _rows_in(self, work: Work) -> float:
        """About how many rows a work has; files that only reading counts are segments of their
        own."""
        source, rows = self.sources[work.source], work.segment.rows
        return work.share * (source.rows / len(source.segments) if rows is None else rows)

    def _order(self, epoch: int) -> list[Work]:
        """All works of one epoch, shuffled. A source of weight 2.3 is there twice, and 0.3 of its
        rows once more."""
        works = []
        for number, source in enumerate(self.sources):
            weight = self.recipe.data.train[number].weight
            shares = [1.0] * int(weight) + ([weight % 1] if weight % 1 else [])
            works += [
                Work(segment, reading, number, epoch, share)
                for share in shares
                for segment, reading in source.segments
            ]
        random.Random(f"{self.recipe.seed}/{epoch}").shuffle(works)
        return works


def read_and_tokenise(
    recipe: Recipe, renderer: "ray.ObjectRef[Renderer]", works: Sequence[Work]
) -> Iterator[pa.Table]:
    """Tables of `tokenise` in the order of `works`, made ahead by Ray Data."""
    shared = ray.put((recipe, list(works)))

    def task(batch: pa.Table) -> Iterator[pa.Table]:
        recipe, works = ray.get(shared, timeout=FETCH_S)
        for start, end in zip(batch["start"].to_pylist(), batch["end"].to_pylist(), strict=True):
            for number in range(start, end):
                yield from tokenise(works[number], number, recipe, _fetched(renderer))

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    tasks = tasks_of(len(works))
    dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    cpus = min(1.0, recipe.data.cpus)
    made = dataset.map_batches(task, batch_format="pyarrow", batch_size=None, num_cpus=cpus)
    yield from made.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=2)


def tasks_of(works: int) -> list[dict[str, int]]:
    """Works `start` to `end` (exclusive) of each task: few in the first, for the first rows to come
    soon, then more, as Ray Data takes up to 0.2 s to start another task, and few again in the last,
    for all processes to end together."""
    tasks: list[dict[str, int]] = []
    end = 0
    while end < works:
        start, share = end, math.ceil((works - end) / 4)
        size = min(2 ** (len(tasks) // 2), share, MOST_WORKS_PER_TASK)
        end = min(start + size, works)
        tasks.append({"start": start, "end": end})
    return tasks


@lru_cache(maxsize=1)
def _fetched(renderer: "ray.ObjectRef[Renderer]") -> Renderer:
    """The renderer of this process, which is set up for it: to be handed one spares the import of
    torch, with which transformers opens a tokenizer."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a task has one CPU
    made: Renderer = ray.get(renderer, timeout=FETCH_S)
    # Or the collector would take a quarter of the time: it looks through the libraries' objects
    # again and again, and through those of each few rows, which end by themselves.
    gc.freeze()
    gc.set_threshold(100_000)
    return made
