"""Blocks as chunks: as many whole sentences of one section as the embedding model can read.

A chunk is what is embedded, found, cited and shown to the model. It never goes beyond a heading,
and cuts a sentence only where that alone is longer than a chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from medgpt_ray.retrieval.blocks import Block, Place, is_wide
from medgpt_ray.retrieval.sentences import Measure, parts, sentences

_HEADING_SHARE = 0.5
"""A heading longer than this share of a chunk is cut, in what is embedded and searched."""


@dataclass(frozen=True)
class Chunk:
    text: str
    heading: tuple[str, ...]
    first: Place
    last: Place

    @property
    def searched(self) -> str:
        """The text with its headings above it: what is embedded and indexed."""
        return "\n".join([" > ".join(self.heading), self.text]).strip()


class _Piece(NamedTuple):
    text: str
    first: Place
    last: Place
    begins_block: bool


def chunks(blocks: Sequence[Block], measure: Measure, limit: int) -> Iterator[Chunk]:
    """`measure` counts the tokens of a text; at most `limit` of them are in `Chunk.searched`."""
    for _, section in groupby(blocks, key=lambda block: block.section):
        members = list(section)
        heading = _fitting(members[0].heading, measure, int(limit * _HEADING_SHARE))
        room = limit - (measure(" > ".join(heading)) if heading else 0)
        pieces = [piece for block in members for piece in _pieces(block, measure, room)]
        for packed in _packed(pieces, measure, room):
            yield Chunk(_joined(packed), heading, packed[0].first, packed[-1].last)


def _fitting(heading: tuple[str, ...], measure: Measure, limit: int) -> tuple[str, ...]:
    """The innermost titles that fit, the last one cut where it alone does not."""
    while len(heading) > 1 and measure(" > ".join(heading)) > limit:
        heading = heading[1:]
    return tuple(next(parts(title, measure, limit), (0, ""))[1] for title in heading)


def _pieces(block: Block, measure: Measure, room: int) -> Iterator[_Piece]:
    for start, sentence in sentences(block.text):
        whole = measure(sentence) <= room
        for offset, part in [(0, sentence)] if whole else parts(sentence, measure, room):
            position = start + offset
            last = block.place(position + len(part) - 1)
            yield _Piece(part, block.place(position), last, position == 0)


def _packed(pieces: Sequence[_Piece], measure: Measure, room: int) -> Iterator[list[_Piece]]:
    packed: list[_Piece] = []
    for piece in pieces:
        if packed and measure(_joined([*packed, piece])) > room:
            yield packed
            packed = []
        packed.append(piece)
    if packed:
        yield packed


def _joined(pieces: Sequence[_Piece]) -> str:
    text = ""
    for piece in pieces:
        if text and piece.begins_block:
            text += "\n"
        elif text and not (is_wide(text[-1]) and is_wide(piece.text[0])):
            text += " "
        text += piece.text
    return text
