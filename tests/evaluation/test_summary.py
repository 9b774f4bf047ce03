"""Numbers, changes and verdicts of a result, against figures that are known."""

import math
from dataclasses import replace

import pytest

from medgpt_ray.evaluation.summary import Measured, entry, markdown

DATA = {"scoring": "likelihood", "data": [{"path": "exam.jsonl", "sha256": "f" * 64}]}


def measured(metric, values, weights=None, facts=DATA):
    return Measured("exam", metric, values, weights, "a" * 64, f"sha256:{'b' * 64}", facts)


def test_accuracy_has_its_interval_n_and_hashes() -> None:
    found = entry(measured("accuracy", [1.0] * 30 + [0.0] * 70), None)
    assert (found["n"], found["value"]) == (100, 0.3)
    assert found["low"] == pytest.approx(0.3 - 0.09, abs=0.02)
    assert found["high"] == pytest.approx(0.3 + 0.09, abs=0.02)
    assert found["prompt_sha256"] == "a" * 64
    assert found["template"] == f"sha256:{'b' * 64}"
    assert "base" not in found


def test_perplexity_is_weighted_by_tokens() -> None:
    found = entry(measured("perplexity", [1.0, 3.0], [30.0, 10.0]), None)
    assert found["value"] == pytest.approx(math.exp((1.0 * 30 + 3.0 * 10) / 40))
    assert found["low"] == pytest.approx(math.e)
    assert found["high"] == pytest.approx(math.exp(3.0))


def test_what_was_forgotten_is_worse_though_the_intervals_overlap() -> None:
    before = [1.0, 0.0] * 40
    after = before.copy()
    after[0:20:2] = [0.0] * 10
    found = entry(measured("accuracy", after), measured("accuracy", before))
    assert found["change"]["value"] == pytest.approx(-0.125)
    assert found["change"]["high"] < 0
    assert found["high"] > found["base"]["low"], "apart, the two intervals overlap"
    assert found["verdict"] == "worse"


def test_the_same_answers_are_no_change() -> None:
    found = entry(*[measured("accuracy", [1.0, 0.0, 1.0])] * 2)
    assert found["change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["verdict"] == "no clear change"


def test_a_lower_perplexity_is_better_and_a_factor() -> None:
    weights = [10.0, 20.0, 30.0]
    after = measured("perplexity", [1.0, 1.1, 1.2], weights)
    before = measured("perplexity", [1.5, 1.6, 1.7], weights)
    found = entry(after, before)
    assert found["change"]["value"] == pytest.approx(math.exp(-0.5))
    assert found["verdict"] == "better"
    assert entry(before, after)["verdict"] == "worse"


def test_other_tokens_are_not_compared() -> None:
    model = measured("perplexity", [1.0, 2.0], [10.0, 10.0])
    found = entry(model, replace(model, values=[1.0], weights=[10.0], prompt_sha256="c" * 64))
    assert found["change"] is None
    assert "tokenise the rows differently" in found["verdict"]
    assert found["base"]["value"] == pytest.approx(math.e)


def test_the_page_has_a_row_for_each_number() -> None:
    facts = DATA | {"chance": 0.25, "chosen": {"A": 2}}
    both = measured("accuracy", [1.0, 0.0], facts=facts), measured("accuracy", [0.0, 0.0])
    result = {
        "name": "first",
        "created": "2026-01-01T00:00:00Z",
        "model": "runs/a",
        "base": "models/b",
        "code": {"version": "0.1.0", "commit": "c" * 40},
        "metrics": [entry(*both)],
    }
    page = markdown(result)
    assert "| exam | accuracy (chance 0.25) | 2 | 0.000 [0.000, 0.000] | 0.500 [" in page
    assert "| +0.500 [+0.000, +1.000] | no clear change |" in page
    assert (
        "| exam | likelihood, chose 2× A | exam.jsonl ffffffffffff | aaaaaaaaaaaa | bbbbbbbbbbbb |"
        in page
    )
    alone = markdown(result | {"base": None, "metrics": [entry(both[0], None)]})
    assert "change" not in alone.partition("In brackets")[0]
