"""A reward for answers that are a number, with or without a unit."""

import re
from typing import Any, Literal

from medgpt_ray.config.section import NonNegativeFloat
from medgpt_ray.rewards import columns
from medgpt_ray.rewards.form import answer_part
from medgpt_ray.rewards.latex import without_latex
from medgpt_ray.rewards.quantities import Quantity, quantities, simplified

NEAR = 60
"""Characters before and behind a number that are looked at."""
_ANSWER = re.compile(r"\banswer(?:\s+is)?\b|答案(?:是|为)?|\\boxed", re.IGNORECASE)
_RESULT = re.compile(
    r"=|≈|\b(?:so|therefore|thus|hence|total)\b|所以|因此|总计|合计|共|即", re.IGNORECASE
)
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_STATEMENT = re.compile(r"(?<=[。！？；;\n])|(?<=[.!?])\s+")
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|\bnever|n't|\brather than|\binstead of|不是|不要|不应|不能|而非|并非)"
    r"(?:[\s*]*(?:a|an|the|give|take|use|be|of|给予|服用|使用|用|给))*[\s*]*$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"[\s*]*(?:(?:is|would be|seems|was)\s+(?:\w+\s+)?(?:wrong|incorrect|too|excessive"
    r"|not (?:right|correct))"
    r"|(?:是)?(?:错误|不对|不正确|太多|过量))",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?:[<>≤≥]|\b(?:more|less|greater|fewer|lower|higher) than|\bat (?:least|most)|\bup to"
    r"|\bexceed\w*|超过|少于|多于|大于|小于|至少|至多|最多|不足|高达)[\s*]*$",
    re.IGNORECASE,
)
_BOUNDS = re.compile(_BOUND.pattern.removesuffix(r"[\s*]*$"), re.IGNORECASE)
_ASIDE = re.compile(
    r"\b(?:maximum|max|minimum|limit|normal|reference|weigh\w*)\b|最大|最高|最低|上限|极量|正常"
    r"|参考|体重",
    re.IGNORECASE,
)
"""Before a number that is no answer where another one stands beside it: limits, normal values."""
_OUT_OF = re.compile(r"(?<=\d)\s*(?:out of|of a possible)\s*\d+|(?<=\d)分[（(][^（）()]*[）)]")


def numeric_match(
    prompt: str,
    completion: str,
    row: dict[str, Any],
    *,
    within: str | None = None,
    tolerance: NonNegativeFloat = 0.0,
    unit: Literal["required", "optional"] = "required",
) -> float:
    """1.0 when the reply's number is the gold `answer`, in any unit of the same dimension.

    "0.5 g" is "500 mg"; "500 mL" and a bare "500" are not (the latter is with `unit: optional`).
    Where the gold has no unit, the reply may have any. A gold range ("2-4 mg") holds what lies in
    it. `tolerance` is relative; a column `tolerance` of the row replaces it.

    The reply must come to one number of the gold's dimension: the one after "answer", else after
    the last "=" or "so", else the only one. Several different ones score 0.0, and so does one that
    is denied ("not 500 mg") or a bound ("up to 500 mg"). Limits, normal values, weights and what
    stands in brackets count only where nothing else could be meant.
    """
    tolerance = columns.number(row, "tolerance", tolerance)
    reply = answer_part(completion, within)
    golds = columns.texts(row, "answer")
    return max(_score(reply, gold, _gold(row, gold), tolerance, unit) for gold in golds)


def _gold(row: dict[str, Any], text: str) -> list[Quantity]:
    found = quantities(text)
    if not found or any(quantity.start != found[0].start for quantity in found):
        raise columns.bad(row, "answer", "one number, such as 500 mg, 2-4 mL or 37.5")
    return found


def _score(reply: str, text: str, readings: list[Quantity], tolerance: float, unit: str) -> float:
    """1.0 when, for one reading of the gold `text`, every number offered in its place agrees with
    it. A gold that is a bound itself ("<7%") is met by a bound or by its number alone."""
    if _BOUND.search(simplified(text)[: readings[0].start]):
        reply = _BOUNDS.sub(" ", reply)
    plain = _OUT_OF.sub("", _BOXED.sub(r"\\boxed \1 ", without_latex(reply)))
    start, *answers = _ANSWER.split(plain)
    answers = list(dict.fromkeys(answers))  # each once, also in loops
    for gold in readings:
        if answers:
            offered = [quantity for part in answers for quantity in _first(part, gold, unit)]
        else:
            offered = _last(start, gold, unit)
        if offered and all(quantity.agrees(gold, tolerance) for quantity in offered):
            return 1.0
    return 0.0


def _first(part: str, gold: Quantity, unit: str) -> list[Quantity]:
    """What the first statement after "answer" offers that names something like the gold."""
    for statement in _STATEMENT.split(part):
        if offered := _last(statement, gold, unit):
            return offered
    return []


def _last(part: str, gold: Quantity, unit: str) -> list[Quantity]:
    """What the last piece of `part` that names something like the gold offers, as "= 5 mg" does;
    of asides only where there is nothing else."""
    for text in dict.fromkeys(("\n".join(_without_asides(part)), part)):
        for piece in reversed(_RESULT.split(text)):
            if offered := _comparable(_meant(piece), gold, unit):
                return offered
    return []


def _without_asides(text: str) -> list[str]:
    """The statements of `text` without brackets, from which those about limits, normal values and
    weights are left out, or cut where such a word begins."""
    found = []
    for statement in _STATEMENT.split(re.sub(r"[(（][^()（）]*[)）]", " ", text)):
        aside = _ASIDE.search(statement)
        found.append(statement[: aside.start()] if aside else statement)
    return found


def _meant(text: str) -> list[Quantity]:
    """The quantities of `text` that it neither denies nor names as a bound."""
    plain = simplified(text)
    found = []
    for quantity in quantities(text):
        start = quantity.start
        before, after = plain[max(0, start - NEAR) : start], plain[start : start + NEAR]
        number = re.match(r"[^\s\d]*[\d.,]+\S*(?: \S+)?", after)
        behind = after[number.end() :] if number else ""
        if not (
            _DENIED_BEFORE.search(before) or _BOUND.search(before) or _DENIED_AFTER.match(behind)
        ):
            found.append(quantity)
    return found


def _comparable(found: list[Quantity], gold: Quantity, unit: str) -> list[Quantity]:
    """The quantities that could be meant as the gold's; also its number with another unit."""
    if not gold.unit:
        return [_read_as(quantity, "") for quantity in found]
    same = [quantity for quantity in found if quantity.dimension == gold.dimension]
    if unit == "optional" and not same:
        same = [_read_as(quantity, gold.unit) for quantity in found if not quantity.unit]
    starts = {quantity.start for quantity in same}
    numbers = {quantity.written for quantity in same}
    return same + [
        quantity
        for quantity in found
        if quantity.unit and quantity.start not in starts and quantity.written in numbers
        if "time" not in dict(quantity.dimension)
    ]


def _read_as(quantity: Quantity, unit: str) -> Quantity:
    low, high = quantity.written
    sign = "/" if ("pair", 1) in quantity.dimension else "-"
    number = f"{low!r}" if low == high else f"{low!r}{sign}{high!r}"
    return quantities(f"{number} {unit}")[0]
