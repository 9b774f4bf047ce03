"""Numbers with units in a text, in English and Chinese: "0.5 g", "5 mg/kg/day", "2-4 毫升".

A unit has a dimension (mass, volume, mass per volume ...) and a factor to the dimension's base
unit, so that 500 mg equals 0.5 g and never 500 mL. Amounts of substance are not turned into masses
(mmol/L is not mg/dL): that needs the substance. U and IU are one unit; so are /min and beats/min.
"""

import math
import re
import unicodedata
from dataclasses import dataclass, replace

Dimension = tuple[tuple[str, int], ...]
"""Base dimensions and their powers: mg/L is (("mass", 1), ("volume", -1))."""

_TABLE: dict[str, dict[float, str]] = {
    "mass": {
        1e3: "kg kgs kilogram kilograms 千克 公斤",
        1.0: "g gram grams gm 克",
        1e-3: "mg mgs milligram milligrams 毫克",
        1e-6: "mcg mcgs μg ug microgram micrograms 微克",
        1e-9: "ng nanogram nanograms 纳克",
        1e-12: "pg 皮克",
        453.59237: "lb lbs pound pounds 磅",
        28.349523125: "oz ounce ounces 盎司",
    },
    "volume": {
        1.0: "l liter liters litre litres 升",
        0.1: "dl 分升",
        1e-3: "ml mls cc milliliter milliliters millilitre millilitres 毫升",
        1e-6: "μl ul mm3 microliter microliters 微升",
        5e-3: "tsp teaspoon teaspoons teaspoonful teaspoonfuls 茶匙",
        0.015: "tbsp tablespoon tablespoons tablespoonful 汤匙",
        1e-15: "fl",
    },
    "substance": {
        1.0: "mol 摩尔",
        1e-3: "mmol millimole millimoles 毫摩尔",
        1e-6: "μmol umol 微摩尔",
        1e-9: "nmol 纳摩尔",
        1e-12: "pmol 皮摩尔",
    },
    "equivalent": {1.0: "eq", 1e-3: "meq 毫当量"},
    "activity": {1.0: "iu u unit units 国际单位 单位", 1e-3: "miu", 1e4: "万单位 万iu 万u"},
    "time": {
        1.0: "s sec second seconds 秒",
        1e-3: "ms 毫秒",
        60.0: "min mins minute minutes 分钟 分",
        3600.0: "h hr hrs hour hours 小时",
        86400.0: "d day days 天 日",
        604800.0: "wk week weeks 周 星期",
    },
    "month": {1.0: "month months 个月 月", 12.0: "year years yr yrs 年"},
    "length": {
        1.0: "m meter meters metre metres 米",
        0.01: "cm 厘米",
        1e-3: "mm 毫米",
        1e-6: "μm um 微米",
        1e3: "km 公里 千米",
        0.0254: "inch inches 英寸",
        0.3048: "ft feet 英尺",
    },
    "area": {1.0: "m2 平方米", 1e-4: "cm2 平方厘米"},
    "pressure": {
        1.0: "mmhg 毫米汞柱",
        7.500616827: "kpa 千帕",
        7.500616827e-3: "pa 帕",
        0.7355592: "cmh2o",
    },
    "temperature": {1.0: "°c c celsius 摄氏度 度", 5 / 9: "°f fahrenheit 华氏度"},
    "energy": {1.0: "kcal 千卡 大卡", 1e-3: "cal 卡", 0.2390057: "kj 千焦", 2.390057e-4: "j 焦"},
    "part": {1e-2: "% percent", 1e-3: "‰ permille"},
    "tablet": {1.0: "tablet tablets tab tabs 片"},
    "capsule": {1.0: "capsule capsules cap caps 粒 胶囊"},
    "pill": {1.0: "pill pills 颗 丸"},
    "drop": {1.0: "drop drops gtt 滴"},
    "puff": {1.0: "puff puffs 吸 揿"},
    "spray": {1.0: "spray sprays 喷"},
    "ampoule": {1.0: "ampoule ampoules ampule ampules vial vials 支"},
    "sachet": {1.0: "sachet sachets 袋 包"},
    "patch": {1.0: "patch patches 贴"},
    "suppository": {1.0: "suppository suppositories 枚"},
    "": {1.0: "times beats breaths cells 次 个 倍"},
}
UNITS = {
    unit: (dimension, factor)
    for dimension, units in _TABLE.items()
    for factor, spellings in units.items()
    for unit in spellings.split()
}
FAHRENHEIT = ("°f", "fahrenheit", "华氏度")

