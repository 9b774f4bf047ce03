"""Text as terms for BM25: English words, and Chinese characters alone and in neighbouring pairs.

They need no dictionary, to which new drugs are unknown. Pairs alone find less (measured in
benchmarks/results/retrieval.md). English stems are SQLite's (Porter).
"""

import re
import unicodedata

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUN = re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+")
_CHINESE = re.compile(rf"[{_HAN}]")
_STOP = re.compile(
    r"a|about|all|also|am|an|and|any|are|as|at|be|been|but|by|can|could|did|"
    r"do|does|doing|done|for|from|had|has|have|having|he|her|him|his|how|i|if|"
    r"in|into|is|it|its|just|me|may|might|my|of|on|one|or|our|shall|she|should|"
    r"so|some|such|than|that|the|their|them|then|there|these|they|this|those|to|"
    r"too|us|was|we|were|what|when|where|which|who|whom|why|will|with|would|you|"
    r"your|please|tell|explain"
)
_CHINESE_STOP = re.compile(
    "什么|哪些|哪个|哪种|哪里|怎么样|怎么办|怎么|怎样|如何|为什么|为何|是否|是不是|有没有|能不能|可不可以|可以|"
    "多少|几个|请问|一下|应该|需要|以及|或者|还是|如果|的话|通常|一般|主要|[的了吗呢吧啊呀么嘛是在和与及或有被把对从向到于请问]"
)


def terms(text: str) -> list[str]:
    """Every term of a document, in order."""
    found: list[str] = []
    for run in _RUN.findall(_normalised(text)):
        found += _grams(run) if _CHINESE.match(run) else [run]
    return found


def question_terms(text: str) -> list[str]:
    """The distinct terms of a question that carry content, in order: no "what is", no 什么."""
    found: list[str] = []
    for run in _RUN.findall(_normalised(text)):
        if _CHINESE.match(run):
            for part in _CHINESE_STOP.split(run):
                found += _grams(part)
        elif not is_stop_word(run):
            found.append(run)
    return list(dict.fromkeys(found))


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _grams(run: str) -> list[str]:
    """高血压: 高 血 压 高血 血压."""
    return [*run, *(run[position : position + 2] for position in range(len(run) - 1))]


def is_stop_word(word: str) -> bool:
    return bool(_STOP.fullmatch(word))


def is_chinese(text: str) -> bool:
    return bool(_CHINESE.search(text))
