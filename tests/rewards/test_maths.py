"""Mathematical answers as expressions: equal forms, one final answer, nothing that hangs."""

import threading
import time

import pytest

from medgpt_ray.rewards.maths import math_match


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("56", "56"),
        ("7×8=56", "56"),
        ("7 \\times 8 = 56", "56"),
        ("The answer is 56.", "56"),
        ("答案是56", "56"),
        ("共56个", "56"),
        ("\\boxed{56}", "56"),
        ("So \\[ x = \\boxed{\\frac12} \\]", "0.5"),
        ("1/2", "0.5"),
        ("0.5", "\\frac{1}{2}"),
        ("1,200", "1200"),
        ("x=5", "5"),
        ("5", "x=5"),
        ("1+x^2", "$x^2+1$"),
        ("(1,2)", "(1,2)"),
        ("10^{-3}", "0.001"),
        ("\\boxed{5}, again \\boxed{5}", "5"),
        ("First $x=3$,\nso the answer is $\\sqrt{2}$", "\\sqrt{2}"),
        ("<think>5? 6?</think>56", "56"),
        ("-3", ["3", "-3"]),
    ],
)
def test_equal(reply: str, answer: str | list[str]) -> None:
    assert math_match("7×8=?", reply, {"answer": answer}) == 1.0


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("", "56"),
        ("57", "56"),
        ("none", "56"),
        ("7×8=?", "56"),
        ("7×8", "56"),
        ("112/2", "56"),
        ("54 55 56", "56"),
        ("54, 55, 56", "56"),
        ("55 or 56", "56"),
        ("Answer: 55. Answer: 56.", "56"),
        ("\\boxed{55} \\boxed{56}", "56"),
        ("\\{1,2,3\\}", "3"),
        ("<think>56", "56"),
    ],
)
def test_different_or_no_single_answer(reply: str, answer: str) -> None:
    assert math_match("7×8=?", reply, {"answer": answer}) == 0.0


def test_within_a_tag() -> None:
    row = {"answer": "56"}
    assert math_match("", "1 <answer>56</answer> 2", row, within="answer") == 1.0


@pytest.mark.parametrize(
    "reply",
    [
        "9^{9^{9}}",
        "9^9^9",
        "9**9**9",
        "1000000!",
        "(999)!",
        "(" * 200 + "x" + ")" * 200,
        "x" * 9999,
    ],
)
def test_expressions_that_would_take_for_ever_score_nothing_at_once(reply: str) -> None:
    began = time.process_time()
    assert math_match("", f"\\boxed{{{reply}}}", {"answer": "5"}) == 0.0
    assert time.process_time() - began < 1.0


def test_another_thread_can_use_it() -> None:
    scores: list[float] = []
    row = {"answer": "x^2+1"}
    thread = threading.Thread(target=lambda: scores.append(math_match("", "1+x^2", row)))
    thread.start()
    thread.join(timeout=30)
    assert scores == [1.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "column answer: missing"),
        ({"answer": 56}, "column answer: is 56, expected text"),
        ({"answer": "blue whale"}, "is 'blue whale', expected a number or a formula"),
    ],
)
def test_bad_rows(row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        math_match("", "56", row)
