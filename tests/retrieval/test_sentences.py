"""Sentences end where a reader says that they end, and nothing of the text is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgpt_ray.retrieval.sentences import parts, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("发热三天。伴咳嗽!要紧吗?", ["发热三天。", "伴咳嗽!", "要紧吗?"]),
        ("他说:“不痛。”然后走了。", ["他说:“不痛。”", "然后走了。"]),
        ("Give 0.5 mg. Repeat once.", ["Give 0.5 mg.", "Repeat once."]),
        (
            "Dr. Li saw it (e.g. Aspirin). It helped.",
            ["Dr. Li saw it (e.g. Aspirin).", "It helped."],
        ),
        ("Approx. 5 ml. of syrup daily.", ["Approx. 5 ml. of syrup daily."]),
        ("pH 7.4 is normal", ["pH 7.4 is normal"]),
        ("服用5.5毫克。Then stop.", ["服用5.5毫克。", "Then stop."]),
    ],
)
def test_where_sentences_end(text: str, expected: list[str]) -> None:
    assert [sentence for _, sentence in sentences(text)] == expected


@given(st.text(alphabet="ab 。.!?;,、e\n ", max_size=80))
def test_no_character_is_lost_and_offsets_are_true(text: str) -> None:
    found = list(sentences(text))
    assert "".join("".join(sentence.split()) for _, sentence in found) == "".join(text.split())
    for offset, sentence in found:
        assert text[offset:].lstrip().startswith(sentence)


@given(st.text(alphabet="abc ,,、", min_size=1, max_size=80), st.integers(1, 12))
def test_parts_of_a_sentence_fit_and_lose_nothing(text: str, limit: int) -> None:
    found = list(parts(text, len, limit))
    assert all(len(part) <= limit for _, part in found)
    assert "".join("".join(part.split()) for _, part in found) == "".join(text.split())


def test_a_long_sentence_is_cut_after_a_clause() -> None:
    sentence = "先测血压,再量体温,最后抽血。"
    assert [part for _, part in parts(sentence, len, 10)] == ["先测血压,再量体温,", "最后抽血。"]


def test_a_very_long_sentence_is_not_measured_again_and_again() -> None:
    measured = 0

    def measure(text: str) -> int:
        nonlocal measured
        measured += len(text)
        return len(text.split())

    sentence = "word " * 20_000
    cut = list(parts(sentence, measure, 50))
    assert [len(part.split()) for _, part in cut] == [50] * 400
    assert measured < 30 * len(sentence)
