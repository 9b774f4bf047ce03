"""A question in a conversation as one that can be understood alone, by rule: no model, no chance.

"How is it treated?" after "What is gout?" becomes "What is gout? How is it treated?". A question
that names its own subject stays as it is, so that a change of subject is followed; "And of
metformin?" after "What is the dose of warfarin?" becomes "What is the dose of ? And of metformin?".
"""

import re
from collections.abc import Callable, Sequence

from medgpt_ray.retrieval.terms import is_chinese, question_terms

_PRONOUN = re.compile(
    r"\b(it|its|they|them|their|that|this|these|those|he|she|him|her)\b"
    r"|[它他她]|这个|这种|这些|那个|那种|该病|此病|该药|此药|上述|前者|后者",
    re.I,
)
_CONNECTS = re.compile(
    r"\b(the same|instead|else)\b|^(and|but|or|so|then|also|what about|how about|what if)\b"
    r"|这样|那么|其他|还有|^那|^还|呢[??]?$",
    re.I,
)
_BESIDE = re.compile(r"\b(with|together)\b|一起|同时|合用", re.I)
_FEW_WORDS = 3
_FEW_GRAMS = 11
"""Of a Chinese question: six characters and the pairs of them."""


_OWN_WORDS = 2
_OWN_GRAMS = 8
"""Beside the name of another drug: from here on the question says itself what it asks."""

Named = Callable[[str], Sequence[str]]
"""The names in a question, as `names.names` finds them."""


def condense(questions: Sequence[str], named: Named) -> str:
    """What to search for after the user asked `questions`, the last one now."""
    subject = whole = ""
    for question in questions:
        if not subject or not is_follow_up(question, named):
            subject = whole = question
        elif _is_on_another(question, named):
            subject = whole = f"{_without(subject, named(subject))} {question}"
        else:
            whole = f"{subject} {question}"
    return whole


def is_follow_up(question: str, named: Named) -> bool:
    chinese, connects = is_chinese(question), _CONNECTS.search(question.strip())
    if _is_on_another(question, named):
        rest = question_terms(_without(question, named(question)))
        return bool(connects) and len(rest) < (_OWN_GRAMS if chinese else _OWN_WORDS)
    few = _FEW_GRAMS if chinese else _FEW_WORDS
    return bool(connects or _PRONOUN.search(question)) or len(question_terms(question)) <= few


def _is_on_another(question: str, named: Named) -> bool:
    """Whether it names a drug in place of the one before, and not beside it."""
    beside = _PRONOUN.search(question) or _BESIDE.search(question)
    return bool(named(question)) and not beside


def _without(text: str, found: Sequence[str]) -> str:
    for name in found:
        text = re.sub(re.escape(name), "", text, flags=re.I)
    return text
