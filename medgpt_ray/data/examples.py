"""From a segment of a data file to tokenised examples, as an Arrow table. Runs in Ray Data's tasks.

A row is read, checked, put on the training or the validation side, rendered and tokenised here;
whatever is wrong with it travels on as a row of the table, so that nothing is lost in silence.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import blake2b
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data.encoding import Tokenising
from medgpt_ray.data.formats import Reading, for_stage, parse
from medgpt_ray.data.render import Dropped, Renderer
from medgpt_ray.data.rows import BadRow, DataError, content_hash, near_hash
from medgpt_ray.data.segments import Record, Segment, read
from medgpt_ray.types import Labelled, Preference, Row

ROWS_PER_TABLE = 256
SCHEMA = pa.schema(
    [
        ("work", pa.int32()),
        ("source", pa.int32()),
        ("rows", pa.int32()),
        ("place", pa.string()),
        ("problem", pa.string()),
        ("raw", pa.string()),
        ("dropped", pa.string()),
        ("held_out", pa.bool_()),
        ("near", pa.bool_()),
        ("cut", pa.bool_()),
        ("value", pa.float32()),
        ("lengths", pa.list_(pa.int32())),
        ("ids", pa.list_(pa.int32())),
        ("trained", pa.list_(pa.bool_())),
    ]
)
"""`rows` is 0 for the second of two examples made from one row; `problem`, `dropped` or `held_out`
are for a row that is not trained on; `lengths` cuts `ids` and `trained` into sequences."""


@dataclass(frozen=True, slots=True)
class Work:
    """A segment in an epoch, of whose rows a share is drawn by a hash of seed, epoch and row."""

    segment: Segment
    reading: Reading
    source: int
    epoch: int
    share: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that turns a row into examples, the same for every row of a run."""

    stage: str
    data: SupervisedData
    tokenizer: str
    """Directory of the tokenizer, new tokens included."""
    seed: int
    validation: frozenset[bytes] = field(default=frozenset(), repr=False)
    """Content hashes of the rows of `data.validation.path`."""
    near_validation: frozenset[bytes] = field(default=frozenset(), repr=False)

    @property
    def paired(self) -> bool:
        """An example is two sequences, the chosen and the rejected."""
        return self.stage in ("rm", "dpo", "orpo")


