"""The index on disk: one SQLite file with the chunks, BM25 (FTS5) and the vectors (sqlite-vec).

One file means that text, terms and vectors cannot disagree, and that one rename replaces them all.
Vectors are searched exactly. `apsw` brings an SQLite of its own: the one that Python is linked with
often cannot load extensions.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import numpy.typing as npt
import sqlite_vec

from medgpt_ray.retrieval.blocks import Place
from medgpt_ray.retrieval.chunks import Chunk
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.terms import terms

FORMAT = 2
"""Of the file and of what readers and chunker make; another number means: build anew."""

_SCHEMA = """
create table facts (name text primary key, value text not null) without rowid;
create table files (id integer primary key, path text not null unique, sha256 text not null);
create table chunks (
    id integer primary key, file integer not null references files,
    text text not null, heading text not null,
    first_page integer, first_line integer, last_page integer, last_line integer
);
create index chunks_of_file on chunks (file);
create virtual table terms using fts5(
    words, content='', contentless_delete=1, tokenize='porter unicode61'
);
create table words (word text primary key) without rowid;
create virtual table vectors using vec0(
    id integer primary key, vector float[{dimension}] distance_metric=cosine
);
"""

_SHORTEST_WORD = 5
"""That a misspelt one may stand for."""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Facts:
    """What an index was built with. `embedding` is the path or name of the model."""

    embedding: str
    fingerprint: str
    dimension: int
    calibration: tuple[float, ...] | None = None
    """Of `confidence.Calibration`, where the user made one."""
    format: int = FORMAT


class Store:
    """`open` for reading, `create` for a new file; changes within `write` are made all or none.

    Threads may read at once; one alone may write.
    """

    def __init__(self, connection: apsw.Connection, facts: Facts) -> None:
        self.facts = facts
        self._connection = connection
        self._reading = threading.Lock()
        """Of two threads on a connection, `apsw` refuses one now and then."""

    @classmethod
    def create(cls, path: Path, facts: Facts) -> "Store":
        connection = _connect(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        with connection:
            connection.execute(_SCHEMA.format(dimension=facts.dimension))
            rows = ((name, json.dumps(value)) for name, value in vars(facts).items())
            connection.executemany("insert into facts values (?, ?)", rows)
        return cls(connection, facts)

    @classmethod
    def open(cls, path: Path, write: bool = False) -> "Store":
        rebuild = "delete it and build the index anew"
        try:
            connection = _connect(
                path, apsw.SQLITE_OPEN_READWRITE if write else apsw.SQLITE_OPEN_READONLY
            )
            facts = dict(connection.execute("select name, value from facts"))
        except (apsw.NotADBError, apsw.CorruptError, apsw.SQLError) as error:
            raise RetrievalError([f"{path}: not an index ({error}), {rebuild}"]) from None
        values = {name: json.loads(value) for name, value in facts.items()}
        if values.get("format") != FORMAT:
            raise RetrievalError(
                [f"{path}: of format {values.get('format')}, not {FORMAT}: {rebuild}"]
            )
        return cls(connection, Facts(**values))

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def write(self) -> Iterator[None]:
        with self._connection:
            yield

    def files(self) -> dict[str, str]:
        """SHA-256 of every file in the index, by path."""
        return dict(self._read("select path, sha256 from files order by path"))

    def add(self, path: str, sha256: str, entries: Iterable[tuple[Chunk, Vector]]) -> int:
        run = self._connection.execute
        run("insert into files (path, sha256) values (?, ?)", (path, sha256))
        file, count = self._connection.last_insert_rowid(), 0
        for chunk, vector in entries:
            row = (
                file,
                chunk.text,
                json.dumps(chunk.heading, ensure_ascii=False),
                *chunk.first,
                *chunk.last,
            )
            run("insert into chunks values (null, ?, ?, ?, ?, ?, ?, ?)", row)
            id = self._connection.last_insert_rowid()
            run(
                "insert into terms (rowid, words) values (?, ?)",
                (id, " ".join(terms(chunk.searched))),
            )
            words = ((word,) for word in set(terms(chunk.searched)) if len(word) >= _SHORTEST_WORD)
            self._connection.executemany("insert or ignore into words values (?)", words)
            run("insert into vectors values (?, ?)", (id, vector.astype("<f4").tobytes()))
            count += 1
        return count

    def remove(self, path: str) -> None:
        run = self._connection.execute
        (file,) = self._ids("select id from files where path = ?", (path,))
        ids = [(id,) for id in self._ids("select id from chunks where file = ?", (file,))]
        self._connection.executemany("delete from terms where rowid = ?", ids)
        self._connection.executemany("delete from vectors where id = ?", ids)
        run("delete from chunks where file = ?", (file,))
        run("delete from files where id = ?", (file,))

    def calibrate(self, calibration: Sequence[float]) -> None:
        query = "update facts set value = ? where name = 'calibration'"
        self._connection.execute(query, (json.dumps(calibration),))

    def __len__(self) -> int:
        ((count,),) = self._read("select count(*) from chunks")
        return int(count)

    def chunk(self, id: int) -> tuple[str, Chunk]:
        """Path of the file, and the chunk."""
        columns = "path, text, heading, first_page, first_line, last_page, last_line"
        query = f"select {columns} from chunks join files on files.id = file where chunks.id = ?"
        ((path, text, heading, *places),) = self._read(query, (id,))
        return path, Chunk(text, tuple(json.loads(heading)), Place(*places[:2]), Place(*places[2:]))

    def by_terms(self, words: Sequence[str], count: int) -> list[int]:
        """The best by BM25 of the chunks with any of `words`, best first."""
        if not words:
            return []
        query = "select rowid from terms where terms match ? order by rank, rowid limit ?"
        return self._ids(query, (" OR ".join(map(_quoted, words)), count))

    def by_vector(self, vector: Vector, count: int) -> list[int]:
        """The nearest by cosine, nearest first."""
        query = "select id from vectors where vector match ? and k = ? order by distance"
        return self._ids(query, (vector.tobytes(), count))

    def cosines(self, vector: Vector, ids: Sequence[int]) -> dict[int, float]:
        marks = ", ".join("?" * len(ids))
        query = f"select id, 1 - vec_distance_cosine(vector, ?) from vectors where id in ({marks})"
        return dict(self._read(query, (vector.tobytes(), *ids)))

    def with_term(self, word: str) -> set[int]:
        """Ids of the chunks with `word`, in any of its forms."""
        return set(self._ids("select rowid from terms where terms match ?", (_quoted(word),)))

    def words_like(self, word: str) -> list[str]:
        """Words that begin as `word` does and are at most one letter shorter or longer. Files that
        were removed may have had them alone."""
        query = """select word from words where word >= ? and word < ? || char(1114111)
            and abs(length(word) - length(?)) <= 1"""
        return [found for (found,) in self._read(query, (word[0], word[0], word))]

    def _ids(self, query: str, values: Sequence[object]) -> list[int]:
        return [id for (id,) in self._read(query, values)]

    def _read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._reading:
            return list(self._connection.execute(query, tuple(values)))


def _connect(path: Path, flags: int) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=flags)
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.enable_load_extension(False)
    return connection


def _quoted(word: str) -> str:
    return f'"{word}"'
