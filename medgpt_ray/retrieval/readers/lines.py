"""Lines of plain text as blocks: the part that text files and PDF pages share.

Neither says what is a heading or where a paragraph ends, so the shape of the lines has to: an empty
line ends a paragraph, and so does a line that ends a sentence, that is much shorter than its
neighbours or that stands before a bullet. Everything else is a line that was wrapped.
"""

import re
from collections.abc import Iterator, Sequence
from statistics import median

from medgpt_ray.retrieval.blocks import Block, Outline, Place, ends_sentence, is_wide

Line = tuple[str, Place]
_HEADING_COLUMNS = 60
_SHORT = 0.75
"""Of the median width: a line below it was not wrapped."""

_NUMERAL = "[一二三四五六七八九十百零\\d]"
_HEADINGS = [  # (pattern, level)
    (re.compile(rf"第{_NUMERAL}+[编章]"), 1),
    (re.compile(r"(chapter|part|appendix)\s+(\d+|[IVX]+|[A-Z])\b", re.I), 1),
    (re.compile(rf"第{_NUMERAL}+[节条]"), 2),
    (re.compile(r"section\s+\d+\b", re.I), 2),
    (re.compile(r"【[^】]+】$"), 2),
    (re.compile(r"[一二三四五六七八九十]+、"), 2),
    (re.compile(r"[（(][一二三四五六七八九十]+[）)]"), 3),
]
_UNIT = (
    r"(?:[mkµμn]?g|m?l|mcg|mmol|meq|iu|units?|tablets?|capsules?|drops?|puffs?|hours?|h|days?"
    r"|weeks?|months?|years?|minutes?|min|times)\b|毫|微|克|升|片|粒|支|天|小时|周|月|年|次|岁|单位"
)
_NUMBERED = re.compile(rf"(\d+(?:\.\d+)*)[.、]?\s*(?=[^\d\s.,%/])(?!{_UNIT})", re.I)
_CAPITALS = re.compile(r"[A-Z][A-Z0-9 \-/&,()]{5,}$")
_BULLET = re.compile(r"([-*•·●○▪–]\s|[（(]?\d{1,2}[.)）、]|[①-⑳])")


def blocks(lines: Sequence[Line]) -> Iterator[Block]:
    outline, paragraph, first = Outline(), list[Line](), True
    widths = [width(text) for text, _ in lines if text.strip()]
    shortest_wrapped = _SHORT * median(widths) if widths else 0
    for (raw, place), following in zip(lines, _following(lines), strict=True):
        text = raw.strip()
        level = heading_level(text, following) if text else None
        if text and first:
            first = False
            if (level is None or _CAPITALS.match(text)) and _is_title(text, following):
                level = 0
        if paragraph and (not text or level is not None or _BULLET.match(text)):
            yield outline.block(paragraph)
            paragraph = []
        if level is not None:
            outline.enter(level, text)
        elif text:
            paragraph.append((text, place))
            if ends_sentence(text) or width(text) < shortest_wrapped:
                yield outline.block(paragraph)
                paragraph = []
    if paragraph:
        yield outline.block(paragraph)


def _following(lines: Sequence[Line]) -> list[str]:
    """For each line the next one with text, "" after the last."""
    found = [""]
    for text, _ in reversed(lines):
        found.append(text.strip() or found[-1])
    return found[-2::-1]


def _is_title(text: str, following: str) -> bool:
    """Of the first line: short, and what follows is a heading or sentences."""
    short = width(text) <= _HEADING_COLUMNS and not ends_sentence(text) and text[-1] not in ",，、"
    if not (short and following):
        return False
    return heading_level(following, "-") is not None or width(following) > 2 * width(text)


def heading_level(text: str, following: str) -> int | None:
    """1 for a chapter, deeper for more; None for a line of text, which `following` helps to tell:
    numbered lines one after another are a list, and nothing follows a heading at the end."""
    if (
        width(text) > _HEADING_COLUMNS
        or ends_sentence(text)
        or text[-1] in ",，、"
        or not following
    ):
        return None
    for pattern, level in _HEADINGS:
        if pattern.match(text):
            return level
    numbered = _NUMBERED.match(text)
    if numbered:
        depth = numbered[1].count(".")
        return 2 + depth if depth or not _NUMBERED.match(following) else None
    return 2 if _CAPITALS.match(text) else None


def width(text: str) -> int:
    """Columns on a screen, where a Chinese character takes two."""
    return sum(2 if is_wide(character) else 1 for character in text)