@dataclass(frozen=True, slots=True)
class Example:
    """What is counted in `examples_per_step`: a sequence, or the two of a pair."""

    place: str
    """`file:line` of its row."""
    sequences: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Token ids [T] int32 and which of them are trained [T] bool, of each."""
    value: float
    """The margin of a pair, 1 or 0 for a labelled answer; NaN where there is none."""


def tokenise(work: Work, number: int, recipe: Recipe, renderer: Renderer) -> Iterator[pa.Table]:
    """The rows of a segment that this epoch draws; `number` goes into the column `work`."""
    drawn = (
        record
        for record in read(work.segment)
        if work.share == 1 or _drawn(f"{recipe.seed}/{work.epoch}/{record.place}", work.share)
    )
    works = (examples(record, work.reading, recipe, renderer) for record in drawn)
    rows: list[dict[str, Any]] = []
    for made in renderer.encoder.together(works):
        common = {"work": number, "source": work.source}
        rows += [one | common | {"rows": int(one is made[0])} for one in made]
        if len(rows) >= ROWS_PER_TABLE:
            yield pa.Table.from_pylist(rows, schema=SCHEMA)
            rows = []
    yield pa.Table.from_pylist(rows, schema=SCHEMA)


def examples(
    record: Record, reading: Reading, recipe: Recipe, renderer: Renderer
) -> Tokenising[list[dict[str, Any]]]:
    """The rows of `SCHEMA` that are made of a record, without which work it is of."""
    try:
        if isinstance(record.value, BadRow):
            raise record.value
        made = []
        for row in for_stage(parse(record.value, reading), recipe.stage):
            made.append((yield from _row(row, recipe, renderer)) | {"place": record.place})
        return made
    except BadRow as bad:
        if isinstance(record.value, BadRow):
            raw = record.value.raw
        else:  # Parquet has dates and bytes too
            raw = json.dumps(record.value, ensure_ascii=False, default=str)
        return [_empty() | {"place": record.place, "problem": str(bad), "raw": raw}]


def validation_rows(
    works: Sequence[Work], recipe: Recipe, everything: bool
) -> Iterator[tuple[Row, str]]:
    """Rows of the validation side with their `file:line`, in the order of the files.

    That is `everything` of a file of its own, where a bad row raises `DataError`; of training
    files it is the held-out share, and the training stream reports the bad rows.
    """
    for work in works:
        for record in read(work.segment):
            try:
                if isinstance(record.value, BadRow):
                    raise record.value
                rows = for_stage(parse(record.value, work.reading), recipe.stage)
            except BadRow as bad:
                if everything:
                    raise DataError([f"{record.place}: {bad}"]) from None
                continue
            for row in rows:
                if everything or held_out(row, recipe):
                    yield row, record.place


def held_out(row: Row, recipe: Recipe) -> bool:
    """True for the seeded share of rows, told by their content: equal rows are on one side, and
    so are the labelled answers to one prompt."""
    share = recipe.data.validation.share
    if isinstance(row, Labelled):
        row = replace(row, completion=(), desirable=True)
    return share > 0 and _drawn(f"{recipe.seed}/", share, content_hash(row))


def _row(row: Row, recipe: Recipe, renderer: Renderer) -> Tokenising[dict[str, Any]]:
    made = _empty()
    if recipe.near_validation:
        made["near"] = near_hash(row) in recipe.near_validation
    if recipe.validation and content_hash(row) in recipe.validation:
        raise BadRow("", "is a row of data.validation.path as well: remove it from one of them")
    if held_out(row, recipe):
        return made | {"held_out": True, "near": False}
    tokens = yield from renderer.tokenise(row)
    if isinstance(tokens, Dropped):
        return made | {"dropped": tokens.reason}
    return made | {
        "value": value_of(row),
        "cut": any(one.cut for one in tokens),
        "lengths": [len(one.ids) for one in tokens],
        "ids": list(chain.from_iterable(one.ids for one in tokens)),
        "trained": list(chain.from_iterable(one.trained for one in tokens)),
    }


def value_of(row: Row) -> float | None:
    if isinstance(row, Preference):
        return row.margin
    return float(row.desirable) if isinstance(row, Labelled) else None


def _empty() -> dict[str, Any]:
    return {"problem": "", "raw": "", "dropped": "", "held_out": False, "near": False, "cut": False}


@cache
def _tokenizer(directory: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


_RENDERERS: dict[tuple[str, str], Renderer] = {}


def renderer_of(tokenizer: str, data: SupervisedData) -> Renderer:
    """The renderer of this process, made once."""
    key = tokenizer, data.model_dump_json()
    if key not in _RENDERERS:
        _RENDERERS[key] = Renderer(_tokenizer(tokenizer), data)
    return _RENDERERS[key]


def _drawn(salt: str, share: float, content: bytes = b"") -> bool:
    """True for a seeded share of all contents."""
    digest = blake2b(salt.encode() + content, digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def examples_of(table: pa.Table, paired: bool) -> Iterator[tuple[dict[str, Any], list[Example]]]:
    """Each row of a table of `tokenise` without its tokens, and its examples."""
    small = table.drop_columns(["lengths", "ids", "trained"]).to_pylist()
    counts = pa.compute.fill_null(pa.compute.list_value_length(table["lengths"]), 0).to_pylist()
    lengths, ids, trained = (_values(table[name]) for name in ("lengths", "ids", "trained"))
    edges = pairwise([0, *np.cumsum(lengths).tolist()])
    sequences = ((ids[start:end], trained[start:end]) for start, end in edges)
    size = 2 if paired else 1
    for row, count in zip(small, counts, strict=True):
        value = float("nan") if row["value"] is None else row["value"]
        yield (
            row,
            [
                Example(row["place"], tuple(islice(sequences, size)), value)
                for _ in range(0, count, size)
            ],
        )


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """Of all lists of a column, one after the other; a missing list is an empty one."""
    return np.asarray(column.combine_chunks().flatten())
