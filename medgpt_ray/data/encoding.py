"""Text to token ids, and where each token begins.

A tokenizer says where its tokens begin, and takes a third longer for it. The tokens of byte-level
BPE are the bytes of the text, cut in pieces: there, their lengths tell it.
"""

import json
import unicodedata
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORKS, CHARACTERS = 256, 2**20
"""Of which the texts are encoded together, at most; one text may be longer."""
CUTS = {"ByteLevel", "Digits", "Split"}
"""Steps before BPE that cut a text. They may leave something out: then the bytes are too few."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text and its tokens."""

    text: str
    ids: list[int]
    starts: list[int]
    """Of each token, in characters, or in bytes of UTF-8."""
    in_bytes: bool

    def token_at(self, character: int) -> int:
        """The first token that begins at this character or behind it; the number of tokens where
        none does."""
        start = character
        if self.in_bytes and not self.text.isascii():
            start = len(self.text[:character].encode())
        return bisect_left(self.starts, start)


T = TypeVar("T")
Tokenising = Generator[str, Encoded, T]
"""Work that yields texts, one after the other, and is sent each of them encoded."""


class _Work(Generic[T]):
    """Work that was begun: it asks for `text`, or has ended with `result`."""

    def __init__(self, work: Tokenising[T]) -> None:
        self._work = work
        self.text: str | None
        self.result: T | None = None
        self.go_on(None)

    def go_on(self, answer: Encoded | None) -> None:
        try:
            self.text = self._work.send(cast(Encoded, answer))
        except StopIteration as end:
            self.text, self.result = None, end.value


class Encoder:
    """A tokenizer, as it is now, without what transformers wraps around it, which takes as long
    again."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = cast(Any, tokenizer)
        backend = self._tokenizer.backend_tokenizer
        self._lengths = _lengths(backend) if _keeps_bytes(backend) else []
        self._nfc = backend.normalizer is not None

    def together(self, works: Iterable[Tokenising[T]]) -> Iterator[T]:
        """The results of works, in their order. Texts of many works are encoded together, which is
        faster than one by one: the processor keeps what the tokenizer looks up."""
        group: list[_Work[T]] = []
        characters = 0
        for tokenising in works:
            group.append(_Work(tokenising))
            characters += len(group[-1].text or "")
            if len(group) == WORKS or characters >= CHARACTERS:
                yield from self._results(group)
                group, characters = [], 0
        yield from self._results(group)

    def _results(self, group: "list[_Work[T]]") -> Iterator[T]:
        while asking := [work for work in group if work.text is not None]:
            answers = self._encode([cast(str, work.text) for work in asking])
            for work, answer in zip(asking, answers, strict=True):
                work.go_on(answer)
        return (cast(T, work.result) for work in group)

    def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Special tokens in a text are what they stand for; none is added around it."""
        backend = self._tokenizer.backend_tokenizer
        # As transformers does: another caller may have left them set.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self._tokenizer.split_special_tokens
        if not self._lengths:
            return [self._asked(text) for text in texts]
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [
            self._measured(text, encoding.ids)
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _measured(self, text: str, ids: list[int]) -> Encoded:
        if not self._nfc or unicodedata.is_normalized("NFC", text):
            *starts, end = accumulate(map(self._lengths.__getitem__, ids), initial=0)
            if end == (len(text) if text.isascii() else len(text.encode())):
                return Encoded(text, ids, starts, in_bytes=True)
        # It would be composed, a token took the spaces beside it, or there is none for a byte.
        return self._asked(text)

    def _asked(self, text: str) -> Encoded:
        encoded = self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        return Encoded(text, encoded.ids, [start for start, _ in encoded.offsets], in_bytes=False)


def _keeps_bytes(backend: Any) -> bool:
    """Whether the tokens of a text in NFC are its bytes, and begin where their bytes do."""
    steps = _steps(backend.pre_tokenizer)
    kinds = {step["type"] for step in steps}
    return (
        type(backend.model).__name__ == "BPE"
        and backend.model.unk_token is None
        and not backend.model.continuing_subword_prefix
        and not backend.model.end_of_word_suffix
        and {step["type"] for step in _steps(backend.normalizer)} <= {"NFC"}
        and "ByteLevel" in kinds
        and kinds <= CUTS
        and not any(step.get("add_prefix_space") for step in steps)
        and not any(step.get("trim_offsets") for step in _steps(backend.post_processor))
    )


def _steps(part: Any) -> list[dict[str, Any]]:
    """The settings of a part of a tokenizer, or of each of its parts."""
    if part is None:
        return []
    settings = json.loads(part.__getstate__())
    for name in ("normalizers", "pretokenizers", "processors"):
        if name in settings:
            return list(settings[name])
    return [settings]


def _lengths(backend: Any) -> list[int]:
    """Bytes of each token. A character of a token of byte-level BPE stands for a byte."""
    added = backend.get_added_tokens_decoder()
    sizes = {token: len(text) for text, token in backend.get_vocab(False).items()}
    sizes |= {token: len(entry.content.encode()) for token, entry in added.items()}
    return [sizes.get(token, 0) for token in range(max(sizes) + 1)]
