"""Does a patient's message describe an emergency? By words, in English and Chinese.

The words are in `red_flags.txt`: everybody who knows patients can read and extend it.
"""

import re
from collections.abc import Iterator
from importlib import resources

from medgpt_ray.rewards import mentions


def _lines() -> Iterator[str]:
    text = resources.files(__package__).joinpath("red_flags.txt").read_text("utf-8")
    return (line for line in text.splitlines() if line and not line.startswith("#"))


RED_FLAGS = re.compile("|".join(_lines()))
_GENERAL = re.compile(
    r"\s*(?:please )?"
    r"(?:(?:what (?:is|are|causes|does)|define|explain|describe|translate"
    r"|how (?:is|are|does|common)"
    r"|which (?:drug|medicine|antibiotic|test)s? (?:is|are)|(?:does|can) \w+ (?:cause|prevent))\b"
    r"|(?:请)?(?:什么是|什么叫|解释|简述|描述|翻译|(?:如何|怎么|怎样)预防)"
    r"|[^，。？]{1,20}(?:是什么|的定义|的病因|的机制)"
    r"|[^，。？了着过误服吃喝吞]{1,12}(?:的症状有哪些|有什么区别|流行病学|能预防[^，。？]{1,8}吗)[?？。]?$)"
)
_SOMEBODY = re.compile(
    r"\b(?:i|i'm|my|me|we|our|he|she|his|her|him|they|patient|child|baby|now)\b"
    r"|我|他|她|爸|妈|孩子|宝宝|老人|患者|病人|现在|突然"
)


def found(text: str) -> list[str]:
    """The red flags that `text` affirms, in its order; none of a general question ("What causes
    chest pain?")."""
    said = mentions.plain(text)
    if _GENERAL.match(said) and not _SOMEBODY.search(said):
        return []
    return [mention.name for mention in mentions.find(RED_FLAGS, said) if not mention.denied]
