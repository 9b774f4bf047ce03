"""The index on disk: one SQLite file with the chunks, BM25 (FTS5) and the vectors (sqlite-vec).

One file means that text, terms and vectors cannot disagree, and that one rename replaces them all.
Vectors are searched exactly. `apsw` brings an SQLite of its own: the one that Python is linked with
often cannot load extensions.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import apsw
import numpy as np
import numpy.typing as npt
import sqlite_vec

from medgpt_ray.retrieval.blocks import Place
from medgpt_ray.retrieval.chunks import Chunk
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.terms import terms

FORMAT = 1
"""Of the file and of what readers and chunker make; another number means: build anew."""

_SCHEMA = """
create table facts (name text primary key, value text not null) without rowid;
create table files (id integer primary key, path text not null unique, sha256 text not null);
create table chunks (id integer primary key, file integer not null references files, text text not null,
    heading text not null, first_page integer, first_line integer, last_page integer, last_line integer);
create index chunks_of_file on chunks (file);
create virtual table terms using fts5(terms, content='', contentless_delete=1, tokenize='porter unicode61');
create virtual table vectors using vec0(id integer primary key, vector float[{dimension}] distance_metric=cosine);
"""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Facts:
    """What an index was built with. `embedding` is the path or name of the model."""

    embedding: str
    fingerprint: str
    dimension: int
    format: int = FORMAT


class Found(NamedTuple):
    id: int
    score: float


class Store:
    """`Store.open` for reading, `Store.create` for a new file; `write` makes changes at once or not at all."""

    def __init__(self, connection: apsw.Connection, facts: Facts) -> None:
        self.facts = facts
        self._connection = connection

    @classmethod
    def create(cls, path: Path, facts: Facts) -> "Store":
        connection = _connect(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        with connection:
            connection.execute(_SCHEMA.format(dimension=facts.dimension))
            connection.executemany("insert into facts values (?, ?)", ((name, json.dumps(value)) for name, value in vars(facts).items()))
        return cls(connection, facts)

    @classmethod
    def open(cls, path: Path, write: bool = False) -> "Store":
        rebuild = "delete it and build the index anew"
        try:
            connection = _connect(path, apsw.SQLITE_OPEN_READWRITE if write else apsw.SQLITE_OPEN_READONLY)
            facts = dict(connection.execute("select name, value from facts"))
        except (apsw.NotADBError, apsw.CorruptError, apsw.SQLError) as error:
            raise RetrievalError([f"{path}: not an index ({error}), {rebuild}"]) from None
        values = {name: json.loads(value) for name, value in facts.items()}
        if values.get("format") != FORMAT:
            raise RetrievalError([f"{path}: of format {values.get('format')}, not {FORMAT}: {rebuild}"])
        return cls(connection, Facts(**values))

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def write(self) -> Iterator[None]:
        with self._connection:
            yield

    def files(self) -> dict[str, str]:
        """SHA-256 of every file in the index, by path."""
        return dict(self._connection.execute("select path, sha256 from files order by path"))

    def add(self, path: str, sha256: str, entries: Iterable[tuple[Chunk, Vector]]) -> int:
        run = self._connection.execute
        run("insert into files (path, sha256) values (?, ?)", (path, sha256))
        file, count = self._connection.last_insert_rowid(), 0
        for chunk, vector in entries:
            row = (file, chunk.text, json.dumps(chunk.heading, ensure_ascii=False), *chunk.first, *chunk.last)
            run("insert into chunks values (null, ?, ?, ?, ?, ?, ?, ?)", row)
            id = self._connection.last_insert_rowid()
            run("insert into terms (rowid, terms) values (?, ?)", (id, " ".join(terms(chunk.searched))))
            run("insert into vectors values (?, ?)", (id, vector.astype("<f4").tobytes()))
            count += 1
        return count

    def remove(self, path: str) -> None:
        run = self._connection.execute
        for table, key in (("terms", "rowid"), ("vectors", "id")):
            ids = [id for (id,) in run("select chunks.id from chunks join files on files.id = file where path = ?", (path,))]
            self._connection.executemany(f"delete from {table} where {key} = ?", ((id,) for id in ids))
        run("delete from chunks where file = (select id from files where path = ?)", (path,))
        run("delete from files where path = ?", (path,))

    def __len__(self) -> int:
        (count,) = next(iter(self._connection.execute("select count(*) from chunks")))
        return int(count)

    def chunk(self, id: int) -> tuple[str, Chunk]:
        """Path of the file, and the chunk."""
        columns = "path, text, heading, first_page, first_line, last_page, last_line"
        query = f"select {columns} from chunks join files on files.id = file where chunks.id = ?"
        path, text, heading, *places = next(iter(self._connection.execute(query, (id,))))
        return path, Chunk(text, tuple(json.loads(heading)), Place(*places[:2]), Place(*places[2:]))

    def by_terms(self, words: Sequence[str], count: int) -> list[Found]:
        """The best by BM25 of the chunks with any of `words`, best first; a larger score is better."""
        if not words:
            return []
        query = "select rowid, -rank from terms where terms match ? order by rank, rowid limit ?"
        rows = self._connection.execute(query, (" OR ".join(map(_quoted, words)), count))
        return [Found(*row) for row in rows]

    def by_vector(self, vector: Vector, count: int) -> list[Found]:
        """The nearest by cosine, best first."""
        query = "select id, 1 - distance from vectors where vector match ? and k = ? order by distance, id"
        return [Found(*row) for row in self._connection.execute(query, (vector.tobytes(), count))]

    def with_term(self, word: str) -> set[int]:
        query = "select rowid from terms where terms match ?"
        return {id for (id,) in self._connection.execute(query, (_quoted(word),))}


def _connect(path: Path, flags: int) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=flags)
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.enable_load_extension(False)
    return connection


def _quoted(word: str) -> str:
    return f'"{word}"'
