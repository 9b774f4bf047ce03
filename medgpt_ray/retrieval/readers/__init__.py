"""Files as blocks, by the kind of file."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from medgpt_ray.retrieval.blocks import Block

_MODULES = {
    ".docx": "word",
    ".jsonl": "jsonl",
    ".markdown": "markdown",
    ".md": "markdown",
    ".pdf": "pdf",
    ".txt": "text",
}
SUFFIXES = tuple(_MODULES)


def read(path: Path) -> list[Block]:
    """The blocks of a file with one of `SUFFIXES`; raises `RetrievalError` that names the file."""
    module = import_module(f"{__name__}.{_MODULES[path.suffix.lower()]}")
    reader: Callable[[Path], Iterator[Block]] = module.read
    return list(reader(path))
