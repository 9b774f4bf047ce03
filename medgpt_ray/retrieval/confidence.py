"""Does a passage answer the question, or is there nothing about it in the index?

A logistic regression on how much of the question's wording the best passage has, and how near it is
in meaning. A cosine means something else with each embedding model, so the weights
are those of one: `benchmarks.retrieval` fits the shipped one's, `medgpt index calibrate` others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

THRESHOLD = 0.6
"""Above a half: a passage that does not answer does more harm than none."""
_RIDGE = 0.01
"""Times the number of questions: keeps weights finite where the questions separate perfectly."""


class Evidence(NamedTuple):
    matched: float
    """Question terms in the passage, each by its rarity: 1 for a term that only one chunk has."""
    coverage: float
    """Share, by rarity, of the terms of the last turn alone: low for "Does it cause hair loss?"
    after a question about metformin, though the passage is about metformin."""
    cosine: float
    """Of question and passage; 0 where the model cannot read the question."""
    chinese: float
    """1 for a Chinese question, which has more terms: each character and each pair."""


def no_evidence(chinese: bool) -> Evidence:
    """Where nothing was found, or only passages that lack a name in the question."""
    return Evidence(0.0, 0.0, 0.0, float(chinese))


class Calibration(NamedTuple):
    matched: float
    coverage: float
    cosine: float
    chinese: float
    bias: float

    def confidence(self, evidence: Evidence) -> float:
        """0 to 1; from `THRESHOLD` on the passage counts as sufficient."""
        logit = float(np.dot(evidence, self[:-1])) + self.bias
        return float(1 / (1 + np.exp(-logit)))


MINILM = Calibration(matched=0.54, coverage=1.457, cosine=1.67, chinese=-1.507, bias=-1.597)
"""For the shipped embedding model."""
WORDS_ONLY = Calibration(matched=0.536, coverage=1.857, cosine=0.0, chinese=-1.962, bias=-1.154)
"""For any other model, until it is calibrated: its cosines say nothing yet."""


def fit(evidence: Sequence[Evidence], answerable: Sequence[bool]) -> Calibration:
    """By Newton's method, both kinds of question weighing the same however many there are."""
    features = np.column_stack([np.array(evidence), np.ones(len(evidence))])  # [questions, 5]
    target = np.array(answerable, dtype=float)
    if target.min() == target.max():
        raise ValueError("calibration needs questions with and without an answer")
    weight = np.where(target == 1, 0.5 / target.mean(), 0.5 / (1 - target.mean()))
    ridge = _RIDGE * len(target) * np.diag([1.0, 1.0, 1.0, 1.0, 0.0])
    beta = np.zeros(5)
    for _ in range(50):
        probability = 1 / (1 + np.exp(-features @ beta))
        gradient = features.T @ (weight * (probability - target)) + ridge @ beta
        curvature = (features.T * (weight * probability * (1 - probability))) @ features + ridge
        beta -= np.linalg.lstsq(curvature, gradient, rcond=None)[0]
    return Calibration(*(round(float(value), 3) for value in beta))
