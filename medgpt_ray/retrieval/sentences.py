"""Sentences of Chinese and English text, and smaller parts of a sentence that is too long."""

import re
from collections.abc import Callable, Iterator

from medgpt_ray.retrieval.blocks import CLOSING

_QUOTES = f"[{re.escape(CLOSING)}]*"
_END = re.compile(rf"(?:[。！？!?]+|…+|\.(?=\s|$|[{re.escape(CLOSING)}]+(?:\s|$))){_QUOTES}\s*")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[])(?:[A-Za-z]|[a-z]\.[a-z]|dr|mr|mrs|ms|prof|st|vs|cf|etc|fig|figs|no|nos|vol|ed|eds"
    r"|al|approx|max|min|tab|inj|e\.g|i\.e|b\.d|t\.d\.s|q\.d\.s|p\.o|i\.v|i\.m|s\.c|resp|incl|dept)\.$",
    re.I,
)
_CLAUSE = re.compile(r"[；;，,、：:]\s*|\s+(?:and|or|but|because|which)\s+")

_LONGEST_ABBREVIATION = 8
"""With the space before it."""

Measure = Callable[[str], int]


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """(offset, sentence) of each; in a row they are the text but for the spaces between."""
    start = 0
    for end in _END.finditer(text):
        before = text[max(start, end.start() - _LONGEST_ABBREVIATION) : end.start() + 1]
        stop = text[end.start()] == "." and _ABBREVIATION.search(before)
        lower = text[end.start()] == "." and text[end.end() : end.end() + 1].islower()
        if stop or lower:  # an abbreviation: "e.g. aspirin", "approx. 5 mg"
            continue
        yield start, text[start : end.end()].strip()
        start = end.end()
    if text[start:].strip():
        yield start, text[start:].strip()


def parts(sentence: str, measure: Measure, limit: int) -> Iterator[tuple[int, str]]:
    """(offset, part) of a sentence above `limit`: cut after clauses, or as a last resort inside."""
    start = 0
    while start < len(sentence):
        longest = _longest(sentence, start, measure, limit)
        end = start + longest
        if end == len(sentence):
            yield start, sentence[start:]
            return
        cuts = [cut.end() for cut in _CLAUSE.finditer(sentence[start:end])]
        cuts = cuts or [cut.end() for cut in re.finditer(r"\s+", sentence[start:end])]
        length = cuts[-1] if cuts else longest
        yield start, sentence[start : start + length].rstrip()
        start += length


def _longest(text: str, start: int, measure: Measure, limit: int) -> int:
    """Length of the longest part of `text` from `start` that measures at most `limit`, at least 1.

    Never measures much more than that part: a line of a megabyte would take hours.
    """
    low, high = 1, limit
    while high < len(text) - start and measure(text[start : start + high]) <= limit:
        low, high = high, 2 * high
    high = min(high, len(text) - start)
    while low < high:
        middle = (low + high + 1) // 2
        fits = measure(text[start : start + middle]) <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
