"""A reward for answering what the text at hand answers, and saying so where it does not."""

import itertools
import re
from typing import Any

from medgpt_ray.config.section import Positive
from medgpt_ray.rewards import columns, mentions, resolve
from medgpt_ray.rewards.form import answer_part
from medgpt_ray.rewards.phrases import ABSTAINS, ASKS_FURTHER, GUESSES, TELLS_OTHER
from medgpt_ray.rewards.text import tokens

_SORRY = re.compile(r"\bsorry,? but\b")
SHORT = 8
"""Tokens of a gold answer that is an abstention, such as "not stated in the note"."""


def answer_or_abstain(
    prompt: str,
    completion: str,
    row: dict[str, Any],
    *,
    correctness: str = "medgpt_ray.rewards.text:token_f1",
    arguments: dict[str, Any] | None = None,
    longest: Positive = 60,
) -> float:
    """Right answers where there is one; "not stated" where there is none. In [0, 1].

    A row is unanswerable by its column `answerable` (true or false), else when its `answer` is
    itself "not stated", 未提及 or the like. There the reply must say so in at most `longest` words,
    without guessing ("not stated, but probably 5 mg"), and may only add whom to ask. Elsewhere
    what comes before a sentence that abstains counts, by `correctness`: "Penicillin. The reaction
    is not documented." answers, "Not stated. Penicillin." does not.
    """
    reply = answer_part(completion)
    abstains = ABSTAINS.search(mentions.plain(reply)) is not None
    if _is_answerable(row):
        own = arguments or {}
        answer = completion
        if abstains:
            answer = _before_abstaining(reply)
            if answer and (tag := own.get("within")):
                answer = f"<{tag}>{answer}</{tag}>"
        return float(resolve(correctness, own)(prompt, answer, row, **own)) if answer else 0.0
    return float(abstains and len(tokens(reply)) <= longest and not _guesses(reply, prompt))


def _before_abstaining(reply: str) -> str:
    sentences = mentions.sentences(reply)
    told = itertools.takewhile(lambda s: not ABSTAINS.search(mentions.plain(s)), sentences)
    return " ".join(told)


def _is_answerable(row: dict[str, Any]) -> bool:
    answerable = columns.flag(row, "answerable")
    if answerable is not None:
        return answerable
    golds = map(mentions.plain, columns.texts(row, "answer"))
    return not any(ABSTAINS.search(gold) and len(tokens(gold)) <= SHORT for gold in golds)


def _guesses(reply: str, prompt: str) -> bool:
    """Whether the reply offers more than its abstention: a guess, a number, a further statement."""
    text = _SORRY.sub("", mentions.plain(reply))
    numbers = {t for t in tokens(text) if t[-1].isdigit()} - set(tokens(prompt))
    beside = [s for s in mentions.sentences(text) if not ABSTAINS.search(s)]
    states = [s for s in beside if not ASKS_FURTHER.search(s)]
    return bool(numbers or states or GUESSES.search(TELLS_OTHER.sub(r"\1\2", text)))
