"""A JSON list cut into its elements without parsing it, so that it streams and one broken element
does not take its neighbours along: only quotes, brackets and commas are looked at."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from medgpt_ray.data.rows import BadRow

CHUNK_BYTES = 2**20

Element = tuple[int, bytes | BadRow]
"""Number of the first line, and the text."""

_OUTSIDE = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')


def too_long(longest: int) -> BadRow:
    reason = f"longer than {longest / 2**20:g} MiB: is a line end or a quote missing?"
    return BadRow("", reason)


def elements(stream: BinaryIO, longest: int) -> Iterator[Element]:
    """The elements of the list; of one beyond `longest` bytes no more than that is held.

    The first character of the stream that is not white space (or a byte order mark, which stays in
    front of the first element) is the opening bracket.
    """
    splitter = _Splitter(longest)
    while not splitter.closed and (chunk := stream.read(CHUNK_BYTES)):
        yield from splitter.feed(chunk)
    if not splitter.closed:
        yield from splitter.cut_off()
        return
    while not splitter.held.strip() and (chunk := stream.read(CHUNK_BYTES)):
        splitter.line += splitter.held.count(b"\n")
        splitter.held = bytearray(chunk)
    line, data = splitter.begun()
    if data:
        yield line, BadRow("", "text after the end of the list: put one list in a file")


class _Splitter:
    """`held` is what was read of the current element, `line` the number of its first line."""

    def __init__(self, longest: int) -> None:
        self.held = bytearray()
        self.line = 1
        self.closed = False
        self._longest = longest
        self._too_long = False
        self._dropped_lines = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False  # the chunk ended with a backslash
        self._first = True

    def feed(self, chunk: bytes) -> Iterator[Element]:
        start, position = 0, int(self._escaped)
        self._escaped = False
        while match := (_IN_STRING if self._in_string else _OUTSIDE).search(chunk, position):
            position, mark = match.end(), match[0]
            if mark == b"\\":
                position += 1
                self._escaped = position > len(chunk)
            elif mark == b'"':
                self._in_string = not self._in_string
            elif mark in b"[{":
                self._depth += 1
                if self._depth == 1:
                    before = self.held + chunk[: position - 1]
                    self.line += before.count(b"\n")
                    self.held, start = bytearray(before.strip()), position
            elif mark == b"," and self._depth == 1:
                yield from self._end(chunk[start : position - 1], last=False)
                start = position
            elif mark == b"]" and self._depth == 1:
                yield from self._end(chunk[start : position - 1], last=True)
                self.held, self.closed = bytearray(chunk[position:]), True
                return
            elif mark in b"]}":
                self._depth = max(1, self._depth - 1)
        self._hold(chunk[start:])

    def _hold(self, piece: bytes) -> None:
        self.held += piece
        if len(self.held) > self._longest:
            self._too_long = True
            self._dropped_lines += self.held.count(b"\n", self._longest)
            del self.held[self._longest :]

    def _end(self, piece: bytes, last: bool) -> Iterator[Element]:
        self._hold(piece)
        line, data = self.begun()
        if self._too_long:
            yield line, too_long(self._longest)
        elif data:
            yield line, data
        elif not (last and self._first):
            yield line, BadRow("", "a comma too many: nothing stands between it and the next mark")
        self.line += self.held.count(b"\n") + self._dropped_lines
        self.held, self._first = bytearray(), False
        self._too_long, self._dropped_lines = False, 0

    def begun(self) -> tuple[int, bytes]:
        """The element with the indentation of its first line, and the number of that line."""
        blank = len(self.held) - len(self.held.lstrip())
        start = self.held.rfind(b"\n", 0, blank) + 1
        return self.line + self.held.count(b"\n", 0, start), bytes(self.held[start:]).rstrip()

    def cut_off(self) -> Iterator[Element]:
        line, data = self.begun()
        if self._in_string or self._depth > 1:
            reason = "cut off, or a quote or bracket is missing: nothing after it was read"
            yield line, BadRow("", reason)
            return
        if data:
            yield line, data
        yield line, BadRow("", "the list is not closed with ]: is the file cut off?")
