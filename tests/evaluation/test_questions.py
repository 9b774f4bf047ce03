"""Rows of every format become questions; what is wrong with one is told by its field."""

from typing import Any

import pytest

from medgpt_ray.evaluation.questions import BadQuestion, fill, parse

CHOICE = {"question": "Which organ makes bile?", "options": {"A": "liver", "B": "lung"}}
CMB = {
    "exam_type": "医师考试",
    "exam_class": "执业医师",
    "exam_subject": "口腔执业医师",
    "question": "下列哪项属于恒牙？",
    "answer": "B",
    "question_type": "单项选择题",
    "option": {"A": "乳中切牙", "B": "第一恒磨牙", "C": "乳尖牙", "D": "", "E": ""},
}
CMEXAM = {
    "Question": "胆汁由哪个器官分泌？",
    "Options": "A 肝脏\nB 肺\nC 脾",
    "Answer": "A",
    "Explanation": "肝细胞分泌胆汁。",
}


def test_a_choice_by_letter_or_as_a_list() -> None:
    by_letter = parse(CHOICE | {"answer": "A"}, "choice", "f:1")
    as_list = parse(CHOICE | {"answer": "A", "options": ["liver", "lung"]}, "choice", "f:1")
    assert by_letter.options == as_list.options == {"A": "liver", "B": "lung"}
    assert by_letter.answer == "A"


def test_cmb_drops_the_letters_that_only_fill_up() -> None:
    question = parse(CMB, "cmb", "f:1")
    assert question.options == {"A": "乳中切牙", "B": "第一恒磨牙", "C": "乳尖牙"}
    assert question.answer == "B"


@pytest.mark.parametrize("answer", ["CA", "A,C", "Ａ、Ｃ", " a c ", "A.C."])
def test_several_letters_in_any_order_and_writing(answer: str) -> None:
    row = CMB | {"question_type": "多项选择题", "answer": answer}
    assert parse(row, "cmb", "f:1").answer == "AC"


@pytest.mark.parametrize(
    "options",
    [
        "A 肝脏\nB 肺\nC 脾",
        "A. 肝脏\nB、肺\nC：脾\n",
        [{"key": "A", "value": "肝脏"}, {"key": "B", "value": "肺"}, {"key": "C", "value": "脾"}],
        {"A": "肝脏", "B": "肺", "C": "脾"},
    ],
)
def test_cmexam_as_csv_text_as_list_and_as_object(options: Any) -> None:
    question = parse(CMEXAM | {"Options": options}, "cmexam", "f:1")
    assert question.options == {"A": "肝脏", "B": "肺", "C": "脾"}
    assert question.text == "胆汁由哪个器官分泌？"


def test_an_option_over_two_lines() -> None:
    question = parse(CMEXAM | {"Options": "A 肝脏\n（右上腹）\nB 肺"}, "cmexam", "f:1")
    assert question.options["A"] == "肝脏 （右上腹）"


@pytest.mark.parametrize(
    ("format", "row", "problem"),
    [
        ("choice", CHOICE, "answer: missing"),
        ("choice", {"options": ["a", "b"], "answer": "A"}, "question: missing"),
        ("choice", {"question": "?", "answer": "A"}, "options: missing"),
        ("choice", CHOICE | {"answer": "C"}, "answer: 'C' is outside the options, which are A, B"),
        ("choice", CHOICE | {"answer": "heart"}, "outside the options"),
        ("choice", CHOICE | {"answer": "AA"}, "names a letter twice"),
        (
            "choice",
            {"question": "Which group?", "options": {"A": "AB", "B": "0"}, "answer": "AB"},
            "answer: 'AB' is the text of option A: take its letter",
        ),
        ("choice", CHOICE | {"answer": " "}, "answer: is ' '"),
        ("choice", CHOICE | {"answer": 1}, "answer: is 1, expected text"),
        ("choice", CHOICE | {"answer": "A", "options": {"A": "x", "C": "y"}}, "B is missing"),
        ("choice", CHOICE | {"answer": "A", "options": {"A": "x", "B": " "}}, "options.B: empty"),
        ("choice", CHOICE | {"answer": "A", "options": ["x"]}, "expected two or more"),
        ("choice", CHOICE | {"answer": "A", "options": ["x"] * 11}, "at most 10"),
        ("cmb", CMB | {"answer": "AB"}, "单项选择题"),
        ("cmb", CMB | {"answer": "D"}, "outside the options, which are A, B, C"),
        ("cmb", {k: v for k, v in CMB.items() if k != "answer"}, "answer: missing"),
        ("cmexam", CMEXAM | {"Options": "肝脏\n肺"}, "does not begin with an option's letter"),
        ("cmexam", CMEXAM | {"Options": "A 肝\nA 肺"}, "the letter A stands twice"),
        ("cmexam", CMEXAM | {"Options": [{"A": "肝"}]}, '"key"'),
        ("open", {"question": "?"}, "rubric: missing"),
    ],
)
def test_a_bad_row_names_its_field(format: str, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadQuestion, match=problem):
        parse(row, format, "f:1")


def test_a_prompt_shows_question_options_and_columns() -> None:
    question = parse(CMB, "cmb", "f:1")
    assert fill("{exam_class}：{question}\n{options}", question) == (
        "执业医师：下列哪项属于恒牙？\nA. 乳中切牙\nB. 第一恒磨牙\nC. 乳尖牙"
    )
    with pytest.raises(BadQuestion, match="exam_board: missing"):
        fill("{exam_board} {question}", question)


def test_curly_brackets_in_a_question_are_left_alone() -> None:
    question = parse(CHOICE | {"question": "Is {options} {0} a set?", "answer": "A"}, "choice", "f")
    assert fill("{question}", question) == "Is {options} {0} a set?"
