"""Files as blocks, by the kind of file."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from medgpt_ray.retrieval.blocks import Block, Remark

_MODULES = {
    ".docx": "word",
    ".jsonl": "jsonl",
    ".markdown": "markdown",
    ".md": "markdown",
    ".pdf": "pdf",
    ".txt": "text",
}
SUFFIXES = tuple(_MODULES)


def read(path: Path) -> list[Block | Remark]:
    """What is in a file with one of `SUFFIXES`; raises `RetrievalError` that names the file."""
    module = import_module(f"{__name__}.{_MODULES[path.suffix.lower()]}")
    reader: Callable[[Path], Iterator[Block | Remark]] = module.read
    return list(reader(path))
