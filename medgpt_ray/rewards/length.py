"""Penalties in [-1, 0] for long and for repetitive replies, and a score that length shapes.

Length is counted as `text.tokens` does: words, numbers, and single Chinese characters. Thinking
counts too. A penalty alone is best for an empty reply: weigh it beside a reward for the answer.
"""

import math
import re
from typing import Annotated, Any

from pydantic import Field

from medgpt_ray.config.section import NonNegative, Positive
from medgpt_ray.rewards import columns, resolve
from medgpt_ray.rewards.text import tokens

_LIST_MARK = re.compile(r"(?m)^[^\S\n]*\d{1,3}[.)、](?!\d)")


def length_penalty(
    prompt: str,
    completion: str,
    row: dict[str, Any],
    *,
    max_length: Positive = 300,
    slack: Positive = 100,
    min_length: NonNegative = 0,
) -> float:
    """0.0 up to `max_length` words, then falling in a line to -1.0 at `max_length + slack`.

    As DAPO's overlong penalty (arXiv 2503.14476), in words. A column `max_length` of the row
    replaces the argument. Below `min_length` it falls too, to -1.0 for an empty reply.
    """
    longest = columns.number(row, "max_length", max_length)
    length = len(tokens(completion))
    if length < min_length:
        return length / min_length - 1.0
    return -min(1.0, max(0.0, length - longest) / slack)


def repetition_penalty(
    prompt: str, completion: str, row: dict[str, Any], *, ngram: Positive = 4
) -> float:
    """Minus the share of n-grams that were there before: 0.0 without any, near -1.0 in loops.

    As in Open-R1 (from arXiv 2502.03373). Ordinary answers come to about -0.02.
    """
    words = tokens(_LIST_MARK.sub("", completion))  # the same item under another number
    grams = list(zip(*(words[start:] for start in range(ngram)), strict=False))
    return len(set(grams)) / len(grams) - 1.0 if grams else 0.0


def cosine_length(
    prompt: str,
    completion: str,
    row: dict[str, Any],
    *,
    correctness: str,
    arguments: dict[str, Any] | None = None,
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5,
    max_length: Positive = 300,
) -> float:
    """A correctness reward made gradual by length (arXiv 2502.03373, appendix C.1), in [-1, 1].

    `correctness` names another function, called with `arguments`. A reply that scores `threshold`
    or more earns 1.0 when short down to 0.5 at `max_length`; another one -1.0 when short up to -0.5
    (it may think longer). Beyond `max_length` the value stays.
    """
    arguments = arguments or {}
    score = resolve(correctness, arguments)(prompt, completion, row, **arguments)
    longest = columns.number(row, "max_length", max_length)
    progress = min(1.0, len(tokens(completion)) / longest) if longest else 1.0
    falling = (1.0 + math.cos(progress * math.pi)) / 2.0
    return 0.5 + 0.5 * falling if score >= threshold else -0.5 - 0.5 * falling
