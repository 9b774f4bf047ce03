"""Files of training data, found: which of what a path names are data, and of which kind.

What is wrong with a file raises `DataError`. `data.segments` reads them.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from medgpt_ray.data import hub
from medgpt_ray.data.rows import DataError
from medgpt_ray.tracking.rundir import file_sha256

Kind = Literal["json", "jsonl", "parquet", "txt", "hf"]

SUFFIXES: dict[str, Kind] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".txt": "txt",
}
TABLES = (".csv", ".tsv", ".xlsx", ".arrow", ".feather")
ARCHIVES = (".xz", ".bz2", ".lz4", ".zip")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
KNOWN = ".json, .jsonl (or .ndjson), .txt (each also with .gz or .zst) and .parquet"
_SPLIT = r"(?P<split>train(?:ing)?|test|validation|valid|val|dev|eval(?:uation)?)"
SPLITS = re.compile(
    rf"(?:^|.*[-_.]){_SPLIT}"
    r"(?:[-_.]?(?:set|split|data|merged?|sft|gen|prefs|zh|en|cn|of|v?\d+|[0-9a-f]{6,}))*"
    r"(?:\.[a-z.]+)?",
    re.IGNORECASE,
)
"""Names of files and folders of one split: train.jsonl, medqa_test.json, valid_zh_0.json,
train-00000-of-00001-1f2e3d4c.parquet."""
SIBLINGS = re.compile(rf"{_SPLIT}(?=[-_.])", re.IGNORECASE)
"""Begins names that are splits of one another if the rest is the same: test_encyclopedia.json."""
NO_DATA = re.compile(
    r"(?:readme|licen[cs]e|notice|changelog|requirements|citation)(?:\.txt)?"
    r"|(?:dataset_infos?|dataset_dict)\.json",
    re.IGNORECASE,
)
"""Names of files that stand beside data in a folder and hold none."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file, or one split of a Hugging Face data set."""

    path: str
    """Of a data set `hf:NAME:SPLIT`."""
    kind: Kind
    compression: str | None = None
    """gzip or zstd."""


def find(path: str) -> list[DataFile]:
    """The data files that `path` names, in the order of their names.

    A directory is searched to its depth without hidden files. Files that hold no data are skipped
    there and in the matches of a glob, and an error where they are named; data that is not read,
    such as .csv, is an error anywhere. A file that is there by several links is read once.
    """
    if "://" in path:
        hint = "download it, or name a data set of the hub as hf:NAME"
        raise DataError([f"{path}: addresses are not read: {hint}"])
    if path.startswith("hf:"):
        return [DataFile(hub.split_of(path), "hf")]
    path = os.path.expanduser(path)
    with faults(path):
        if Path(path).is_dir():
            files = _below(Path(path))
        elif Path(path).exists():
            if not (file := data_file(path)):
                raise DataError([f"{path}: unknown kind of file, expected {KNOWN}"])
            return [file]
        elif glob.has_magic(path):
            matches = (Path(match) for match in sorted(glob.glob(path, recursive=True)))
            files = [file for match in matches for file in _below(match)]
        else:
            raise FileNotFoundError(path)
    if not files:
        raise DataError([f"{path}: no data files there, expected {KNOWN}"])
    unique: dict[str, DataFile] = {}
    for file in files:
        unique.setdefault(os.path.realpath(file.path), file)
    return list(unique.values())


def content_sha256(path: str) -> str:
    """Of a file, or of what `hf:NAME:SPLIT` holds."""
    return hub.sha256(path) if path.startswith("hf:") else file_sha256(Path(path))


def _below(path: Path) -> list[DataFile]:
    names = [path]
    if path.is_dir():
        names, seen = list[Path](), set[str]()
        for folder, folders, found in os.walk(path, onerror=_fail, followlinks=True):
            here = os.path.realpath(folder)
            folders[:] = [name for name in folders if not name.startswith(".")]
            if here in seen:  # a link to a folder that was read, or that it lies in
                folders.clear()
                continue
            seen.add(here)
            names += [Path(folder, name) for name in found if not name.startswith(".")]
    names = [name for name in sorted(names) if name.is_file()]
    problems = [
        f"{name}: is not read, expected {KNOWN}: convert it, or put it elsewhere"
        for name in names
        if _is_other_data(name)
    ]
    if problems:
        raise DataError(problems)
    names = [name for name in names if name == path or not NO_DATA.fullmatch(name.name)]
    return [file for name in names if (file := data_file(str(name)))]


def one_split(path: str, files: Iterable[DataFile]) -> None:
    """Raises `DataError` where a folder or a glob gives training files together with those of a
    test or validation split."""
    groups: dict[str, dict[str, str]] = {}
    for file in files:
        parts = Path(os.path.relpath(file.path, os.path.expanduser(path).partition("*")[0])).parts
        named = next((match for match in map(SPLITS.fullmatch, parts) if match), None)
        name = Path(file.path).name
        sibling = SIBLINGS.match(name)
        for match, group in ((named, ""), (sibling, name[sibling.end() :] if sibling else "")):
            if match:
                split = match["split"].lower()
                kind = "train" if split.startswith("train") else split
                groups.setdefault(group, {}).setdefault(kind, file.path)
    for found in groups.values():
        if "train" in found and len(found) > 1:
            shown = ", ".join(f"{split} ({example})" for split, example in found.items())
            raise DataError(
                [f"{path}: holds several splits: {shown}: name the files of the one that is meant"]
            )


def _is_other_data(path: Path) -> bool:
    """A table of another kind, or rows in an archive of another kind."""
    *_, inner, last = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    tables = (*TABLES, ".parquet")
    if last in ARCHIVES:
        return inner in SUFFIXES or inner in tables
    return last in TABLES or (last in COMPRESSIONS and inner in tables)


def _fail(error: OSError) -> None:
    """A folder that cannot be read holds rows that would be missed."""
    raise error


def data_file(path: str) -> DataFile | None:
    """What the suffixes of a file's name say of it; none for a kind that is not known."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    inner = suffixes[-2:-1] if compression else suffixes[-1:]
    known = SUFFIXES.get(inner[0]) if inner else None
    if suffixes[-1:] == [".parquet"]:
        known = "parquet"
    if known and any("\ud800" <= character <= "\udfff" for character in path):
        raise DataError([f"{path!a}: its name is not UTF-8, rename it"])
    return DataFile(path, known, compression) if known else None


@contextmanager
def faults(path: str) -> Iterator[None]:
    """What goes wrong with the file inside, as a `DataError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise DataError([f"{path}: no such file (relative to {Path.cwd()})"]) from None
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        where = getattr(error, "filename", None) or path
        raise DataError([f"{where}: cannot be read: {reason}"]) from None
