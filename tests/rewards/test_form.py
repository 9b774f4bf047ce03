"""The form of a reply over several lines: right once, and worth nothing when repeated."""

import pytest

from medgpt_ray.rewards.form import answer_part, regex_match, tag_format

GOOD = "<think>\nFirst.\nSecond.\n</think>\n<answer>\nGout.\n</answer>"


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (GOOD, 1.0),
        (f"\n {GOOD} \n", 1.0),
        ("<think>a</think><answer>b</answer>", 1.0),
        ("<think>1 < 2 > 0 </b></think><answer>b</answer>", 1.0),
        (GOOD + GOOD, 0.0),
        (f"Well. {GOOD}", 0.0),
        (f"{GOOD} Bye.", 0.0),
        ("<think>a</think> so <answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think>a<answer>b</answer></think><answer>c</answer>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think> </think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>\n</answer>", 0.0),
        ("<think>a<answer>b</think></answer>", 0.0),
        ("<think>a</think>", 0.0),
        ("<Think>a</Think><Answer>b</Answer>", 0.0),
        ("think answer", 0.0),
        ("", 0.0),
    ],
)
def test_tags(reply: str, score: float) -> None:
    assert tag_format("", reply, {}) == score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (GOOD, 1.0),
        ("", 0.0),
        ("<think>a", 1 / 8),
        ("<think>a</think>b", 1 / 4),
        ("<think>a</think><answer>b", 3 / 8),
        (f"Well. {GOOD}", 1 / 2),
        ("<think>a</think>" * 9, 0.0),
        ("<think></think><answer></answer>" * 2, 0.0),
    ],
)
def test_graded_tags(reply: str, score: float) -> None:
    assert tag_format("", reply, {}, graded=True) == score


def test_other_tags() -> None:
    assert tag_format("", "<dose>5 mg</dose>", {}, names=["dose"]) == 1.0
    assert tag_format("", "<dose>5 mg</dose><dose>5 mg</dose>", {}, names=["dose"]) == 0.0
    assert tag_format("", "<a.b>x</a.b>", {}, names=["a.b"]) == 1.0
    assert tag_format("", "<aXb>x</aXb>", {}, names=["a.b"]) == 0.0


def test_a_pattern_matches_the_whole_reply_over_lines() -> None:
    pattern = r"Plan:.*\d+ mg\."
    assert regex_match("", "Plan:\nrest,\n5 mg.\n", {}, pattern=pattern) == 1.0
    assert regex_match("", "Plan:\n5 mg.\nMore.", {}, pattern=pattern) == 0.0
    assert regex_match("", "A Plan: 5 mg.", {"pattern": pattern}) == 0.0
    assert regex_match("", "5", {"pattern": "six"}, pattern=r"\d") == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "column pattern: missing, expected text"),
        ({"pattern": 5}, "column pattern: is 5, expected text"),
        ({"pattern": "("}, r"column pattern: is '\(', expected a regular expression \(missing"),
    ],
)
def test_bad_rows(row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regex_match("", "5", row)


@pytest.mark.parametrize(
    ("reply", "within", "part"),
    [
        ("gout", None, "gout"),
        ("<think>a</think>gout", None, "gout"),
        ("a</think>\ngout", None, "gout"),
        ("<think>a</think>b<think>c</think>gout", None, "gout"),
        ("<think>a, b", None, ""),
        (GOOD, "answer", "Gout."),
        (GOOD + GOOD, "answer", ""),
        ("</answer>a<answer>", "answer", ""),
        ("gout", "answer", ""),
    ],
)
def test_the_part_with_the_answer(reply: str, within: str | None, part: str) -> None:
    assert answer_part(reply, within) == part
