"""Rewards that compare the whole reply with a gold answer: exact match and token F1.

Scored as SQuAD does (arXiv 1606.05250) with a normalisation that is safe for doses and for Chinese:
decimal points, signs and ratios stay ("2.5 mg" is not "25 mg"), a number and its unit are two
tokens however they are spaced, every CJK character is a token, full-width forms equal plain ones.
`row["answer"]` is a string or a list of equally good ones: the best score counts. Every token that
is not in the gold costs precision, so a reply that copies the question or rambles scores low.
"""

import re
import unicodedata
from collections import Counter
from typing import Any

ARTICLES = frozenset({"a", "an", "the"})
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_TOKEN = re.compile(rf"(?<!\w)-\d+(?:[./:,]\d+)*|\d+(?:[./:,]\d+)*|[%{_CJK}]|[^\W\d_{_CJK}]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def tokens(text: str) -> list[str]:
    """`text` case-folded, without articles and punctuation: "The dose: 2.5mg" is dose, 2.5, mg.

    Text that holds nothing else ("A", "+") is kept as it is, so that it can be a gold answer.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").strip()
    found = _TOKEN.findall(_THOUSANDS.sub("", folded))
    return [token for token in found if token not in ARTICLES] or found or folded.split()


def exact_match(prompt: str, completion: str, row: dict[str, Any]) -> float:
    """1.0 when the reply is the gold answer and nothing else, up to normalisation; else 0.0."""
    given = tokens(completion)
    return float(any(given == tokens(gold) for gold in _golds(row)))


def token_f1(prompt: str, completion: str, row: dict[str, Any]) -> float:
    """Harmonic mean of precision and recall over tokens, repeated ones counted, in [0, 1]."""
    given = Counter(tokens(completion))
    return max(_f1(given, Counter(tokens(gold))) for gold in _golds(row))


def _f1(given: Counter[str], gold: Counter[str]) -> float:
    common = (given & gold).total()
    return 2 * common / (given.total() + gold.total()) if common else 0.0


def _golds(row: dict[str, Any]) -> list[str]:
    if "answer" not in row:
        raise ValueError("the row has no answer to compare with: add one to every row of the data")
    answer = row["answer"]
    return [answer] if isinstance(answer, str) else list(answer)
