import numpy as np
import pytest

from medgpt_ray.retrieval.confidence import THRESHOLD, Calibration, Evidence, fit


def test_the_fit_finds_the_weights_that_made_the_answers() -> None:
    random = np.random.default_rng(0)
    true = Calibration(1.5, 1.0, 3.0, -1.0, -3.0)
    evidence = [Evidence(*random.uniform(0, (3, 1, 1, 2)).tolist()) for _ in range(4000)]
    evidence = [one._replace(chinese=float(one.chinese > 1)) for one in evidence]
    answerable = [random.uniform() < true.confidence(one) for one in evidence]
    fitted = fit(evidence, answerable)
    agree = [
        (fitted.confidence(one) >= THRESHOLD) == (true.confidence(one) >= THRESHOLD)
        for one in evidence
    ]
    assert np.mean(agree) > 0.95
    assert fitted.matched > 0.5
    assert fitted.cosine > 0.5
    assert fitted.chinese < 0


def test_the_rarer_kind_of_question_counts_as_much() -> None:
    evidence = [Evidence(1.0, 0.0, 0.0, 0.0)] * 3 + [Evidence(3.0, 0.0, 0.0, 0.0)] * 97
    fitted = fit(evidence, [False] * 3 + [True] * 97)
    assert fitted.confidence(evidence[0]) < THRESHOLD < fitted.confidence(evidence[-1])


def test_one_kind_of_question_is_not_enough() -> None:
    with pytest.raises(ValueError, match="with and without"):
        fit([Evidence(1.0, 0.0, 0.0, 0.0)], [True])
