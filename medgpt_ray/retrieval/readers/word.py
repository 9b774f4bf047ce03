"""Word files (.docx): paragraphs under their heading styles, numbered lists, tables, text boxes.

Read as it prints with all changes accepted: insertions and content controls are text, deletions are
not. Headers and footers are left out, for they stand on every page; so are footnotes and comments.
Pages exist only once Word has laid the text out, so a place is the number of the paragraph.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from docx import Document
from docx.document import Document as OpenDocument
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.rel import _Relationship
from docx.oxml.ns import qn
from docx.text.paragraph import Paragraph
from lxml.etree import _Element

from medgpt_ray.retrieval.blocks import Block, Outline, Place
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.readers.markdown import labelled

_HEADING = re.compile(r"(?:heading|标题)\s*(\d)", re.I)
_PARAGRAPH, _TABLE, _RUN, _TEXT = qn("w:p"), qn("w:tbl"), qn("w:r"), qn("w:t")
_AROUND = {qn(f"w:{name}") for name in ("sdt", "sdtContent", "ins", "moveTo", "customXml")}
"""What may stand around paragraphs and tables, or around rows and cells, and is no text itself."""
_LEFT_OUT = {
    *(qn(f"w:{name}") for name in ("del", "moveFrom", "txbxContent", "pPr", "rPr", "sdtPr")),
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
}
_SPELLED = {
    **{qn(f"w:{name}"): " " for name in ("tab", "br", "cr")},
    qn("w:noBreakHyphen"): "-",
}


def read(path: Path) -> Iterator[Block]:
    try:
        return iter(list(_blocks(Document(str(path)))))
    except Exception as error:  # python-docx has no class for what it meets in a damaged file
        reason = "not a readable .docx file (an old .doc renamed, or a broken download?)"
        raise RetrievalError([f"{path}: {reason}: {error}"]) from error


def _blocks(document: OpenDocument) -> Iterator[Block]:
    outline, numbers = Outline(), _Numbers(document)
    for number, item in enumerate(_within(document.element.body, _PARAGRAPH, _TABLE), start=1):
        place = Place(line=number)
        if item.tag == _TABLE:
            texts = list(_rows(item))
        else:
            text, style = _text(item), _style(item, document)
            level = 0 if style == "Title" else _heading_level(style)
            if text and level is not None:
                outline.enter(level, text)
                text = ""
            texts = [f"{numbers.of(item)}{text}" if text else "", *_boxes(item)]
        yield from (outline.block([(text, place)]) for text in texts if text)


def _within(parent: _Element, *tags: str) -> Iterator[_Element]:
    """Children of `parent` with one of `tags`, also those in content controls and insertions."""
    for child in parent:
        if child.tag in tags:
            yield child
        elif child.tag in _AROUND:
            yield from _within(child, *tags)


def _rows(table: _Element) -> Iterator[str]:
    """Each row under the names of its columns. Two columns are a label and its value, unless the
    first row is marked as one of names."""
    rows = [row for row in _within(table, qn("w:tr")) if row.find(_of("trPr", "del")) is None]
    grid: list[list[str]] = []
    for row in rows:
        grid.append(_cells(row, grid[-1] if grid else []))
    named = len(rows) > 1 and (len(grid[0]) != 2 or _is_header(rows[0]))
    for cells in grid[named:]:
        if len(cells) == 2 and all(cells) and not named:
            yield f"{cells[0].rstrip(':：')}: {cells[1]}"
        else:
            yield labelled(grid[0] if named else [], cells)


def _cells(row: _Element, above: Sequence[str]) -> list[str]:
    """By column: a cell over several rows in each, one over several columns in the first."""
    cells: list[str] = []
    for cell in _within(row, qn("w:tc")):
        merge, span = cell.find(_of("tcPr", "vMerge")), cell.find(_of("tcPr", "gridSpan"))
        goes_on = merge is not None and merge.get(qn("w:val")) != "restart"
        cells.append(above[len(cells)] if goes_on and len(cells) < len(above) else _cell(cell))
        cells += [""] * (0 if span is None else int(span.get(qn("w:val"))) - 1)
    return cells


def _of(*path: str) -> str:
    """A path of Word's own names, for `find`."""
    return "/".join(qn(f"w:{name}") for name in path)


