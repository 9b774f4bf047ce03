"""Rewards that compare a reply's wording with a gold answer.

Normalised as SQuAD does (arXiv 1606.05250), in a way that is safe for doses and for Chinese:
decimal points, signs and ratios stay ("2.5 mg" is not "25 mg"), a number and its unit are two
tokens however they are spaced, every CJK character is a token, full-width forms equal plain ones.
`row["answer"]` is a string or a list of equally good ones: the best score counts. Thinking up to
`</think>` is left out; with `within: answer` only `<answer>...</answer>` counts.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from medgpt_ray.config.section import NonNegative
from medgpt_ray.rewards import columns, mentions
from medgpt_ray.rewards.form import answer_part

ARTICLES = frozenset({"a", "an", "the"})
NO_ALTERNATIVES = frozenset({"yes", "no", "sure", "ok", "answer", "是", "是的", "答案"})
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_TOKEN = re.compile(
    rf"[<>≤≥±](?=\s?\d)|(?<=[A-Za-z\d])(?:\+(?![\da-z])|-(?=$|[\s.,;:)*。]))|(?<!\w)-\d+(?:[./:,]\d+)*"
    rf"|\d+(?:[./:,]\d+)*|[%{_CJK}]|[^\W\d_{_CJK}]+"
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_END = re.compile(r"[。!！?？\n]|\.(?!\d)")
_LIST = re.compile(r"[,，、;；/]|\bor\b|或者?|还是")
_LIST_AND = re.compile(rf"{_LIST.pattern}|\band\b|和|以及")
_DENIAL = re.compile(r"\s*(?:not|rather than|instead of|excludes?|不是|并非|而非|不考虑|排除)")
_LAST = re.compile(r"\w(?=\W*$)")
_GOLD = "goldanswer"


def tokens(text: str) -> list[str]:
    """`text` case-folded, without articles and punctuation: "The dose: 2.5mg" is dose, 2.5, mg.

    Text that holds nothing else ("A", "+") is kept as it is, so that it can be a gold answer. So is
    a sign that carries the meaning: of "HER2+", "Rh-", "<5" and "≥140".
    """
    folded = mentions.without_accents(text).casefold().replace("\u2212", "-").strip()
    found = _TOKEN.findall(_THOUSANDS.sub("", folded))
    return [token for token in found if token not in ARTICLES] or found or folded.split()


def exact_match(
    prompt: str, completion: str, row: dict[str, Any], *, within: str | None = None
) -> float:
    """1.0 when the reply is the gold answer and nothing else, up to normalisation; else 0.0."""
    given = tokens(answer_part(completion, within))
    return float(any(given == tokens(gold) for gold in columns.texts(row, "answer")))


def token_f1(
    prompt: str, completion: str, row: dict[str, Any], *, within: str | None = None
) -> float:
    """Harmonic mean of precision and recall over tokens, repeated ones counted, in [0, 1].

    Order does not count, so unrelated long Chinese texts share characters: see `fuzzy_match`.
    """
    given = Counter(tokens(answer_part(completion, within)))
    return max(_f1(given, Counter(tokens(gold))) for gold in columns.texts(row, "answer"))


def fuzzy_match(
    prompt: str, completion: str, row: dict[str, Any], *, within: str | None = None
) -> float:
    """F1 over neighbouring pairs of tokens, less up to half for numbers that differ, in [0, 1].

    For free answers, above all Chinese ones: unrelated texts share few pairs. The ends of a text
    count as tokens, so that an answer of one token has pairs too.
    """
    given = tokens(answer_part(completion, within))
    return max(_likeness(given, tokens(gold)) for gold in columns.texts(row, "answer"))


def contains_answer(
    prompt: str,
    completion: str,
    row: dict[str, Any],
    *,
    within: str | None = None,
    allowance: NonNegative = 40,
) -> float:
    """1.0 when the reply states the gold answer, whatever else it says in up to `allowance` tokens.

    Every further answer that is offered beside it shares the score (one of four: 0.25), a longer
    reply loses in proportion, and a gold that is denied anywhere scores 0.0. A copy of the prompt
    does not count.
    """
    reply = mentions.plain(answer_part(completion, within)).replace("\u2212", "-")
    if len(tokens(prompt)) >= 4:  # a shorter one could be part of a fair answer
        reply = reply.replace(mentions.plain(prompt).strip(), "\n")
    reply = _THOUSANDS.sub("", reply)
    length = len(tokens(reply))
    best = 0.0
    for gold in columns.texts(row, "answer"):
        wanted = tokens(gold)
        marked = _phrase(wanted).sub(_GOLD, reply)
        found = mentions.find(mentions.names([_GOLD]), marked)
        stated = [one for one in found if not one.sentence.endswith("?")]
        if stated and not any(mention.denied for mention in stated):
            share = 1 / (1 + _alternatives(marked, wanted, prompt))
            best = max(best, share * min(1.0, (len(wanted) + allowance) / length))
    return best


def _f1(given: Counter[Any], gold: Counter[Any]) -> float:
    common = (given & gold).total()
    return 2 * common / (given.total() + gold.total()) if common else 0.0


def _likeness(given: list[str], gold: list[str]) -> float:
    numbers = [Counter(t for t in side if t.strip("-")[:1].isdigit()) for side in (given, gold)]
    agreement = _f1(*numbers) if any(numbers) else 1.0
    return _f1(_pairs(given), _pairs(gold)) * (1 + agreement) / 2 if given else 0.0


def _pairs(sequence: list[str]) -> Counter[tuple[str, str]]:
    return Counter(zip(["", *sequence], [*sequence, ""], strict=True))


def _phrase(wanted: Iterable[str]) -> re.Pattern[str]:
    """The tokens one after the other; no part of a longer word or number ("5" is not in "2.5")."""
    inner = r"[\W_]*(?:\b(?:an?|the)\b[\W_]*)?".join(map(re.escape, wanted))
    return re.compile(rf"(?<![a-z0-9-])(?<!\d[.,/:]){inner}(?![a-z0-9])(?![.,/:]\d)")


def _alternatives(marked: str, wanted: list[str], prompt: str) -> int:
    """Answers beside the gold, which is `_GOLD` in `marked`.

    They are the other short items of its list, sentences in its own words ("It is gout. It is
    lupus.") or, where it stands alone, other short ones ("Gout. Lupus."); and other numbers.
    """
    longest = min(len(wanted), 4) + 2
    sentences = {sentence for sentence in _END.split(marked) if sentence.strip()}
    lists = [_items(s, _LIST_AND) for s in sentences if _GOLD in s]
    beside = [item for s in sentences if _GOLD not in s for item in _items(s, _LIST)]
    frames = {item - {_GOLD} for items in lists for item in items if _GOLD in item}
    others = {i for items in lists for i in items if _GOLD not in i and len(i) <= longest}
    others |= {i for i in beside if any(f <= i and (f or len(i) <= longest) for f in frames)}
    found = {token for item in others for token in item}
    numbers: set[str] = set()
    if len(wanted) <= 4 and any(token[-1].isdigit() for token in wanted):
        numbers = {t for t in tokens(marked) if t[-1].isdigit()}
        numbers -= {*wanted, *tokens(prompt), *found}
    return len(others) + len(numbers)


def _items(sentence: str, separator: re.Pattern[str]) -> list[frozenset[str]]:
    parts = [part for part in separator.split(sentence) if _GOLD in part or not _is_denied(part)]
    items = [frozenset(tokens(part)) for part in parts]
    return [item for item in items if not item <= NO_ALTERNATIVES]


def _is_denied(item: str) -> bool:
    """Whether the text begins with a denial that reaches its end: "not gout"."""
    return bool(_DENIAL.match(item)) and any(m.denied for m in mentions.find(_LAST, item))
