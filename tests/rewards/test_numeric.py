"""A number as the answer: units, tolerance, and replies that offer several."""

import pytest

from medgpt_ray.rewards.numeric import numeric_match


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("500 mg", "500 mg"),
        ("0.5 g", "500 mg"),
        ("The dose is 500mg every 8 hours.", "500 mg"),
        ("3 x 500 mg = 1500 mg", "1.5 g"),
        ("He weighs 20 kg at 15 mg/kg, so give 300 mg.", "300 mg"),
        ("250 mg is too little. Answer: 500 mg", "500 mg"),
        ("To answer this, 3 × 500 = 1500 mg", "1500 mg"),
        ("Answer: 500 mg (0.5 g)", "500 mg"),
        ("500 mg, then again: 500 mg", "500 mg"),
        ("每次500毫克。", "500 mg"),
        ("答案是0.5克", "500毫克"),
        ("约1,500毫升", "1.5 L"),
        ("3 mg", "2-4 mg"),
        ("2-4 mg", "2-4 mg"),
        ("500 mg daily", "500 mg"),
        ("500 mg daily", "500 mg/day"),
        ("37 °C", "98.6 °F"),
        ("120/80 mmHg", "120/80 mmHg"),
        ("46", "46"),
        ("12+34=46", "46"),
        ("It is 46 kg.", "46"),
        ("250 mg", ["500 mg", "250 mg"]),
        ("<think>250 mg? 1 g?</think>500 mg", "500 mg"),
    ],
)
def test_right(reply: str, answer: str | list[str]) -> None:
    assert numeric_match("", reply, {"answer": answer}) == 1.0


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("", "500 mg"),
        ("none", "500 mg"),
        ("500", "500 mg"),
        ("500 g", "500 mg"),
        ("500 mL", "500 mg"),
        ("500 mg/kg", "500 mg"),
        ("50 mg", "500 mg"),
        ("2-4 mg", "3 mg"),
        ("1-5 mg", "2-4 mg"),
        ("80/120 mmHg", "120/80 mmHg"),
        ("250 mg, 500 mg, 750 mg or 1 g", "500 mg"),
        ("250 mg or 500 mg", "500 mg"),
        ("Answer: 250 mg. Answer: 500 mg.", "500 mg"),
        ("500 mg or 500 mL", "500 mg"),
        ("44 45 46 47", "46"),
        ("12+34=?", "46"),
        ("<think>500 mg", "500 mg"),
    ],
)
def test_wrong(reply: str, answer: str) -> None:
    assert numeric_match("12+34=?", reply, {"answer": answer}) == 0.0


def test_tolerance_of_the_call_and_of_the_row() -> None:
    row = {"answer": "100 mg"}
    assert numeric_match("", "104 mg", row) == 0.0
    assert numeric_match("", "104 mg", row, tolerance=0.05) == 1.0
    assert numeric_match("", "104 mg", {**row, "tolerance": 0.05}) == 1.0
    assert numeric_match("", "104 mg", {**row, "tolerance": 0.01}, tolerance=0.05) == 0.0


def test_optional_unit() -> None:
    for answer, reply in (("500 mg", "500"), ("98.6 °F", "98.6"), ("2-4 mg", "3")):
        assert numeric_match("", reply, {"answer": answer}, unit="optional") == 1.0
    assert numeric_match("", "500 g", {"answer": "500 mg"}, unit="optional") == 0.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "column answer: missing"),
        ({"answer": "none"}, "column answer: is 'none', expected one number, such as 500 mg"),
        ({"answer": "5 mg or 6 mg"}, "expected one number"),
        ({"answer": "5 mg", "tolerance": "1%"}, "column tolerance: is '1%', expected a number"),
    ],
)
def test_bad_rows(row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numeric_match("", "5 mg", row)


def test_a_gold_that_is_a_bound() -> None:
    for gold in ("<7%", "≥140", "at least 30 minutes", "超过38°C"):
        assert numeric_match("", gold, {"answer": gold}) == 1.0
    assert numeric_match("", "up to 500 mg", {"answer": "500 mg"}) == 0.0
    assert numeric_match("", "Give 5 mg over 10 minutes", {"answer": "10 minutes"}) == 1.0
