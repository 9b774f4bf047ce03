"""Markdown: headings, paragraphs, list items, code and table rows, without the markup."""

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from medgpt_ray.retrieval.blocks import Block, Outline, Place
from medgpt_ray.retrieval.readers.text import decode

_FRONT_MATTER = re.compile(r"---\n.*?\n---\n", re.S)
_TAGS = {"<br>": " ", "<sup>": "^", "<p>": " ", "<li>": " "}
"""What stands for a tag in a line; the others leave nothing."""
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Form feeds and the like, which lxml refuses."""
_BREAKS = ("softbreak", "hardbreak")


def read(path: Path) -> Iterator[Block]:
    source = decode(path).replace("\r\n", "\n")
    front = _FRONT_MATTER.match(source)
    if front:  # not text, but its lines count
        source = "\n" * front[0].count("\n") + source[front.end() :]
    tree = SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(source))
    return _walk(tree.children, Outline())


def _walk(nodes: Sequence[SyntaxTreeNode], outline: Outline) -> Iterator[Block]:
    for node in nodes:
        if node.type == "heading":
            outline.enter(int(node.tag[1]), _plain(node))
        elif node.type == "html_block":
            lines = [(text, Place(line=_first_line(node))) for text in _html(node.content)]
            if lines:
                yield outline.block(lines)
        elif node.type == "table":
            yield from _rows(node, outline)
        elif node.type in ("paragraph", "fence", "code_block"):
            lines = _code(node) if node.type != "paragraph" else _paragraph(node)
            if lines:
                text, place = lines[0]
                yield outline.block([(_item_number(node) + text, place), *lines[1:]])
        else:
            yield from _walk(node.children, outline)


def _item_number(node: SyntaxTreeNode) -> str:
    """ "3. " for the first paragraph of the third item of an ordered list, "" elsewhere."""
    item = node.parent
    if item is None or item.type != "list_item" or node.previous_sibling or not item.parent:
        return ""
    if item.parent.type != "ordered_list":
        return ""
    first = int(item.parent.attrs.get("start", 1))
    return f"{first + item.parent.children.index(item)}. "


def _html(source: str) -> list[str]:
    """The text of a piece of HTML, each row of a table as a line of its own."""
    from lxml import etree, html

    source = re.sub(r"<sup>", "^", _NOT_XML.sub(" ", source), flags=re.I)
    try:
        root = html.fragment_fromstring(source, create_parent="div")
    except (etree.ParserError, AssertionError):  # no body: <!DOCTYPE html>, or <html> alone
        return []
    for row in list(root.iter("tr")):
        cells = (" ".join(cell.itertext()).strip() for cell in row if cell.tag in ("td", "th"))
        text = "; ".join(cell for cell in cells if cell)
        row.clear()
        row.text = f"{text}\n"
    text = "\n".join(part for part in root.itertext() if not part.isspace())
    return [" ".join(line.split()) for line in text.split("\n") if line.strip()]


def _paragraph(node: SyntaxTreeNode) -> list[tuple[str, Place]]:
    first, texts = _first_line(node), [""]
    for inline in node.children[0].children:
        if inline.type in _BREAKS:
            texts.append("")
        else:
            texts[-1] += _plain(inline)
    return [
        (text.strip(), Place(line=first + number))
        for number, text in enumerate(texts)
        if text.strip()
    ]


def _code(node: SyntaxTreeNode) -> list[tuple[str, Place]]:
    first = _first_line(node) + (node.type == "fence")
    return [
        (text.strip(), Place(line=first + number))
        for number, text in enumerate(node.content.splitlines())
        if text.strip()
    ]


def _rows(table: SyntaxTreeNode, outline: Outline) -> Iterator[Block]:
    """Each row with the names of its columns, so that it can be understood alone."""
    head, *bodies = table.children
    columns = [_plain(cell) for cell in head.children[0].children]
    for row in (row for body in bodies for row in body.children):
        cells = [_plain(cell) for cell in row.children]
        text = labelled(columns, cells)
        if text:
            yield outline.block([(text, Place(line=_first_line(row)))])


def labelled(columns: Sequence[str], cells: Sequence[str]) -> str:
    pairs = zip_longest(columns, cells, fillvalue="")
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in pairs if cell)


def _plain(node: SyntaxTreeNode) -> str:
    if node.type in _BREAKS:
        return " "
    if node.children:
        return "".join(_plain(child) for child in node.children).strip(
            " " if node.is_nested else ""
        )
    if node.type == "html_inline":
        return _TAGS.get(re.sub(r"\s|/(?=>)", "", node.content.lower()), "")
    return node.content


def _first_line(node: SyntaxTreeNode) -> int:
    assert node.map is not None, node
    return node.map[0] + 1
