"""Versions of weights and indexes: digests of their files, so that equal names never hide other
content."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

_PATTERNS = ("*.safetensors", "*.json", "*.jinja")


def of_directory(directory: Path) -> str:
    """Twelve hex digits over every weight, configuration and template file of a model or adapter.

    It reads all of it: about a second a gigabyte, less than loading takes.
    """
    return _digest(directory, _PATTERNS)


def of_weights(directory: Path) -> str:
    """The same over the weights alone."""
    return _digest(directory, _PATTERNS[:1])


def of_index(directory: Path) -> str:
    """Of an index for retrieval."""
    return _digest(directory, ("*.sqlite",))


def broken(directory: Path) -> list[str]:
    """What is wrong with weight files that are cut off or none, by their heads."""
    problems = []
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, "np"):
                pass
        except (OSError, SafetensorError) as error:
            problems.append(f"{file}: broken weights file: {error}")
    return problems


def _digest(directory: Path, patterns: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for pattern in patterns for file in directory.glob(pattern)):
        with file.open("rb") as content:
            part = hashlib.file_digest(content, "sha256").digest()
        digest.update(file.name.encode() + b"\0" + part)
    return digest.hexdigest()[:12]