def _is_header(row: _Element) -> bool:
    """Repeated on each page, or bold throughout."""
    runs = [run for run in row.iter(_RUN) if run.find(_TEXT) is not None]
    bold = [run.find(_of("rPr", "b")) is not None for run in runs]
    return row.find(_of("trPr", "tblHeader")) is not None or all(bold)


def _cell(cell: _Element) -> str:
    """Its paragraphs and the rows of tables in it."""
    texts: list[str] = []
    for item in _within(cell, _PARAGRAPH, _TABLE):
        texts += _rows(item) if item.tag == _TABLE else [_text(item)]
    return " ".join(filter(None, texts))


def _boxes(paragraph: _Element) -> Iterator[str]:
    """The paragraphs of text boxes that are anchored to it."""
    for box in paragraph.iter(qn("w:txbxContent")):
        if not any(parent.tag in _LEFT_OUT for parent in box.iterancestors()):
            yield from map(_text, _within(box, _PARAGRAPH))


def _text(paragraph: _Element) -> str:
    """Of a paragraph; 10 with a raised 9 is 10^9."""
    return " ".join("".join(_pieces(paragraph)).split())


def _pieces(parent: _Element) -> Iterator[str]:
    for child in parent:
        if child.tag in _LEFT_OUT:
            continue
        if child.tag == _TEXT:
            yield child.text or ""
        elif child.tag in _SPELLED:
            yield _SPELLED[child.tag]
        elif child.tag == _RUN and _is_raised(child):
            text = "".join(_pieces(child))
            yield f"^{text}" if text.strip().lstrip("+-−").isdigit() else text
        else:
            yield from _pieces(child)


def _is_raised(run: _Element) -> bool:
    align = run.find(_of("rPr", "vertAlign"))
    return align is not None and align.get(qn("w:val")) == "superscript"


class _Numbers:
    """The numbers of numbered lists, which Word computes and does not write down."""

    def __init__(self, document: OpenDocument) -> None:
        self._counts: dict[tuple[str, int], int] = {}
        self._document = document
        related = document.part.rels.values()
        self._lists = next((rel.target_part.element for rel in related if _is_numbering(rel)), None)

    def of(self, paragraph: _Element) -> str:
        """ "3. " where the paragraph is the third of a decimal list, "" outside of any."""
        place = self._place(paragraph)
        first = None if place is None else self._first(*place)
        if place is None or first is None:
            return ""
        number = self._counts.get(place, first - 1) + 1
        kept = {key: count for key, count in self._counts.items() if not _is_below(key, place)}
        self._counts = {**kept, place: number}
        return f"{number}. "

    def _place(self, paragraph: _Element) -> tuple[str, int] | None:
        """Identifier of its list, and level; its own or those of its style."""
        style = Paragraph(paragraph, self._document._body).style
        for owner in (paragraph, style.element if style is not None else None):
            numbered = None if owner is None else owner.find(_of("pPr", "numPr"))
            found = None if numbered is None else numbered.find(qn("w:numId"))
            if numbered is not None and found is not None:
                level = numbered.find(qn("w:ilvl"))
                return found.get(qn("w:val")), 0 if level is None else int(level.get(qn("w:val")))
        return None

    def _first(self, list_id: str, level: int) -> int | None:
        """With what a level of a list begins; None where it has no decimal numbers."""
        if self._lists is None:
            return None
        num = f"w:num[@w:numId='{list_id}']"
        override = f"{num}/w:lvlOverride[@w:ilvl='{level}']/w:startOverride"
        shape = f"w:abstractNum[@w:abstractNumId=../{num}/w:abstractNumId/@w:val]"
        own = f"{shape}/w:lvl[@w:ilvl='{level}'][w:numFmt/@w:val='decimal']"
        if not self._lists.xpath(own):
            return None
        starts = self._lists.xpath(f"{override}/@w:val") or self._lists.xpath(
            f"{own}/w:start/@w:val"
        )
        return int(starts[0]) if starts else 1


def _is_numbering(relation: _Relationship) -> bool:
    return relation.reltype == RELATIONSHIP_TYPE.NUMBERING


def _is_below(place: tuple[str, int], other: tuple[str, int]) -> bool:
    return place[0] == other[0] and place[1] > other[1]


def _style(paragraph: _Element, document: OpenDocument) -> str:
    style = Paragraph(paragraph, document._body).style
    return (style.name if style is not None else "") or ""


def _heading_level(style: str) -> int | None:
    found = _HEADING.match(style)
    return int(found[1]) if found else None
