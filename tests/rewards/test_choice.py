"""Which option a reply chooses: clear, unclear, denied, copied; in English and Chinese."""

import pytest

from medgpt_ray.rewards.choice import choice, multiple_choice

OPTIONS = {"A": "aspirin", "B": "metformin", "C": "insulin glargine", "D": "insulin"}
PROMPT = "Which drug is first? A. aspirin B. metformin C. insulin glargine D. insulin"


@pytest.mark.parametrize(
    "reply",
    [
        "B",
        "b",
        "(B)",
        "Ｂ．",
        "B.",
        "**B**",
        "B. metformin",
        "B) Metformin, because it lowers glucose.",
        "B because it lowers glucose.",
        "Option B.",
        "Answer: B",
        "Answer: (B)",
        "answer: b",
        "**Answer:** B",
        "The correct answer is (B) metformin.",
        "The answer is B. A is wrong, C is incorrect.",
        "A is tempting, but the best choice is B.",
        "I would choose B.",
        "I would not choose A. The answer is B.",
        "B is correct.",
        "\\boxed{B}",
        "It is $\\boxed{\\text{B}}$.".replace("\\text{B}", "B"),
        "<think>A or C? The answer is A.</think>B",
        "答案是B",
        "答案：B",
        "正确答案为 B。",
        "故选B。",
        "排除A、C，选B。",
        "不选A，选B。",
        "选项B正确。",
        "B项正确，A项错误。",
        "本题选择（B）。",
        "正确选项：B",
        "最佳选项：B",
        "答案：【B】",
        "答案为【B】",
        "选【B】",
        "故本题正确选项为【B】",
        "metformin",
        "The drug of choice is metformin, not aspirin.",
    ],
)
def test_clear_choices(reply: str) -> None:
    row = {"answer": "B", "options": OPTIONS}
    assert multiple_choice(PROMPT, reply, row) == 1.0
    assert multiple_choice(PROMPT, reply, {**row, "answer": "A"}) == 0.0


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "A, B, C, D",
        "ABCD",
        "A or B",
        "Answer: A or B",
        "Answer: B or C",
        "The answer is A/B.",
        "Answer: A. Answer: B.",
        "The answer is A. No, the answer is B.",
        "Both A and B are correct.",
        "The answer is not B.",
        "B is wrong.",
        "B is not correct.",
        "答案不是B",
        "不选B",
        "B错误。",
        "答案是A或B",
        "选A，也可以选B。",
        "The answer is B (aspirin).",
        "B. aspirin",
        "The answer is B. B is incorrect.",
        PROMPT,
        "A. aspirin B. metformin C. insulin glargine D. insulin",
        "A. aspirin\nB. metformin\nC. insulin glargine\nD. insulin",
        "aspirin, metformin, insulin glargine, insulin",
        "metformin or aspirin",
        "not metformin",
        "Answer: B? Hard to say.",
        "A beta blocker",
        "Because of the kidneys.",
        "B " * 50 + "A",
    ],
)
def test_no_choice_of_b(reply: str) -> None:
    assert multiple_choice(PROMPT, reply, {"answer": "B", "options": OPTIONS}) == 0.0


@pytest.mark.parametrize(
    "reply",
    [
        "ABD",
        "A, B, D",
        "D、B、A",
        "A, B and D",
        "答案是ABD",
        "Answer: (A), (B) and (D)",
        "A B D",
        "正确答案包括：A、B、D",
        "正确选项包括A、B、D",
    ],
)
def test_several_letters_in_any_order(reply: str) -> None:
    assert multiple_choice("", reply, {"answer": "ABD"}) == 1.0
    assert multiple_choice("", reply, {"answer": "A, B, D."}) == 1.0
    assert multiple_choice("", reply, {"answer": "AB"}) == 0.0
    assert multiple_choice("", reply, {"answer": ["AB", "ABD"]}) == 1.0


@pytest.mark.parametrize(
    ("reply", "score"),
    [("ABD", 1.0), ("AB", 2 / 3), ("ABC", 1 / 3), ("ABCDE", 1 / 3), ("C", 0.0), ("", 0.0)],
)
def test_partial(reply: str, score: float) -> None:
    assert multiple_choice("", reply, {"answer": "ABD"}, partial=True) == pytest.approx(score)


def test_partial_does_not_pay_for_every_option() -> None:
    assert multiple_choice("", "ABCDE", {"answer": "AB"}, partial=True) == 0.0


@pytest.mark.parametrize("reply", ["A. aspirin B. metformin", "A) aspirin\nB) metformin"])
def test_copied_options_are_no_choice_where_the_row_does_not_list_them(reply: str) -> None:
    assert multiple_choice("", reply, {"answer": "A"}) == 0.0


def test_the_longer_option_is_the_one_meant() -> None:
    assert choice("Give insulin glargine.", OPTIONS) == {"C"}
    assert choice("Give insulin.", OPTIONS) == {"D"}


def test_within_a_tag() -> None:
    row = {"answer": "B"}
    assert multiple_choice("", "A?<answer>B</answer>", row, within="answer") == 1.0
    assert multiple_choice("", "<answer>A</answer><answer>B</answer>", row, within="answer") == 0.0


def test_options_as_a_list_and_gold_as_text() -> None:
    row = {"answer": "metformin", "options": ["aspirin", "metformin"]}
    assert multiple_choice("", "B", row) == 1.0
    assert multiple_choice("", "C", row) == 0.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "column answer: missing, expected text or a list of texts"),
        ({"answer": 2}, "column answer: is 2, expected text"),
        ({"answer": "metformin"}, "column answer: is 'metformin', expected letters such as B"),
        ({"answer": "E", "options": OPTIONS}, r"expected letters such as B or ABD \(of A, B, C, D"),
        ({"answer": "A", "options": "A. aspirin"}, "column options: is 'A. aspirin', expected"),
        ({"answer": "A", "options": {"one": "aspirin"}}, "column options: is .*by letter"),
    ],
)
def test_bad_rows(row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiple_choice("", "B", row)


def test_a_letter_means_the_option_before_its_text() -> None:
    blood = {"A": "B", "B": "A", "C": "O", "D": "AB"}
    assert multiple_choice("", "The answer is B", {"answer": "B", "options": blood}) == 1.0
    assert multiple_choice("", "The answer is A", {"answer": "B", "options": blood}) == 0.0
