"""Rubrics: HealthBench's formula, keywords that are affirmed, and replies that only list them."""

import pytest

from medgpt_ray.rewards.rubric import rubric_score, weighted

RUBRIC = [
    {"points": 5, "any": ["call an ambulance", "call 911", "拨打120"]},
    {"points": 3, "all": ["aspirin", "chew"]},
    {"points": 2, "any": ["ECG", "心电图"]},
    {"points": -4, "pattern": r"wait (?:and see|until)"},
    {"points": -5, "any": ["nitroglycerin after sildenafil"]},
]
ROW = {"rubric": RUBRIC}
FULL = (
    "This may be a heart attack. Call an ambulance. Chew one aspirin unless you are allergic. "
    "The crew will record an ECG on the way to the hospital."
)


@pytest.mark.parametrize(
    ("points", "met", "score"),
    [
        ([5, 3, -4], [True, True, False], 1.0),
        ([5, 3, -4], [True, False, False], 5 / 8),
        ([5, 3, -4], [True, False, True], 1 / 8),
        ([5, 3, -4], [False, True, True], 0.0),
        ([5, 3, -4], [False, False, False], 0.0),
        ([10, -2], [True, True], 0.8),
    ],
)
def test_the_formula(points: list[int], met: list[bool], score: float) -> None:
    assert weighted([{"points": p} for p in points], met) == pytest.approx(score)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (FULL, 1.0),
        ("Please call 911 at once and do not drive.", 0.5),
        ("请立即拨打120，到医院做心电图检查。", 0.7),
        (FULL + " Or wait and see.", 0.6),
        (FULL.replace("Call an ambulance", "Do not call an ambulance"), 0.5),
        ("Take one aspirin with water.", 0.0),
        ("Wait until tomorrow.", 0.0),
        ("", 0.0),
        ("Call an ambulance, aspirin, chew, ECG", 0.0),
        ("call an ambulance\naspirin chew\nECG", 0.0),
        ("拨打120、aspirin、chew、心电图", 0.0),
        ("Sleep is good for you, as all of us know. Call an ambulance, chew, aspirin, ECG.", 0.0),
        (FULL * 5, 1.0),
        ("<think>" + FULL + "</think>Rest.", 0.0),
    ],
)
def test_keywords(reply: str, score: float) -> None:
    assert rubric_score("", reply, ROW) == pytest.approx(score)


def test_penalties_count_in_a_stuffed_reply_too() -> None:
    row = {"rubric": [{"points": 5, "any": ["rest"]}, {"points": -5, "any": ["opium"]}]}
    assert rubric_score("", "Rest well at home today. Opium.", row) == 0.0
    assert rubric_score("", "Rest well at home today. No opium.", row) == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "column rubric: missing, expected a list of criteria such as"),
        ({"rubric": "be good"}, "column rubric: is 'be good', expected a list of criteria"),
        ({"rubric": []}, "expected at least one criterion with positive points"),
        ({"rubric": [{"any": ["rest"]}]}, "expected a list of criteria such as"),
        ({"rubric": [{"points": -1, "any": ["rest"]}]}, "at least one .* with positive points"),
        ({"rubric": [{"points": 1}]}, "one of any, all and pattern in each criterion"),
        ({"rubric": [{"points": 1, "any": "rest"}]}, "one of any, all and pattern in each"),
        ({"rubric": [{"points": 1, "any": ["a"], "all": ["b"]}]}, "only one of any, all and"),
        ({"rubric": [{"points": 1, "pattern": "("}]}, "a regular expression as pattern"),
        ({"rubric": [{"points": 1, "criterion": "Kind"}]}, "judged_rubric reads `criterion`"),
    ],
)
def test_bad_rows(row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rubric_score("", "Rest.", row)
