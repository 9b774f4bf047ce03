"""What is added to a medical answer, in English or Chinese: urgent-care advice before it where the
user's message describes an emergency, a caution after it where it gives a dose out of the blue.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from medgpt_ray.rewards import mentions, red_flags
from medgpt_ray.rewards.quantities import Quantity, quantities
from medgpt_ray.rewards.safety import doses

Language = Literal["en", "zh"]

ADVICE: dict[Language, str] = {
    "en": "This may be an emergency. Call your local emergency number now (for example 911, 999, "
    "112 or 120), or go to the nearest emergency department. Do not stay for an answer here.",
    "zh": "这可能是急症。请立即拨打急救电话（中国大陆为120），或马上前往最近的急诊科就诊，"
    "不要停留在这里等答复。",
}
CAUTION: dict[Language, str] = {
    "en": "Caution: check this dose with a doctor or pharmacist before you use it. The right dose "
    "depends on age, weight, kidney and liver function, pregnancy and other medicines.",
    "zh": "请注意：用药前请向医生或药师核对上述剂量。合适的剂量取决于年龄、体重、肝肾功能、"
    "是否妊娠以及正在使用的其他药物。",
}

_AGE = re.compile(
    r"\bage\b\W{0,3}\d{1,3}\b|\b\d{1,3} ?[mf]\b|[一二三四五六七八九十]{1,3}岁|年龄\W{0,2}\d"
    r"|今年\d{1,3}(?!年|\d)"
    r"|(?:宝宝|孩子|婴儿)[^，。]{0,4}\d{1,2}个?月|\d{1,2} ?月龄|\b\d{1,3}[- ]?(?:years?|yrs?"
    r"|months?|weeks?)[- ]old\b|\b\d{1,3} ?y/?o\b|\baged? (?:of )?\d"
    r"|\b(?:i am|i'm|he is|she is) \d{1,3}\b(?! ?(?:kg|lb|cm))|\d ?(?:周岁|岁|个月大)"
)
_WEIGHT = re.compile(
    r"\bweigh(?:t|s)\b\W{0,3}\d|体重\W{0,2}\d|\d ?stone\b"
    r"|\d ?(?:kg|kgs|kilos?|kilograms?|lbs?|pounds|公斤|千克|斤)(?![a-z/])"
)

_HAN = r"[\u4e00-\u9fff]"
_GOES_ON = (
    r"(?![A-Z][a-z]|I\b|(?:\d{1,3}|[A-Za-z]|[ivx]{1,4}|[一二三四五六七八九十]{1,3})[.)）、．]"
    r"|[\w /]{1,30}[:：]|(?i:no|none|nil|without|denies|denied|never|nor)\b|没|无|未|否认)"
)
"""Where a line may go on with a phrase of the line before: no sentence, item of a list, label or
denial begins here."""
_WRAP = re.compile(rf"(?<=\w)\n(?=\w){_GOES_ON}")
_HAN_WRAP = re.compile(rf"(?<={_HAN})\n(?={_HAN}){_GOES_ON}")
_CUT_SENTENCE = re.compile(rf"^[^.!?。！？；\n]{{0,{mentions.REACH}}}[.!?。！？；\n]")

SEEN_CHARACTERS = 10_000
"""At the beginning and again at the end of each message, source and answer. This and the following
keep every request from keeping the guard busy."""
SEEN_MESSAGES = 20
SEEN_DOSES, SEEN_QUANTITIES = 100, 2_000


@dataclass(frozen=True)
class Case:
    """What the guard saw before the answer."""

    language: Language
    emergency: tuple[str, ...]
    """The phrases of the user's last message that affirm a red flag, also over a line's end."""
    known: tuple[Quantity, ...]
    """What the conversation and its sources state: a dose among it is not out of the blue."""
    patient_known: bool
    """The user gave age and weight."""

    def advice(self) -> str:
        """To stand before the answer; empty where nothing is urgent."""
        return ADVICE[self.language] if self.emergency else ""

    def caution(self, answer: str) -> str:
        """To stand after the answer; empty where every dose has its context."""
        if self.patient_known:
            return ""
        given = doses(_seen(answer))[:SEEN_DOSES]
        unknown = [dose for dose in given if not any(dose.agrees(k) for k in self.known)]
        return CAUTION[self.language] if unknown else ""


def examine(messages: Sequence[Mapping[str, Any]], sources: Iterable[str] = ()) -> Case:
    """Look at a conversation in OpenAI's form; `sources` are passages that the model is shown."""
    messages = messages[-SEEN_MESSAGES:]
    user = [_seen(text_of(message)) for message in messages if message.get("role") == "user"]
    last = user[-1] if user else ""
    spoken = mentions.plain("\n".join(user))
    texts = [*(text_of(message) for message in messages), *sources]
    return Case(
        language="zh" if re.search(_HAN, mentions.plain(last)) else "en",
        emergency=tuple(dict.fromkeys(red_flags.found(last) + red_flags.found(_unwrapped(last)))),
        known=tuple(islice(_quantities(texts), SEEN_QUANTITIES)),
        patient_known=bool(_AGE.search(spoken) and _WEIGHT.search(spoken)),
    )


def _quantities(texts: Iterable[str]) -> Iterator[Quantity]:
    """Each kind and amount once."""
    found = (quantity for text in texts for quantity in quantities(_seen(text)))
    seen: set[tuple[Any, ...]] = set()
    for quantity in found:
        amount = quantity.low, quantity.high, quantity.dimension
        if amount not in seen:
            seen.add(amount)
            yield quantity


def _seen(text: str) -> str:
    """Its two ends, with one blank line of several: patterns would go through them again and again.
    Of the sentence that the second end begins in, nothing: its denial may be lost."""
    if len(text) > 2 * SEEN_CHARACTERS:
        end = _CUT_SENTENCE.sub("", text[-SEEN_CHARACTERS:], count=1)
        text = f"{text[:SEEN_CHARACTERS]}\n\n{end}"
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.strip() for line in text.splitlines()))


def _unwrapped(text: str) -> str:
    """The lines of each paragraph as one line, as far as the next may go on with the phrase."""
    return _WRAP.sub(" ", _HAN_WRAP.sub("", text))


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content may be parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") if isinstance(part, Mapping) else part for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))
