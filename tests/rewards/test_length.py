"""Penalties for length and repetition, in words and in Chinese characters."""

import pytest

from medgpt_ray.rewards.length import cosine_length, length_penalty, repetition_penalty

EXACT = "medgpt_ray.rewards.text:exact_match"


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("", 0.0),
        ("word " * 10, 0.0),
        ("word " * 15, -0.5),
        ("word " * 20, -1.0),
        ("word " * 500, -1.0),
        ("多" * 10, 0.0),
        ("多" * 15, -0.5),
        ("多喝水，" * 5, -0.5),
    ],
)
def test_length(reply: str, score: float) -> None:
    assert length_penalty("", reply, {}, max_length=10, slack=10) == score


def test_length_of_the_row_and_least_length() -> None:
    assert length_penalty("", "word " * 15, {"max_length": 15}, max_length=10, slack=10) == 0.0
    assert length_penalty("", "", {}, min_length=10) == -1.0
    assert length_penalty("", "word " * 5, {}, min_length=10) == -0.5
    assert length_penalty("", "word " * 10, {}, min_length=10) == 0.0
    with pytest.raises(ValueError, match="column max_length: is '10', expected a number"):
        length_penalty("", "word", {"max_length": "10"})


@pytest.mark.parametrize(
    ("reply", "least", "most"),
    [
        ("", 0.0, 0.0),
        ("Rest.", 0.0, 0.0),
        ("Rest, drink enough, and see your doctor when the fever stays.", 0.0, 0.0),
        ("多喝水，注意休息，如果发热不退请到医院就诊。", 0.0, 0.0),
        ("Rest and drink enough water. " * 20, -1.0, -0.9),
        ("多喝水多休息。" * 20, -1.0, -0.9),
        ("water " * 100, -1.0, -0.98),
    ],
)
def test_repetition(reply: str, least: float, most: float) -> None:
    assert least <= repetition_penalty("", reply, {}) <= most


def test_the_share_of_repeated_pairs() -> None:
    assert repetition_penalty("", "one two one two one", {}, ngram=2) == pytest.approx(2 / 4 - 1)


def test_cosine() -> None:
    row = {"answer": "gout"}

    def score(reply: str, max_length: int = 10) -> float:
        return cosine_length("", reply, row, correctness=EXACT, max_length=max_length)

    assert score("gout", 10**6) == pytest.approx(1.0)
    assert score("gout", 2) == pytest.approx(0.75)
    assert score("gout", 1) == pytest.approx(0.5)
    assert score("lupus", 10**6) == pytest.approx(-1.0)
    assert score("lupus " * 5) == pytest.approx(-0.75)
    assert score("gout " * 99) == pytest.approx(-0.5)


def test_cosine_passes_arguments_on() -> None:
    options = {"correctness": EXACT, "arguments": {"within": "answer"}, "max_length": 10**6}
    assert cosine_length("", "x <answer>gout</answer>", {"answer": "gout"}, **options) > 0.99
