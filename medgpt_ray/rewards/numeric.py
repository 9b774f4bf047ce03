"""A reward for answers that are a number, with or without a unit."""

import re
from typing import Any, Literal

from medgpt_ray.config.section import NonNegativeFloat
from medgpt_ray.rewards import columns
from medgpt_ray.rewards.form import answer_part
from medgpt_ray.rewards.quantities import Quantity, quantities

_ANSWER = re.compile(r"\banswer(?:\s+is)?\b|答案(?:是|为)?|\\boxed", re.IGNORECASE)
_RESULT = re.compile(
    r"=|≈|\b(?:so|therefore|thus|hence|total)\b|所以|因此|总计|合计|共|即", re.IGNORECASE
)


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
    the last "=" or "so", else the only one. Several different ones score 0.0.
    """
    tolerance = columns.number(row, "tolerance", tolerance)
    reply = answer_part(completion, within)
    return max(
        _score(reply, _gold(row, gold), tolerance, unit) for gold in columns.texts(row, "answer")
    )


def _gold(row: dict[str, Any], text: str) -> list[Quantity]:
    found = quantities(text)
    if not found or any(quantity.start != found[0].start for quantity in found):
        raise columns.bad(row, "answer", "one number, such as 500 mg, 2-4 mL or 37.5")
    return found


def _score(reply: str, readings: list[Quantity], tolerance: float, unit: str) -> float:
    """1.0 when, for one reading of the gold, every number offered in its place agrees with it."""
    parts = _ANSWER.split(reply)[1:] or [reply]
    for gold in readings:
        offered = [quantity for part in parts for quantity in _last(part, gold, unit)]
        if offered and all(quantity.agrees(gold, tolerance) for quantity in offered):
            return 1.0
    return 0.0


def _last(part: str, gold: Quantity, unit: str) -> list[Quantity]:
    """What the last piece of `part` that names something like the gold offers, as "= 5 mg" does."""
    for piece in reversed(_RESULT.split(part)):
        if offered := _comparable(quantities(piece), gold, unit):
            return offered
    return []


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
