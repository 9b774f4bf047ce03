"""What holds for every function: bounds, no crash and no endless search, whatever the reply."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgpt_ray.rewards import resolve

ROW: dict[str, Any] = {
    "answer": "500 mg",
    "context": "Amoxicillin 500 mg three times daily.",
    "pattern": r"<answer>.*</answer>",
    "contraindications": ["penicillin | 青霉素"],
    "safe": ["paracetamol"],
    "rubric": [{"points": 5, "any": ["amoxicillin"]}, {"points": -5, "pattern": "wait"}],
}
CHOICE = {"answer": "B", "options": {"A": "aspirin", "B": "amoxicillin", "C": "rest"}}
FUNCTIONS: dict[str, tuple[dict[str, Any], float, float]] = {
    "text:exact_match": (ROW, 0.0, 1.0),
    "text:token_f1": (ROW, 0.0, 1.0),
    "text:fuzzy_match": (ROW, 0.0, 1.0),
    "text:contains_answer": (ROW, 0.0, 1.0),
    "choice:multiple_choice": (CHOICE, 0.0, 1.0),
    "numeric:numeric_match": (ROW, 0.0, 1.0),
    "maths:math_match": ({"answer": "5"}, 0.0, 1.0),
    "form:regex_match": (ROW, 0.0, 1.0),
    "form:tag_format": (ROW, 0.0, 1.0),
    "length:length_penalty": (ROW, -1.0, 0.0),
    "length:repetition_penalty": (ROW, -1.0, 0.0),
    "rubric:rubric_score": (ROW, 0.0, 1.0),
    "safety:emergency_referral": (ROW, 0.0, 1.0),
    "safety:no_invented_dose": (ROW, 0.0, 1.0),
    "safety:contraindications": (ROW, 0.0, 1.0),
    "abstention:answer_or_abstain": (ROW, 0.0, 1.0),
}
PIECES = [
    *("500 mg", "5", "-", "1,500", "1e99", "/0 mg", "²", "⁹", "×10^", "120/80", "12:30", "%", "°F"),
    *(
        "A",
        "B.",
        "(C)",
        "answer is ",
        "答案是",
        "\\boxed{",
        "}",
        "$",
        "\\frac",
        "^",
        "or ",
        "或",
        "=",
    ),
    *("<think>", "</think>", "<answer>", "</answer>", "not ", "avoid ", "不要", "if ", "call 911"),
    *(
        "amoxicillin",
        "penicillin",
        "wait ",
        "not stated",
        " ",
        "\n",
        ".",
        ",",
        "，",
        "。",
        "\u2028",
        "İ",
    ),
]
LONG = [
    *(piece * (5_000 // len(piece)) for piece in PIECES),
    "B " * 5_000,
    "5 mg " * 4_000,
    "not " * 2_500 + "penicillin",
    "penicillin, " * 2_000,
    "word " * 2_000,
    "(" * 5_000,
    "a" * 5_000,
    "我" * 5_000,
    "<answer>" + "x\n" * 5_000,
    "<answer>" * 12_500,
    "青霉素" * 20_000,
    "500 mg, " * 12_500,
    " ".join(f"{number} mg" for number in range(8_000)),
    *(
        piece * (20_000 // len(piece))
        for piece in ("1", "555", "1/", "\n", "penicillin ", "A, s, 所以,")
    ),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_long_replies_are_scored_in_time(name: str) -> None:
    function = resolve(f"medgpt_ray.rewards.{name}")
    row, least, most = FUNCTIONS[name]
    function("How much amoxicillin?", "5", row)  # late imports
    for reply in LONG:
        started = time.process_time()
        assert least <= function("How much amoxicillin?", reply, row) <= most
        assert time.process_time() - started < 5.0, reply[:20]  # quadratic time takes far more


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=30, derandomize=True)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_no_reply_is_an_error(name: str, reply: str) -> None:
    row, least, most = FUNCTIONS[name]
    score = resolve(f"medgpt_ray.rewards.{name}")("How much amoxicillin?", reply, row)
    assert least <= score <= most
