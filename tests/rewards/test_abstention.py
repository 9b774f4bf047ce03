"""Answering where there is an answer, abstaining where there is none, and nothing in between."""

import pytest

from medgpt_ray.rewards.abstention import answer_or_abstain

PROMPT = "Note: amoxicillin was prescribed. What is the dose?"
SILENT = {"answer": "not stated"}
SILENT_ZH = {"answer": "未提及"}
STATED = {"answer": "500 mg"}


@pytest.mark.parametrize(
    "reply",
    [
        "Not stated.",
        "The note does not say which dose.",
        "The dose isn't mentioned in the note. Please ask the doctor who prescribed it.",
        "I don't know.",
        "It cannot be determined from the note.",
        "<think>Usually 500 mg.</think>Not stated.",
        "病历中未提及剂量。",
        "没有提到剂量，请咨询医生。",
        "无法确定。",
    ],
)
def test_abstaining_is_right_where_there_is_no_answer(reply: str) -> None:
    for row in (SILENT, SILENT_ZH, {"answerable": False}, {**STATED, "answerable": False}):
        assert answer_or_abstain(PROMPT, reply, row) == 1.0
    for row in (STATED, {**SILENT, "answerable": True}):
        score = answer_or_abstain(
            PROMPT, reply, row, correctness="medgpt_ray.rewards.text:token_f1"
        )
        assert score == 0.0


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "500 mg",
        "Not stated, but probably 500 mg.",
        "Not stated. 500 mg.",
        "Not stated. It is usually given three times daily.",
        "Not stated. Take it with food.",
        "The dose is not stated; amoxicillin treats infections.",
        "未提及，一般是500毫克。",
        "Not stated. " * 60,
        PROMPT,
    ],
)
def test_guesses_beside_an_abstention_do_not_count(reply: str) -> None:
    assert answer_or_abstain(PROMPT, reply, SILENT) == 0.0


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("500 mg", 1.0),
        ("500 mg daily", 0.8),
        ("Not stated.", 0.0),
        ("Not stated. 500 mg.", 0.0),
        ("500 mg, or it is not stated", 0.0),
        ("gout", 0.0),
    ],
)
def test_where_there_is_an_answer(reply: str, score: float) -> None:
    assert answer_or_abstain(PROMPT, reply, STATED) == pytest.approx(score)


@pytest.mark.parametrize("reply", ["Not stated.", "500 mg", "Not stated. 500 mg."])
def test_one_reply_for_every_note_does_not_pay(reply: str) -> None:
    assert sum(answer_or_abstain(PROMPT, reply, row) for row in (SILENT, STATED)) <= 1.0


def test_another_function_judges_the_answers() -> None:
    options = {"correctness": "medgpt_ray.rewards.numeric:numeric_match"}
    assert answer_or_abstain(PROMPT, "It is 0.5 g.", STATED, **options) == 1.0
    options["arguments"] = {"unit": "optional"}
    assert answer_or_abstain(PROMPT, "500", STATED, **options) == 1.0


def test_a_row_that_says_neither_is_bad() -> None:
    with pytest.raises(ValueError, match="column answer: missing"):
        answer_or_abstain(PROMPT, "500 mg", {"question": PROMPT})
    with pytest.raises(ValueError, match="column answerable: is 'no', expected true or false"):
        answer_or_abstain(PROMPT, "500 mg", {"answerable": "no"})
