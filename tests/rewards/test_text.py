"""Exact match and token F1 on the cases where a careless comparison of answers is wrong."""

import pytest

from medgpt_ray.rewards.text import exact_match, token_f1, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dose: 2.5mg.", ["dose", "2.5", "mg"]),
        ("BP 148/92, pulse 80", ["bp", "148/92", "pulse", "80"]),
        ("1,200 mg at 8:30", ["1200", "mg", "at", "8:30"]),
        ("T-score −2.5, 2-3 days", ["t", "score", "-2.5", "2", "3", "days"]),
        ("SpO2 93 %", ["spo", "2", "93", "%"]),
        ("每次５００毫克。", ["每", "次", "500", "毫", "克"]),
        ("Ménière Straße", ["ménière", "strasse"]),
        ("A", ["a"]),
        ("+", ["+"]),
        (" ... ", ["..."]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("completion", "answer", "f1", "exact"),
    [
        ("The 500 MG.", "500 mg", 1.0, 1.0),
        ("5 mg", "0.5 mg", 0.5, 0.0),
        ("25 mg", "2.5 mg", 0.5, 0.0),
        ("It is 500 mg twice a day", "500 mg", 2 * 2 / (6 + 2), 0.0),
        ("mg 500", "500 mg", 1.0, 0.0),
        ("500 mg 500 mg", "500 mg", 2 * 2 / (4 + 2), 0.0),
        ("每次500毫克", "500毫克", 2 * 3 / (5 + 3), 0.0),
        ("500mg", "500 mg", 1.0, 1.0),
        ("", "500 mg", 0.0, 0.0),
        ("...", "500 mg", 0.0, 0.0),
        ("two weeks", ["in two weeks", "two weeks"], 1.0, 1.0),
    ],
)
def test_scores(completion: str, answer: str | list[str], f1: float, exact: float) -> None:
    row = {"answer": answer}
    assert token_f1("prompt", completion, row) == pytest.approx(f1)
    assert exact_match("prompt", completion, row) == exact


def test_a_row_without_answer_raises_instead_of_scoring() -> None:
    for function in (token_f1, exact_match):
        with pytest.raises(ValueError, match="no answer to compare with"):
            function("prompt", "500 mg", {"question": "Which dose?"})
