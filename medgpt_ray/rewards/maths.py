"""A reward for mathematical answers, compared as expressions by math-verify."""

import logging
import re
import threading
from typing import Any

from medgpt_ray.rewards import columns
from medgpt_ray.rewards.form import answer_part

SECONDS = 2
"""For parsing, and again for comparing. math-verify's limits are signals: main thread only."""

LONGEST = 300
DEEPEST = 8
_OPENING, _CLOSING = "([{", ")]}"

_ANSWER = re.compile(r"(?:\banswers?\b(?:\s+(?:is|are)\b)?|答案(?:是|为)?)\s*[:：]?", re.IGNORECASE)
_NOT_THAT = re.compile(r"[,(（]\s*(?:and |which is |that is )?not\b.*|[,，(（]?而?不是.*")
_DENIED = re.compile(
    r"^\s*(?:not|never|cannot|不是)\b|\b(?:not|n't|wrong|incorrect|doubt)\b|错误", re.IGNORECASE
)
_STATEMENT_END = re.compile(
    r"(?<!^1)(?<!\bstep \d)(?<=[\d)}$])(?:\.\s|。)", re.IGNORECASE
)  # but not of "1. 5" and "Step 1. 3 + 4"
_TAKES_BACK = re.compile(r"\s*(?:(?:or|no|wait|actually)\b|或|不)", re.IGNORECASE)
_PLAIN = str.maketrans({"²": "^2", "³": "^3", "√": "\\sqrt "})
_FULL_WIDTH = str.maketrans("０１２３４５６７８９．／＋－＝（）", "0123456789./+-=()")
_PROSE = re.compile(r"(?<![\\a-z])[a-z]{3,}(?:\s+(?:[a-z]{2,}|\d)|$)", re.IGNORECASE)
_OPERATOR = re.compile(r"[\d)]\s*(?:[-+*×÷−·]|\\times|\\cdot|\\div)\s*[\d({]")
_DIVISION = re.compile(r"[/^]|\\d?frac")
_EXPLODES = re.compile(
    r"\^\s*(?:\d+|[a-z]|\{[^{}]*\})\s*\^|\^\s*\{[^{}]*\^|\^\s*\{?\s*\d{4}|\d{4}\s*!|!\s*!|[)}]\s*!"
)


def math_match(
    prompt: str, completion: str, row: dict[str, Any], *, within: str | None = None
) -> float:
    """1.0 when the reply's final expression equals the gold `answer`: 1/2, 0.5, \\frac{1}{2}.

    Final is what is in `\\boxed{}`, else what follows "answer", else the last line from its last
    "=" on. Several different boxes or answers, or "5 or 6", score 0.0; so do "7 x 8" where the gold
    is the number 56, and expressions that would take very long, such as towers of powers.
    """
    reply = answer_part(completion, within).translate(_FULL_WIDTH)
    return max(_score(row, gold, reply) for gold in columns.texts(row, "answer"))


def _score(row: dict[str, Any], gold: str, reply: str) -> float:
    wanted = _parsed(gold)
    if all(isinstance(part, str) for part in wanted):
        raise columns.bad(row, "answer", "a number or a formula, such as 0.5 or \\frac{1}{2}")
    offered = _final(reply, equations="=" in gold)
    if not offered or not all(map(_is_tame, offered)):
        return 0.0
    if any(_is_left_to_do(text, gold.strip("$ ")) for text in offered):
        return 0.0
    return float(all(_equal(wanted, _parsed(text)) for text in offered))


def _final(reply: str, equations: bool) -> list[str]:
    """The different texts that the reply offers as its answer; more than one must all be right."""
    boxed = _boxed(reply)
    if boxed:
        return boxed
    lines = [line for line in reply.splitlines() if line.strip()]
    answers = _ANSWER.split(reply)[1:]
    pieces = [next(iter(part.strip().splitlines()), "") for part in answers or lines[-1:]]
    if answers:  # "The answer is 56. Check: 56/8 = 7."
        statements = [_STATEMENT_END.split(piece, 1) for piece in pieces]
        behind = [rest for _, *others in statements for rest in others]
        if any(_DENIED.search(rest) or _TAKES_BACK.match(rest) for rest in behind):
            return []
        pieces = [statement for statement, *_ in statements]
    if not equations:
        pieces = [piece.rpartition("=")[2] for piece in pieces]
    pieces = [_NOT_THAT.sub("", piece) for piece in pieces]
    if any(_DENIED.search(piece) for piece in pieces):
        return []
    pieces = [piece.lstrip(" \t。,*`").rstrip(" \t.。,*`") for piece in pieces]  # .75 is no 75
    return list(dict.fromkeys(filter(None, pieces)))


def _is_left_to_do(text: str, gold: str) -> bool:
    """Whether the gold is a number and `text` a calculation; 1/2 counts as the number 0.5."""
    if not re.fullmatch(r"-?[\d,]+(?:\.\d+)?", gold):
        return False
    return bool(_OPERATOR.search(text) or ("." not in gold and _DIVISION.search(text)))


def _boxed(reply: str) -> list[str]:
    """The different contents of `\\boxed{...}`, braces matched; of a longer one, too many."""
    starts = [match.end() for match in re.finditer(r"\\boxed\s*\{", reply)]
    inner = [_to_closing_brace(reply[start : start + LONGEST + 2]) for start in starts]
    return list(dict.fromkeys(text for text in inner if text is not None))


def _to_closing_brace(text: str) -> str | None:
    """`text` up to the brace that closes it; None where the reply ends before."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return text[:place].strip()
    return text if len(text) > LONGEST else None


def _is_tame(text: str) -> bool:
    """Neither a choice between answers nor an expression that takes very long to compare."""
    depth = deepest = 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        deepest = max(deepest, depth)
    chooses = re.search(r"\bor\b|或", text)
    powers = text.replace("**", "^").casefold()
    return (
        len(text) <= LONGEST and deepest <= DEEPEST and not chooses and not _EXPLODES.search(powers)
    )


def _parsed(text: str) -> list[Any]:
    """Expressions and their texts, as math-verify understands them."""
    from math_verify import parse

    text = re.sub(r"(?<=\d)\\[, ](?=\d{3}(?!\d))", "", text)  # 1\,000
    text = re.sub(r"√\s*(\d+|\w)", r"\\sqrt{\1}", text.replace("**", "^")).translate(_PLAIN)
    bare = re.sub(r"\\[\[\]()]|[$\u4e00-\u9fff]", " ", text)
    whole = text if _PROSE.search(re.sub(r"\\[a-z]+", " ", bare)) else f"${bare.strip()}$"
    return parse(whole, parsing_timeout=_seconds())  # type: ignore[no-any-return]


def _equal(gold: list[Any], given: list[Any]) -> bool:
    from math_verify import verify

    return bool(verify(gold, given, timeout_seconds=_seconds()))


def _seconds() -> int | None:
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it tells of every limit
    return SECONDS if threading.current_thread() is threading.main_thread() else None
