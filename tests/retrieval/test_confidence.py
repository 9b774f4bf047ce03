import numpy as np
import pytest

from medgpt_ray.retrieval.confidence import THRESHOLD, Calibration, Evidence, fit


def test_the_fit_is_the_minimum_of_the_balanced_loss() -> None:
    random = np.random.default_rng(0)
    evidence = [Evidence(*random.uniform(0, (3, 1, 1, 1)).tolist()) for _ in range(300)]
    answerable = [one.matched + random.normal() > 1 for one in evidence]
    fitted = np.array(fit(evidence, answerable))

    def loss(weights: np.ndarray) -> float:
        target = np.array(answerable)
        probability = [Calibration(*weights.tolist()).confidence(one) for one in evidence]
        right = np.where(target, probability, 1 - np.array(probability))
        share = np.where(target, target.mean(), 1 - target.mean())
        return float(-np.sum(np.log(right) / (2 * share)) + 0.5 * 3.0 * np.sum(weights[:-1] ** 2))

    assert fitted[0] > 0.5
    for direction in [*np.eye(5), *-np.eye(5)]:
        assert loss(fitted + 0.02 * direction) > loss(fitted)


def test_the_rarer_kind_of_question_counts_as_much() -> None:
    evidence = [Evidence(1.0, 0.0, 0.0, 0.0)] * 3 + [Evidence(3.0, 0.0, 0.0, 0.0)] * 97
    fitted = fit(evidence, [False] * 3 + [True] * 97)
    assert fitted.confidence(evidence[0]) < THRESHOLD < fitted.confidence(evidence[-1])


def test_one_kind_of_question_is_not_enough() -> None:
    with pytest.raises(ValueError, match="with and without"):
        fit([Evidence(1.0, 0.0, 0.0, 0.0)], [True])
