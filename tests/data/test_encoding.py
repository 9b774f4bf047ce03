"""Where tokens begin, against what the tokenizer itself says."""

from bisect import bisect_left
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors

from medgpt_ray.data import encoding
from medgpt_ray.data.encoding import Encoded, Encoder, Tokenising
from medgpt_ray.models.load import load_tokenizer

TEXTS = [
    "",
    "Fever, 39.5 °C.",
    "  two  spaces ",
    "饭前吗? 🩺🩺",
    "e\u0301a \u1e9b\u0323",
    "a\u00a0<|end|> b",
]


@pytest.fixture(scope="module")
def smollm() -> Any:
    return load_tokenizer("embedded:smollm2-135m-instruct")


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Any:
    return load_tokenizer(str(tiny_model))


def encode(encoder: Encoder, text: str) -> Encoded:
    def work() -> Tokenising[Encoded]:
        return (yield text)

    (encoded,) = encoder.together([work()])
    return encoded


def check(tokenizer: Any, text: str) -> bool:
    """All characters of a text; returns whether bytes told where the tokens begin."""
    expected = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    starts = [start for start, _ in expected.offsets]
    encoded = encode(Encoder(tokenizer), text)
    assert encoded.ids == expected.ids
    for character in range(len(text) + 2):
        assert encoded.token_at(character) == bisect_left(starts, character), character
    return encoded.in_bytes


TEXT = st.text(st.characters(codec="utf-8"), max_size=40) | st.text(
    "ab 1é\u0301饭\n🩺", max_size=30
)


@given(TEXT)
@example("no token has the first byte of \U00040000")
def test_the_bytes_of_tokens_tell_where_they_begin(smollm: Any, text: str) -> None:
    """But of a text for whose bytes there are no tokens: those are left out."""
    backend = smollm.backend_tokenizer
    ids = backend.encode(text, add_special_tokens=False).ids
    assert check(smollm, text) == (backend.decode(ids, skip_special_tokens=False) == text)


@given(TEXT)
@example("\u0958 becomes three bytes longer, and these three shorter: e\u0301e\u0301e\u0301")
def test_a_text_that_the_tokenizer_would_compose_is_not_measured_in_bytes(
    tiny: Any, text: str
) -> None:
    composing = deepcopy(tiny)
    composing.backend_tokenizer.normalizer = normalizers.NFC()
    composed = composing.backend_tokenizer.normalizer.normalize_str(text) == text
    assert check(composing, text) == composed


def trims(backend: Any) -> None:
    backend.post_processor = processors.ByteLevel(trim_offsets=True)


def trims_among_others(backend: Any) -> None:
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True)])


def begins_with_a_space(backend: Any) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def lowers(backend: Any) -> None:
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])


def marks_spaces(backend: Any) -> None:
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()


def knows_no_byte(backend: Any) -> None:
    backend.model.unk_token = "<|end|>"


@pytest.mark.parametrize(
    "change",
    [trims, trims_among_others, begins_with_a_space, lowers, marks_spaces, knows_no_byte],
)
@pytest.mark.parametrize("text", TEXTS)
def test_other_tokenizers_are_asked(tiny: Any, change: Callable[[Any], None], text: str) -> None:
    other = deepcopy(tiny)
    change(other.backend_tokenizer)
    assert not check(other, text)


@pytest.mark.parametrize("text", ["a <mark> b", "<mark>", "a  <mark>", "no mark"])
def test_so_is_one_whose_token_took_the_spaces_beside_it(tiny: Any, text: str) -> None:
    other = deepcopy(tiny)
    other.add_tokens([AddedToken("<mark>", lstrip=True, rstrip=True)])
    assert check(other, text) == (" <" not in text)


def test_works_that_ask_together_get_what_they_would_alone(smollm: Any) -> None:
    def work(texts: list[str]) -> Tokenising[list[Encoded]]:
        answers = []
        for text in texts:
            answers.append((yield text))
        return answers

    encoder = Encoder(smollm)
    asked = [TEXTS[:3], [], TEXTS[3:], TEXTS[1:2], TEXTS]
    alone = [[encode(encoder, text) for text in texts] for texts in asked]
    assert list(encoder.together(map(work, asked))) == alone
    assert list(encoder.together([])) == []


@pytest.mark.parametrize(("works", "characters"), [(3, 2**20), (256, 20), (1, 1)])
def test_few_texts_are_held_at_a_time(
    smollm: Any, monkeypatch: pytest.MonkeyPatch, works: int, characters: int
) -> None:
    begun = []

    def work(number: int) -> Tokenising[int]:
        begun.append(number)
        encoded = yield "ten tokens"
        return number * len(encoded.text)

    monkeypatch.setattr(encoding, "WORKS", works)
    monkeypatch.setattr(encoding, "CHARACTERS", characters)
    at_a_time = min(works, -(-characters // 10))
    for number, result in enumerate(Encoder(smollm).together(map(work, range(10)))):
        assert result == number * 10
        assert len(begun) == min(10, (number // at_a_time + 1) * at_a_time)
