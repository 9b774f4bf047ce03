"""PDF files: the text layer, page by page. A paragraph or sentence may go on over a page break."""

import re
from collections.abc import Iterator
from pathlib import Path

from pypdf import PdfReader

from medgpt_ray.retrieval.blocks import Block, Place, Remark
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.readers import lines

_PAGE_NUMBER = re.compile(r"\W*(page\s*|第\s*)?\d+(\s*(/|of)\s*\d+)?(\s*页)?\W*$", re.I)
_HYPHEN = re.compile(r"(?<=[a-z])-$")


def read(path: Path) -> Iterator[Block | Remark]:
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise RetrievalError([f"{path}: encrypted, decrypt it first: qpdf --decrypt IN OUT"])
        pages = [_whole(page.extract_text()) for page in reader.pages]
        pictures = [
            number
            for number, page in enumerate(reader.pages, start=1)
            if not pages[number - 1].strip() and len(page.images)
        ]
    except RetrievalError:
        raise
    except Exception as error:  # pypdf has no class for what it meets in a damaged file
        raise RetrievalError([f"{path}: not a readable PDF: {error}"]) from error
    if not any(page.strip() for page in pages):
        raise RetrievalError(
            [f"{path}: no text in it (scanned?), run it through OCR: ocrmypdf IN OUT"]
        )
    if pictures:
        shown = ", ".join(map(str, pictures))
        fix = "run it through OCR: ocrmypdf --skip-text IN OUT"
        yield Remark(f"{path}, p. {shown}: only a picture and no text (scanned?), {fix}")
    yield from lines.blocks(_rejoined(pages))


def _whole(text: str) -> str:
    """With the halves of surrogate pairs joined, which fonts map to glyphs apart; one alone is no
    character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _rejoined(pages: list[str]) -> list[lines.Line]:
    """The lines of all pages, without page numbers and with hy-phened words made whole."""
    joined: list[lines.Line] = []
    for number, page in enumerate(pages, start=1):
        texts = page.splitlines()
        edges = {0, len(texts) - 1}
        for position, text in enumerate(texts):
            if position in edges and _PAGE_NUMBER.match(text):
                continue
            if joined and _HYPHEN.search(joined[-1][0]) and text[:1].islower():
                head, place = joined.pop()
                text, tail = head[:-1] + text, place
                joined.append((text, tail))
            else:
                joined.append((text, Place(page=number)))
    return joined
