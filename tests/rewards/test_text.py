"""Wording against a gold answer, on the cases where a careless comparison is wrong."""

import itertools
import json
from pathlib import Path

import pytest

from medgpt_ray.rewards.text import contains_answer, exact_match, fuzzy_match, token_f1, tokens

SHARED = Path(__file__).parents[3] / "shared/data/grpo_medical_qa.jsonl"
EVERY = (exact_match, token_f1, fuzzy_match, contains_answer)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dose: 2.5mg.", ["dose", "2.5", "mg"]),
        ("BP 148/92, pulse 80", ["bp", "148/92", "pulse", "80"]),
        ("1,200 mg at 8:30", ["1200", "mg", "at", "8:30"]),
        ("T-score −2.5, 2-3 days", ["t", "score", "-2.5", "2", "3", "days"]),
        ("SpO2 93 %", ["spo", "2", "93", "%"]),
        ("每次５００毫克。", ["每", "次", "500", "毫", "克"]),
        ("Ménière Straße", ["meniere", "strasse"]),
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


GOLD_ZH = "第3肋间隙，距前正中线4寸"


@pytest.mark.parametrize(
    ("completion", "answer", "least", "most"),
    [
        ("第３肋间隙,距前正中线４寸。", GOLD_ZH, 1.0, 1.0),
        ("在第3肋间隙，距前正中线4寸处。", GOLD_ZH, 0.75, 0.9),
        ("第5肋间隙，距前正中线4寸", GOLD_ZH, 0.4, 0.7),
        ("距第4寸前正中线，3肋间隙", GOLD_ZH, 0.4, 0.8),
        ("第3肋间隙，距前正中线4寸" * 5, GOLD_ZH, 0.0, 0.4),
        ("3 4", GOLD_ZH, 0.0, 0.1),
        ("", GOLD_ZH, 0.0, 0.0),
        ("Take 500 mg twice daily", "500 mg twice daily", 0.7, 0.9),
        ("Take 50 mg twice daily", "500 mg twice daily", 0.0, 0.4),
        ("46", "46", 1.0, 1.0),
        ("64", "46", 0.0, 0.0),
        ("急性胃炎", ["胃炎", "急性胃炎"], 1.0, 1.0),
    ],
)
def test_fuzzy_match(completion: str, answer: str, least: float, most: float) -> None:
    assert least <= fuzzy_match("prompt", completion, {"answer": answer}) <= most


@pytest.mark.parametrize(
    ("completion", "answer", "score"),
    [
        ("It is gout.", "gout", 1.0),
        ("Yes. It is gout, an arthritis caused by crystals of uric acid.", "gout", 1.0),
        ("可能是食管克罗恩病，建议尽快到医院做进一步检查。", "食管克罗恩病", 1.0),
        ("Take 500mg twice a day with food.", "500 mg", 1.0),
        ("7×8=56", "56", 1.0),
        ("It is gout. Rest, drink water.", "gout", 1.0),
        ("Use 500 mg, twice daily.", "500 mg twice daily", 1.0),
        ("痤疮、沙漠疮。", "痤疮；沙漠疮", 1.0),
        ("Pseudogout.", "gout", 0.0),
        ("It is not gout.", "gout", 0.0),
        ("It is gout. It is not gout.", "gout", 0.0),
        ("不是食管克罗恩病", "食管克罗恩病", 0.0),
        ("1,500 mg", "500 mg", 0.0),
        ("0.500 mg", "500 mg", 0.0),
        ("", "gout", 0.0),
        ("gout, pseudogout, sepsis, osteoarthritis", "gout", 1 / 4),
        ("Gout. Pseudogout. Sepsis. Arthritis.", "gout", 1 / 4),
        ("gout and pseudogout and sepsis and osteoarthritis", "gout", 1 / 4),
        ("gout\npseudogout\nsepsis\nosteoarthritis", "gout", 1 / 4),
        ("It may be gout. It may be lupus. It may be acute septic arthritis.", "gout", 1 / 3),
        ("食管克罗恩病、痔疮、肛裂、肛瘘", "食管克罗恩病", 1 / 4),
        ("5 mg 50 mg 500 mg 250 mg", "500 mg", 1 / 4),
        ("gout " * 410, "gout", 41 / 410),
        ("7×8=? Gout or sepsis?", "gout", 0.0),
    ],
)
def test_contains_answer(completion: str, answer: str, score: float) -> None:
    found = contains_answer("7×8=? Gout or sepsis?", completion, {"answer": answer})
    assert found == pytest.approx(score)


def test_a_larger_allowance_forgives_length() -> None:
    reply = "It is gout. " + "Drink enough water and rest the joint for some days now. " * 5
    row = {"answer": "gout"}
    assert contains_answer("", reply, row, allowance=5) < 0.2
    assert contains_answer("", reply, row, allowance=100) == 1.0


@pytest.mark.parametrize("function", EVERY)
def test_thinking_and_tags(function) -> None:
    row = {"answer": "gout"}
    assert function("", "<think>Sepsis? Lupus?</think>\nGout.", row) == 1.0
    assert function("", "Sepsis? Lupus?</think>\nGout.", row) == 1.0
    assert function("", "<think>Gout.", row) == 0.0
    assert function("", "Sepsis?<answer>Gout</answer>", row, within="answer") == 1.0
    assert function("", "Gout", row, within="answer") == 0.0
    assert function("", "<answer>gout</answer><answer>lupus</answer>", row, within="answer") == 0.0


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "Which dose?"},
            r"column answer: missing, .* every row .*\(it has question\)",
        ),
        ({"answer": 5}, "column answer: is 5, expected text or a list of texts"),
        ({"answer": []}, r"column answer: is \[\], expected text or a list of texts"),
    ],
)
def test_bad_rows_raise_instead_of_scoring(function, row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function("prompt", "500 mg", row)


@pytest.mark.skipif(not SHARED.is_file(), reason="no folder of real samples beside the repository")
def test_real_answers_match_themselves_and_no_others() -> None:
    rows = [json.loads(line) for line in SHARED.read_text().splitlines()]
    for row in rows:
        for function in EVERY:
            assert function(row["question"], row["answer"], row) == pytest.approx(1.0), row
    others = [
        fuzzy_match(row["question"], other["answer"], row)
        for row, other in itertools.permutations(rows, 2)
        if row["answer"] != other["answer"]
    ]
    assert max(others) < 0.1
    assert sum(others) / len(others) < 0.001
