"""A question in a conversation as one that can be understood alone, by rule: no model, no chance.

"How is it treated?" after "What is gout?" becomes "What is gout? How is it treated?". A question
that names its own subject stays as it is, so that a change of subject is followed.
"""

import re
from collections.abc import Sequence

from medgpt_ray.retrieval.terms import is_chinese, question_terms

_POINTS_BACK = re.compile(
    r"\b(it|its|they|them|their|that|this|these|those|he|she|him|her|the same|instead|else)\b"
    r"|^(and|but|or|so|then|also|what about|how about|what if)\b"
    r"|[它他她]|这个|这种|这些|这样|那个|那种|那么|该病|此病|该药|此药|上述|前者|后者|其他|还有|^那|^还|呢[??]?$",
    re.I,
)
_FEW_WORDS = 3
_FEW_GRAMS = 11
"""Of a Chinese question: six characters and the pairs of them."""


def condense(questions: Sequence[str]) -> str:
    """What to search for after the user asked `questions`, the last one now."""
    subject = ""
    for question in questions[:-1]:
        subject = question if not subject or not is_follow_up(question) else subject
    question = questions[-1]
    return f"{subject} {question}" if subject and is_follow_up(question) else question


def is_follow_up(question: str) -> bool:
    few = _FEW_GRAMS if is_chinese(question) else _FEW_WORDS
    return bool(_POINTS_BACK.search(question.strip())) or len(question_terms(question)) <= few
