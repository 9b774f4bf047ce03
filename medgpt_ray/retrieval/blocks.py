"""What a reader makes of a file: paragraphs that know their headings and where they stand."""

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SENTENCE_END = "。！？!?….．"
CLOSING = "\"'”’」』）)】》]"


class Place(NamedTuple):
    """Where text stands. A PDF has pages, a text file lines, a Word file paragraphs (as `line`)."""

    page: int | None = None
    line: int | None = None


@dataclass(frozen=True)
class Block:
    """A paragraph, list item, table row or JSONL row; a sentence never goes beyond one."""

    text: str
    heading: tuple[str, ...]
    """Titles above it, outermost first: ("Asthma", "Treatment")."""
    section: int
    """Number of the heading or row in its file: a chunk never goes beyond one."""
    places: tuple[tuple[int, Place], ...]
    """(offset into `text`, place) of every line of it, ascending, the first at 0."""

    def place(self, offset: int) -> Place:
        return self.places[bisect_right(self.places, offset, key=lambda entry: entry[0]) - 1][1]


@dataclass(frozen=True)
class Remark:
    """What a reader passes over in a file, and what to do about it."""

    text: str


class Outline:
    """The titles above the text that is being read."""

    def __init__(self) -> None:
        self.section = 0
        self._titles: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> None:
        self.section += 1
        self._titles = [entry for entry in self._titles if entry[0] < level]
        self._titles.append((level, title))

    @property
    def heading(self) -> tuple[str, ...]:
        return tuple(title for _, title in self._titles if title)

    def block(self, lines: Sequence[tuple[str, Place]]) -> Block:
        """Lines of one paragraph as running text: with a space between, but for Chinese."""
        text, places = "", []
        for line, place in lines:
            if text and not (is_wide(text[-1]) and is_wide(line[0])):
                text += " "
            places.append((len(text), place))
            text += line
        return Block(text, self.heading, self.section, tuple(places))


def is_wide(character: str) -> bool:
    """Chinese characters and full-width punctuation: what is written without spaces."""
    return unicodedata.east_asian_width(character) in "WF"


def ends_sentence(text: str) -> bool:
    return text.rstrip(CLOSING)[-1:] in (*SENTENCE_END, *"；;：:")
