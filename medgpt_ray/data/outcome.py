"""What a run would make of a row: its tokens, and what the limit on them does to it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from medgpt_ray.config.supervised import Source, SupervisedData
from medgpt_ray.data.files import DataFile, find, one_split
from medgpt_ray.data.formats import Reading, for_stage, parse, reading_of
from medgpt_ray.data.render import Dropped, Renderer
from medgpt_ray.data.rows import BadRow, DataError
from medgpt_ray.data.segments import Segment, read, segments
from medgpt_ray.types import Document, Labelled, Preference, Row, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNLIMITED = 2**40


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of one example."""

    length: int
    """Tokens before anything is cut; of a pair those of the longer side."""
    tokens: list[Tokens]
    """The sequences that are learned from; none where the example is dropped."""
    reason: str = ""
    """Why it is dropped or cut; empty where it fits."""

    @property
    def fate(self) -> str:
        if not self.reason:
            return "whole"
        return "cut" if self.tokens else "dropped"


class Tokeniser:
    """Makes tokens of rows as a run would, and tells what its limit does to them.

    Raises `DataError` for a tokenizer that cannot be used.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", data: SupervisedData) -> None:
        self._limit = data.max_tokens
        try:
            self._renderer = Renderer(tokenizer, data)
            whole = data.model_copy(update={"max_tokens": UNLIMITED})
            self._unlimited = Renderer(tokenizer, whole)
        except ValueError as error:
            raise DataError([str(error)]) from None

    def __call__(self, row: Row | BadRow) -> Outcome | BadRow:
        """A row that the chat template refuses is a bad one too."""
        if isinstance(row, BadRow):
            return row
        try:
            tokens = self._unlimited.render(row)
            assert not isinstance(tokens, Dropped)
            length = max(len(one.ids) for one in tokens)
            if length <= self._limit:
                return Outcome(length, tokens)
            limited = self._renderer.render(row)
        except BadRow as bad:
            return bad
        except ValueError as error:
            raise DataError([str(error)]) from None
        if isinstance(limited, Dropped):
            return Outcome(length, [], limited.reason)
        what = "cut into several" if isinstance(row, Document) else "its last turns are left out"
        return Outcome(length, limited, f"longer than {self._limit:,} tokens: {what}")

    def show(self, place: str, row: Row | BadRow) -> list[Text]:
        """A row as the model sees it, or why it does not; `place` is its `file:line`."""
        outcome = self(row)
        if isinstance(row, BadRow) or isinstance(outcome, BadRow):
            return [Text(f"{place}: {outcome}\n", "red")]
        if not outcome.tokens:
            return [Text(f"{place}, {outcome.length:,} tokens, dropped: {outcome.reason}\n", "red")]
        texts = []
        for name, tokens in zip(_names(row, len(outcome.tokens)), outcome.tokens, strict=True):
            whole = f" of {outcome.length:,}" if outcome.reason else ""
            length = f"{len(tokens.ids):,} tokens{whole}"
            facts = [place, name, length, f"{sum(tokens.trained):,} trained", outcome.reason]
            head = ", ".join(fact for fact in facts if fact)
            texts.append(Text(f"{head}\n", "bold").append_text(self._renderer.show(tokens)))
        return texts


def _names(row: Row, sequences: int) -> list[str]:
    if isinstance(row, Preference):
        return ["chosen", "rejected"]
    if isinstance(row, Labelled):
        return ["good answer" if row.desirable else "bad answer"]
    if sequences == 1:
        return [""]
    return [f"piece {number} of {sequences}" for number in range(1, sequences + 1)]


def rows_by_file(
    source: Source, stage: str | None, problems: list[str]
) -> Iterator[Iterator[tuple[str, Row | BadRow]]]:
    """`rows_of` for each file of a source; what is wrong with the files goes into `problems`."""
    try:
        files = find(source.path)
        one_split(source.path, files)
    except DataError as error:
        problems += error.problems
        return
    for file in files:
        yield _rows_of_file(file, source, stage, problems)


def _rows_of_file(
    file: DataFile, source: Source, stage: str | None, problems: list[str]
) -> Iterator[tuple[str, Row | BadRow]]:
    try:
        cut = segments(file)
        reading = reading_of(cut, source.format, source.columns, stage)
        yield from rows_of([(segment, reading) for segment in cut], stage)
    except DataError as error:
        problems += error.problems


def rows_of(
    parts: Iterable[tuple[Segment, Reading]], stage: str | None
) -> Iterator[tuple[str, Row | BadRow]]:
    """`file:line` and a row as `stage` trains on it (None: as it is), or what is wrong with it."""
    for segment, reading in parts:
        for record in read(segment):
            try:
                row = parse(record.value, reading)
                examples = (row,) if stage is None else for_stage(row, stage)
            except BadRow as bad:
                yield record.place, bad
                continue
            yield from ((record.place, example) for example in examples)
