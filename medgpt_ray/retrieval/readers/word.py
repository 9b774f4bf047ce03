"""Word files (.docx): paragraphs under their heading styles, and table rows.

Pages exist only once Word has laid the text out, so a place is the number of the paragraph.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

from docx import Document
from docx.document import Document as OpenDocument
from docx.opc.exceptions import PackageNotFoundError
from docx.table import Table, _Cell
from docx.text.hyperlink import Hyperlink
from docx.text.paragraph import Paragraph
from lxml.etree import XMLSyntaxError

from medgpt_ray.retrieval.blocks import Block, Outline, Place
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.readers.markdown import labelled

_HEADING = re.compile(r"(?:heading|标题)\s*(\d)", re.I)


def read(path: Path) -> Iterator[Block]:
    try:
        document = Document(str(path))
    except (BadZipFile, PackageNotFoundError, KeyError, ValueError, XMLSyntaxError) as error:
        reason = "not a readable .docx file (an old .doc renamed, or a broken download?)"
        raise RetrievalError([f"{path}: {reason}: {error}"]) from None
    return _blocks(document)


def _blocks(document: OpenDocument) -> Iterator[Block]:
    outline = Outline()
    for number, item in enumerate(document.iter_inner_content(), start=1):
        place = Place(line=number)
        if isinstance(item, Table):
            head, *rows = ([_cell(cell) for cell in row.cells] for row in item.rows)
            for cells in rows or [head]:
                text = labelled(head if rows else [], cells)
                if text:
                    yield outline.block([(text, place)])
            continue
        text, style = _text(item), item.style.name if item.style else ""
        level = 0 if style == "Title" else _heading_level(style or "")
        if text and level is not None:
            outline.enter(level, text)
        elif text:
            yield outline.block([(text, place)])


def _cell(cell: _Cell) -> str:
    return " ".join(text for paragraph in cell.paragraphs if (text := _text(paragraph)))


def _text(paragraph: Paragraph) -> str:
    """Of a paragraph; 10 with a raised 9 is 10^9."""
    pieces = []
    for piece in paragraph.iter_inner_content():
        runs = piece.runs if isinstance(piece, Hyperlink) else [piece]
        for run in runs:
            raised = run.font.superscript and run.text.strip().lstrip("+-−").isdigit()
            pieces.append(f"^{run.text}" if raised else run.text)
    return " ".join("".join(pieces).split())


def _heading_level(style: str) -> int | None:
    found = _HEADING.match(style)
    return int(found[1]) if found else None