_EXPONENT = r"(?:e[+-]?\d{1,2}(?!\d)|\s?[x×*]\s?10\s?\^\s?-?\d{1,2}(?!\d))?"
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3}){1,8}|\d{1,27})(?:\.\d{1,27})?|\.\d{1,27})(?!\.?\d)"
_NUMBER = _DIGITS + _EXPONENT
_UNIT = "|".join(
    re.escape(unit) + ("(?![a-z])" if unit[-1].isascii() and unit[-1].isalnum() else "")
    for unit in sorted(UNITS, key=len, reverse=True)
)
_PER = rf"\s?(?:/|\bper\b|每)\s?(?:{_NUMBER}\s?)?(?:{_UNIT})"
_QUANTITY = re.compile(
    rf"(?P<first>(?:(?<![a-z\d)._])-)?(?<![a-z\d._])(?<![a-z]-){_NUMBER})"
    rf"(?:/(?P<second>{_NUMBER})(?![\d/]))?"
    rf"(?P<unit>(?:(?:\s|-(?=[a-zμ]))?(?:{_UNIT})(?:{_PER})*|(?:{_PER})+)?)"
)
_FACTOR = re.compile(rf"(?P<per>/|\bper\b|每)?\s?(?P<number>{_NUMBER})?\s?(?P<unit>{_UNIT})")
_RANGE = re.compile(r"\s?(?:-|–|—|~|to|至|到)\s?")
_RATE_AFTER = re.compile(
    r"\s?(?:of [a-z]{1,30} )?(?:once )?(?:(?P<adverb>hourly|daily|weekly)"
    r"|(?:an?|each|every|per) (?P<unit>hour|day|week)|(?:in|per|every) 24 ?h(?:(?:ou)?rs?)?)\b"
)
_RATE_BEFORE = re.compile(
    r"(?:每|(?<![第前后十])一)(?P<unit>小时|分钟|天|日|周)(?![前后内])[^\d,，。;；]{0,6}$"
)
_ADVERBS = {"hourly": "hour", "daily": "day", "weekly": "week"}
_IN_WORDS = re.compile(
    r"(?<!and )(?<!twenty )(?<!thirty )(?<!forty )(?<!fifty )(?<!hundred )\b(?P<word>half|one|two"
    r"|three|four|five|six|eight|ten)(?P<half> and a half)?"
    r"(?: (?:an?|of an?))? (?=(?:tablet|capsule|pill|puff|drop|spray|teaspoon|tablespoon|sachet"
    r"|patch"
    r"|ampoule|vial|suppositor|unit)(?:s|es|ies|fuls?)?\b)"
    r"|(?<![零一二两三四五六七八九十百千第之])(?P<han>半|[一二两三四五六七八九十百千零]{1,7})(?=(?:片|粒|颗|丸|滴"
    r"|喷|揿|支(?!持|气)|袋|包(?!括|含)|枚|贴|毫克|毫升|茶匙"
    r"|汤匙))"
)
_WORDS = {"half": 0.5, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_WORDS |= {"eight": 8, "ten": 10}
_HAN_DIGITS = "零一二三四五六七八九"
_HAN_UNITS = {"十": 10, "百": 100, "千": 1000}
_SPELLINGS = (
    (re.compile(r"\bmm hg\b"), "mmhg"),
    (re.compile(rf"\s?[·×]?\s?\b({_UNIT})\s?\^-1(?!\d)"), r"/\1"),
    (re.compile(r"(?<=\d)\s?(?:degrees? |° )(?=[cf](?:elsius|ahrenheit)?\b)"), " °"),
    (re.compile(r"°(?:celsius)\b"), "°c"),
    (re.compile(r"°(?:fahrenheit)\b"), "°f"),
    (re.compile(r"\bper cent\b"), "percent"),
    (re.compile(r"百分之\s?([\d.]{1,9})"), r"\1%"),
    (re.compile(r"\binternational units?\b"), "iu"),
    (re.compile(r"(?<=\d) (?:million)(?= (?:iu|u|units?)\b)"), "e6"),
)
_LIST_MARK = re.compile(r"(?m)^[^\S\n]*\d{1,2}[.)、](?!\d)")
_VULGAR = re.compile(r"(?<!\d)(\d{0,4}) ?([¼-¾⅐-⅞])")
_COMMA = re.compile(rf"(?<![\d.,])(?:(\d{{1,4}}),(\d{{1,2}})|(0),(\d{{3,6}}))(?=\s?(?:{_UNIT}))")
"""The decimal comma of "0,5 mg": of other languages, and ten times the dose if it is not seen."""
_THIN_SPACE = re.compile("(?<=\\d)[\u2009\u202f](?=\\d{3}(?!\\d))")
_SPACED = re.compile(r"(?<![\d.,])(\d{1,3})((?: 000)+)(?![\d.,])")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


@dataclass(frozen=True, slots=True)
class Quantity:
    """ "2-4 mg": low 0.002, high 0.004 (in g), written (2.0, 4.0), unit "mg"."""

    low: float
    high: float
    written: tuple[float, float]
    dimension: Dimension
    unit: str
    start: int

    @property
    def is_range(self) -> bool:
        return self.low < self.high and ("pair", 1) not in self.dimension

    def agrees(self, gold: "Quantity", tolerance: float = 0.0) -> bool:
        """The same, up to the relative `tolerance`; or inside `gold` where that is a range."""
        if self.dimension != gold.dimension:
            return False
        if gold.is_range:
            slack = tolerance * max(abs(gold.low), abs(gold.high)) + 1e-12
            return gold.low - slack <= self.low and self.high <= gold.high + slack
        near = max(tolerance, 1e-9)
        return all(
            math.isclose(mine, its, rel_tol=near, abs_tol=1e-15)
            for mine, its in ((self.low, gold.low), (self.high, gold.high))
        )


def quantities(text: str) -> list[Quantity]:
    """All quantities of `text`, in order; marks of a numbered list are left out.

    Digits that belong to a word (B12, COVID-19) are no numbers. "500 mg daily" is read both as
    500 mg and as 500 mg/day, two quantities with the same `start`.
    """
    return [reading for one in readings(text) for reading in one]


def readings(text: str) -> list[list[Quantity]]:
    """The quantities of `text`, each with its reading as a rate behind it where it has one."""
    plain = simplified(text)
    found: list[list[Quantity]] = []
    end = -1
    for match in _QUANTITY.finditer(plain):
        new = _quantity(match)
        joins = found and end >= 0 and _RANGE.fullmatch(plain, end, match.start())
        if joins and (both := _range(found[-1][0], new)) is not None:
            new = both
            found.pop()
        found.append([new])
        end = match.end()
        before = plain[max(0, new.start - 12) : new.start]
        if rate := _RATE_AFTER.match(plain, end) or _RATE_BEFORE.search(before):
            named = rate.groupdict()
            unit = named["unit"] or _ADVERBS.get(named.get("adverb") or "", "day")
            found[-1].append(_per(new, unit))
    return found


def simplified(text: str) -> str:
    """`text` as `quantities` reads it, where the places of what it finds are."""
    text = _THIN_SPACE.sub("", text)
    raised = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^" + m[0].translate(_RAISED), text)
    halves = _VULGAR.sub(lambda m: str(int(m[1] or 0) + unicodedata.numeric(m[2])), raised)
    plain = unicodedata.normalize("NFKC", halves).casefold().replace("\u2212", "-")
    plain = re.sub(r"[^\S\n]+", " ", plain).replace("m^2", "m2")
    plain = _COMMA.sub(lambda m: m[0].replace(",", "."), plain)
    plain = _SPACED.sub(lambda m: m[0].replace(" ", ""), plain)
    for spelling, usual in _SPELLINGS:
        plain = spelling.sub(usual, plain)
    plain = _IN_WORDS.sub(_in_digits, plain)
    return _LIST_MARK.sub(lambda mark: " " * len(mark[0]), plain)


def _in_digits(match: re.Match[str]) -> str:
    """ "one and a half tablets" as "1.5 tablets"."""
    if match["han"]:
        return f"{_han_number(match['han']):g} "
    return f"{_WORDS[match['word']] + (0.5 if match['half'] else 0.0):g} "


def _han_number(text: str) -> float:
    """二百五十 is 250."""
    if text == "半":
        return 0.5
    total = digit = 0
    for character in text:
        if character in _HAN_UNITS:
            total += (digit or 1) * _HAN_UNITS[character]
            digit = 0
        else:
            digit = _HAN_DIGITS.index(character) if character != "两" else 2
    return float(total + digit)


def _quantity(match: re.Match[str]) -> Quantity:
    unit = match["unit"].strip()
    powers: dict[str, int] = {}
    factor = 1.0
    for part in _FACTOR.finditer(unit):
        name, size = UNITS[part["unit"]]
        if part["number"]:
            size *= _value(part["number"]) or 1.0
        sign = -1 if part["per"] else 1
        if part["per"] and name == "mass":
            name = "weight"  # mg/kg is per body weight, no bare ratio
        factor *= size**sign
        powers[name] = powers.get(name, 0) + sign
    low = high = _value(match["first"])
    if match["second"]:  # 120/80 is a pair, 1/2 a fraction
        second = _value(match["second"])
        if 0 < low < second:
            low = high = low / second
        else:
            high, powers["pair"] = second, 1
    shift = -32.0 if unit in FAHRENHEIT else 0.0
    dimension = tuple(sorted((k, power) for k, power in powers.items() if k and power))
    base = ((low + shift) * factor, (high + shift) * factor)
    return Quantity(*base, (low, high), dimension, unit, match.start())


def _value(number: str) -> float:
    mantissa, _, exponent = (
        re.sub(r"[ ,]", "", number).replace("×", "x").replace("*", "x").partition("x")
    )
    return float(mantissa) * 10.0 ** int(exponent.partition("^")[2] or 0)


def _range(first: Quantity, last: Quantity) -> Quantity | None:
    """ "2" and "4 mg" as one range; None where the two do not go together."""
    if first.is_range or last.is_range or first.written[0] != first.written[1]:
        return None
    if first.unit and first.dimension != last.dimension:
        return None
    if not first.unit:
        scale = last.low / last.written[0] if last.written[0] else 0.0
        first = replace(first, low=first.low * scale)
    if not first.low < last.low:
        return None
    written = (first.written[0], last.written[0])
    return replace(last, low=first.low, written=written, start=first.start)


def _per(quantity: Quantity, unit: str) -> Quantity:
    powers = dict(quantity.dimension)
    powers["time"] = powers.get("time", 0) - 1
    dimension = tuple(sorted((name, power) for name, power in powers.items() if power))
    time = UNITS[unit][1]
    low, high = quantity.low / time, quantity.high / time
    return replace(quantity, low=low, high=high, dimension=dimension)
