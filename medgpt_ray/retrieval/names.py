"""Names in a question, of drugs above all, and whether a passage has them.

A passage on lithium has nearly every word of "What is the target level for theophylline?", and does
not answer it. So a question is answered by no passage that lacks a name in it. What is a name:

- English: a word that the embedding model's tokenizer cuts into three pieces or more, since it
  has common words whole (the+op+hyl+line; target, level); or into two with a capital, as brands are
  (Lyrica). Words with an ending such as -ing or -ness are none.
- Chinese: the ending of a drug's official name, or a character that stands in hardly anything but
  such names, with the character before it (美托洛尔, 氢氯噻嗪). Brands are not recognised.
"""

import re
from collections.abc import Callable, Iterator

from medgpt_ray.retrieval.terms import is_chinese, is_stop_word

_PIECES = 3
_SHORTEST = 4
_LATIN = re.compile(rf"[^\W\d_\u3400-\u9fff]{{{_SHORTEST},}}")
_MID_SENTENCE = re.compile(r"[\w,] $")
_ORDINARY = re.compile(r".*(ing|ness|tions?|ive|ers?|ies|ed|ly)")
_CHINESE = re.compile(
    r"[\u4e00-\u9fff](?:"
    r"(?:洛尔|地平|沙坦|普利|他汀|贝特|格雷|沙班|法林|匹林|肝素|西林|霉素|环素|沙星|替丁|他定|拉定|鲁司特|奈德"
    r"|列汀|列净|列酮|双胍|单抗|替尼|司琼|西泮|唑仑|曲林|西汀|法辛|氮平|西平|普兰|巴林|卡因|洛芬|昔布|米松|尼松"
    r"|膦酸)(?!类)"
    r"|[唑嗪啶喹咪哌嘧吡嘌呤胍肟酰酯苷肽烷烯羟巯锂铋碱韦喃噻])"
)


def names(question: str, pieces: Callable[[str], int]) -> list[str]:
    """`pieces` counts the tokens of a word."""
    found = [match[0] for match in _CHINESE.finditer(question)]
    for match in _LATIN.finditer(question):
        word = match[0].lower()
        if is_stop_word(word) or _ORDINARY.fullmatch(word):
            continue
        brand = match[0].istitle() and _MID_SENTENCE.search(question[: match.start()])
        if pieces(word) + bool(brand) >= _PIECES:
            found.append(word)
    return list(dict.fromkeys(found))


def holds(passage: str, name: str) -> bool:
    """Whether `name` stands in `passage`, in English with one letter wrong, missing or too many."""
    if is_chinese(name):
        return name in passage
    return any(alike(name, match[0].lower()) for match in _LATIN.finditer(passage))


def alike(one: str, other: str) -> bool:
    """Whether two words are the same but for one letter, or two that changed places."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = next(_differences(one, other), len(min(one, other, key=len)))
    one, other = one[start:], other[start:]
    swapped = one[:2] == other[1::-1] and one[2:] == other[2:]
    return one[1:] == other[1:] or one[1:] == other or one == other[1:] or swapped


def _differences(one: str, other: str) -> Iterator[int]:
    """Positions at which the two differ."""
    return (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
