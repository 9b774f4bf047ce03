"""Quantities in a text: numbers, units, ranges, and what is no quantity."""

import pytest

from medgpt_ray.rewards.quantities import quantities


def same(one: str, other: str) -> bool:
    (first,), (second,) = quantities(one), quantities(other)
    return first.agrees(second)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("500 mg", "0.5 g"),
        ("500mg", "５００毫克"),
        ("250 µg", "0.25 mg"),
        ("250 mcg", "250微克"),
        ("1,500 mL", "1.5 升"),
        ("5 mg/kg/day", "5毫克/公斤/天"),
        ("5 mg/kg per day", "5 mg/kg/d"),
        ("90 mL/min/1.73 m2", "90 ml/min/1.73m²"),
        ("250 mg/5 mL", "50 mg/mL"),
        ("7 mmol/L", "7毫摩尔/升"),
        ("3.5×10⁹/L", "3.5 x 10^9/L"),
        ("80 beats/min", "80次/分"),
        ("80/min", "80 /minute"),
        ("98.6 °F", "37℃"),
        ("-2.5", "−2.5"),
        ("10 units", "10 IU"),
        ("12万单位", "120,000 IU"),
        ("2 weeks", "14 days"),
        ("1 year", "12 months"),
        ("5 %", "5%"),
        ("1/2 tablet", "0.5 tablets"),
        ("120/80 mmHg", "120/80毫米汞柱"),
        ("2-4 mg", "2 mg to 4 mg"),
        ("2~4毫升", "2至4 mL"),
        (".5 mg", "0.5 mg"),
        ("0,5 mg", "0.5 mg"),
        ("12,5 mL", "12.5 mL"),
        ("0,125 mg", "125 mcg"),
        ("1 000 mg", "1 g"),
        ("½ tablet", "0.5 tablets"),
        ("1½ tablets", "1.5 tablets"),
    ],
)
def test_equal(one: str, other: str) -> None:
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("500 mg", "500 g"),
        ("500 mg", "500 mL"),
        ("500 mg", "500"),
        ("5 mg", "5 mg/kg"),
        ("5 mg/kg/day", "5 mg/kg/h"),
        ("7 mmol/L", "7 mg/dL"),
        ("120/80 mmHg", "80/120 mmHg"),
        ("120/80 mmHg", "120 mmHg"),
        ("2-4 mg", "2 mg"),
        ("5 months", "5 minutes"),
        ("10 mEq", "10 mmol"),
        ("0,5 mg", "5 mg"),
        ("½ mg", "2 mg"),
        ("1,500 mg", "1.5 mg"),
    ],
)
def test_different(one: str, other: str) -> None:
    assert not same(one, other)


def test_inside_a_range_and_tolerance() -> None:
    (gold,), (three,), (five,) = quantities("2-4 mg"), quantities("3 mg"), quantities("5 mg")
    assert three.agrees(gold)
    assert not five.agrees(gold)
    assert five.agrees(gold, tolerance=0.25)
    assert quantities("3-4 mg")[0].agrees(gold)
    assert not gold.agrees(three)


def test_daily_amounts_have_two_readings() -> None:
    for text in ("500 mg daily", "500 mg a day", "每日服用500毫克"):
        amount, rate = quantities(text)
        assert amount.agrees(quantities("0.5 g")[0])
        assert rate.agrees(quantities("500 mg/day")[0])
        assert amount.start == rate.start


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Vitamin B12, COVID-19, T4 and SpO2", []),
        ("1. Give 500 mg\n2. Rest", [500.0]),
        ("1.气候", []),
        ("Between 2 and 4, then 1.5.", [2.0, 4.0, 1.5]),
        ("version 1.2.3", []),
    ],
)
def test_what_is_no_quantity(text: str, written: list[float]) -> None:
    assert [quantity.written[0] for quantity in quantities(text)] == written


@pytest.mark.parametrize(
    ("text", "number"), [("十二片", 12), ("二百五十毫克", 250), ("两片", 2), ("半片", 0.5)]
)
def test_chinese_numerals(text: str, number: float) -> None:
    assert [quantity.written for quantity in quantities(text)] == [(number, number)]


@pytest.mark.parametrize("text", ["三分之一片", "第二包", "twenty two tablets", "一支持物"])
def test_numerals_are_not_cut(text: str) -> None:
    assert not quantities(text)
