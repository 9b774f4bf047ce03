"""Scores by a rubric: weighted criteria of a good reply, as in HealthBench (arXiv 2505.08775).

`row["rubric"]` is a list of criteria. Each has `points` (negative for what a reply must not do)
and says when it is met:

    {"points": 5, "any": ["call an ambulance", "拨打120"]}     one of these is affirmed
    {"points": 3, "all": ["ECG", "troponin"]}                  each of these is affirmed
    {"points": -4, "pattern": "wait (?:and see|a few days)"}   a regular expression is found
                                                               (a penalty: not behind "not")
    {"points": 5, "criterion": "Explains why ..."}             a judge says so: `judged_rubric`

The score is the points of the criteria that are met over the sum of all positive points, at least
0 and at most 1.
"""

import re
from collections.abc import Sequence
from typing import Any

from medgpt_ray.rewards import columns, mentions
from medgpt_ray.rewards.columns import ADVICE
from medgpt_ray.rewards.form import answer_part
from medgpt_ray.rewards.text import tokens

NEAR = 40
_NOT = re.compile(
    r"(?:\b(?:not|never)|n['’]t|不要|不可|不能|切勿|请勿|别)\s*(?:\w+\s+)?$", re.IGNORECASE
)
"""What denies a penalty that it stands before: "do not wait and see"."""
CRITERION = 'criteria such as {"points": 5, "any": ["rest"]}'
STUFFED = 3
"""From so many criteria on, a text that is mostly their keywords counts for none of them."""


def rubric_score(
    prompt: str, completion: str, row: dict[str, Any], *, within: str | None = None
) -> float:
    """The rubric's score by keywords and patterns, in [0, 1].

    A keyword that the reply denies ("do not call an ambulance") does not count, nor do keywords
    strung together without sentences around them.
    """
    rubric = criteria(row)
    reply = answer_part(completion, within)
    told = _without_stuffing(reply, rubric)
    met = [_is_met(row, criterion, reply, told) for criterion in rubric]
    return weighted(rubric, met)


def criteria(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The row's rubric, checked: points are numbers, at least one is positive."""
    rubric = row.get("rubric")
    if not isinstance(rubric, list) or not all(
        isinstance(criterion, dict)
        and isinstance(criterion.get("points"), int | float)
        and not isinstance(criterion["points"], bool)
        for criterion in rubric
    ):
        raise columns.bad(row, "rubric", f"a list of {CRITERION}")
    if not any(criterion["points"] > 0 for criterion in rubric):
        raise columns.bad(row, "rubric", "at least one criterion with positive points")
    return rubric


def weighted(rubric: Sequence[dict[str, Any]], met: Sequence[bool]) -> float:
    """Points of the criteria that are met, over all positive points, clipped to [0, 1]."""
    points = [float(criterion["points"]) for criterion in rubric]
    earned = sum(value for value, is_met in zip(points, met, strict=True) if is_met)
    return min(1.0, max(0.0, earned / sum(value for value in points if value > 0)))


def _is_met(row: dict[str, Any], criterion: dict[str, Any], reply: str, told: str) -> bool:
    """Penalties are looked for in the whole reply, merits in what is `told` in sentences."""
    if len({"any", "all", "pattern"} & set(criterion)) > 1:
        raise columns.bad(row, "rubric", "only one of any, all and pattern in each criterion")
    text = told if criterion["points"] > 0 else reply
    if "pattern" in criterion:
        try:
            found = re.finditer(criterion["pattern"], text, re.IGNORECASE | re.DOTALL)
            penalty = criterion["points"] < 0
            return any(not (penalty and _NOT.search(text[: one.start()][-NEAR:])) for one in found)
        except (re.error, TypeError) as error:
            raise columns.bad(row, "rubric", f"a regular expression as pattern ({error})") from None
    affirmed = [_affirms(text, keyword) for keyword in _keywords(row, criterion)]
    return any(affirmed) if "any" in criterion else all(affirmed)


def _affirms(text: str, keyword: str) -> bool:
    return any(not mention.denied for mention in mentions.find(mentions.names([keyword]), text))


def _keywords(row: dict[str, Any], criterion: dict[str, Any]) -> list[str]:
    words = criterion.get("any", criterion.get("all"))
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        advice = "judge.py:judged_rubric reads `criterion`" if "criterion" in criterion else ADVICE
        raise columns.bad(row, "rubric", "one of any, all and pattern in each criterion", advice)
    return words


def _without_stuffing(reply: str, rubric: list[dict[str, Any]]) -> str:
    """The reply without sentences, or all of it, that are little more than a list of keywords."""
    wanted = [c.get("any") or c.get("all") or [] for c in rubric if c["points"] > 0]
    patterns = [mentions.names(words) for words in wanted if words]
    kept = [s for s in mentions.sentences(reply) if not _is_stuffed(s, patterns)]
    text = "\n".join(kept)
    return "" if _is_stuffed(text, patterns) else text


def _is_stuffed(text: str, patterns: list[re.Pattern[str]]) -> bool:
    plain = mentions.plain(text)
    found = [match.group() for pattern in patterns for match in pattern.finditer(plain)]
    touched = sum(pattern.search(plain) is not None for pattern in patterns)
    covered = sum(len(tokens(word)) for word in found)
    return touched >= STUFFED and 2 * covered > len(tokens(text))
