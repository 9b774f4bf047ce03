"""Text files: in UTF-8, in UTF-16 as Windows writes it, or in GB18030 as older Chinese ones are."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from medgpt_ray.retrieval.blocks import Block, Place
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.readers import lines


def read(path: Path) -> Iterator[Block]:
    # Not splitlines: a form feed begins a page, and no line.
    text = decode(path).replace("\r\n", "\n").replace("\r", "\n")
    numbered = enumerate(text.split("\n"), start=1)
    return lines.blocks([(text, Place(line=number)) for number, text in numbered])


def decode(path: Path) -> str:
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "gb18030"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise RetrievalError([f"{path}: neither UTF-8, UTF-16 nor GB18030 text, convert it to UTF-8"])
