"""A folder of documents as an index: only files that are new or changed are read and embedded.

The work is done on a copy that replaces the index by a rename: a build that is killed or refused
leaves the index as it was, and whoever has it open goes on reading the old one.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from medgpt_ray.lock import alone
from medgpt_ray.retrieval import readers
from medgpt_ray.retrieval.blocks import Block, Remark
from medgpt_ray.retrieval.chunks import Chunk, chunks
from medgpt_ray.retrieval.confidence import Calibration
from medgpt_ray.retrieval.embedding import Embedder
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.store import Facts, Store

FILE = "index.sqlite"
CHUNK_TOKENS = 256
_TEMPORARY = ".build-"
_MARKERS = 8
"""Tokens kept free for the marks of beginning and end, an instruction, and what joining adds."""


@dataclass(frozen=True)
class Report:
    """Paths relative to the folder, and the chunks in the index now."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    ignored: tuple[str, ...]
    """Files of a kind that is not read."""
    remarks: tuple[str, ...]
    """What was passed over in the files that were read now."""
    chunks: int


Progress = Callable[[str, int, int], None]
"""Called with path, chunks so far and chunks in all, before each file is embedded."""


def build(
    folder: Path, output: Path, embedder: Embedder, progress: Progress | None = None
) -> Report:
    """Make `output` the index of `folder`; raises `RetrievalError` with every file at fault."""
    hashes, ignored = _scan(folder)
    with _alone(output), tempfile.TemporaryDirectory(dir=output, prefix=_TEMPORARY) as temporary:
        working = Path(temporary) / FILE
        with closing(_working_copy(output / FILE, working, embedder)) as store:
            known = store.files()
            stale = [path for path, sha256 in hashes.items() if known.get(path) != sha256]
            removed = tuple(sorted(known.keys() - hashes.keys()))
            fresh, remarks = _read(folder, stale, embedder)
            done, total = 0, sum(map(len, fresh.values()))
            with store.write():
                for path in [*removed, *(path for path in stale if path in known)]:
                    store.remove(path)
                for path, found in fresh.items():
                    if progress:
                        progress(path, done, total)
                    vectors = embedder.embed_documents([chunk.searched for chunk in found])
                    done += store.add(path, hashes[path], zip(found, vectors, strict=True))
            count = len(store)
        if stale or removed:
            _replace(working, output / FILE)
    return Report(
        added=tuple(path for path in stale if path not in known),
        changed=tuple(path for path in stale if path in known),
        removed=removed,
        unchanged=tuple(path for path in hashes if path not in stale),
        ignored=tuple(ignored),
        remarks=tuple(remarks),
        chunks=count,
    )


def calibrate(output: Path, calibration: Calibration) -> None:
    """Keep in the index how its confidence is computed from now on."""
    with _alone(output), closing(Store.open(output / FILE, write=True)) as store:
        store.calibrate(calibration)


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Nobody else writes to the index; what a killed build left is cleared away."""
    output.mkdir(parents=True, exist_ok=True)
    with alone(output / ".lock", RetrievalError([f"{output}: another build is at work on it"])):
        for left in output.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(left)
        yield


def _scan(folder: Path) -> tuple[dict[str, str], list[str]]:
    """SHA-256 by path of the files that are read, and the paths of the others; no hidden ones."""
    if not folder.is_dir():
        raise RetrievalError([f"{folder}: not a directory"])
    hashes, ignored = dict[str, str](), list[str]()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or any(part.startswith((".", "~$")) for part in Path(name).parts):
            continue
        if path.suffix.lower() in readers.SUFFIXES:
            hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            ignored.append(_shown(name))
    if not hashes:
        raise RetrievalError([f"{folder}: no {', '.join(readers.SUFFIXES)} file in it"])
    return hashes, ignored


def _working_copy(index: Path, working: Path, embedder: Embedder) -> Store:
    facts = Facts(embedder.path, embedder.fingerprint, embedder.dimension)
    if not index.exists():
        return Store.create(working, facts)
    shutil.copyfile(index, working)
    store = Store.open(working, write=True)
    if store.facts.fingerprint != facts.fingerprint:
        store.close()
        reason = f"built with the embedding model {store.facts.embedding}, not {facts.embedding}"
        raise RetrievalError([f"{index.parent}: {reason}: name that one, or another --output"])
    return store


def _read(
    folder: Path, paths: list[str], embedder: Embedder
) -> tuple[dict[str, list[Chunk]], list[str]]:
    """The chunks of each file, and the remarks on them."""
    limit = min(CHUNK_TOKENS, embedder.max_tokens) - _MARKERS
    problems, remarks, found = list[str](), list[str](), dict[str, list[Chunk]]()
    for path in paths:
        if (shown := _shown(path)) != path:
            problems.append(f"{folder / shown}: its name is not UTF-8, rename it")
            continue
        try:
            parts = readers.read(folder / path)
        except RetrievalError as error:
            problems += error.problems
            continue
        remarks += [part.text for part in parts if isinstance(part, Remark)]
        blocks = [part for part in parts if isinstance(part, Block)]
        found[path] = list(chunks(blocks, embedder.count, limit))
        if not found[path]:
            problems.append(f"{folder / path}: no text in it")
    if problems:
        raise RetrievalError(problems)
    return found, remarks


def _shown(path: str) -> str:
    """With a backslash before each byte that is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _replace(source: Path, target: Path) -> None:
    """Rename, once the bytes are on the disk."""
    _sync(source)
    os.replace(source, target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
