"""Where a text names something, and whether it affirms, denies or only supposes it.

English and Chinese, by cue words: no grammar is known here. A sentence is cut into segments at
commas and at words that begin a new statement ("but", "so", "and take", 但, 可以). A cue denies
what follows it in its segment, and what follows in later segments that only go on with a list.
Cues after the name count too ("ibuprofen is not safe", 布洛芬禁用). "There is no reason to avoid
ibuprofen" denies nothing: phrases that only look like a denial are taken out first.
"""

import bisect
import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_END = re.compile(r"(?<=[.!?])\s+|(?<=[!?])(?=[\u4e00-\u9fff])|(?<=[。！？；;])|\n+")

_VERB = (
    r"(?:i|i'm|you|we|it|he|she|they|take|takes|taking|use|using|give|try|start|begin|continue"
    r"|switch|"
    r"choose|call|ring|phone|dial|get|go|head|rush|drive|seek|stay|sit|lie|keep|leave|send"
    r"|prescribe|"
    r"recommend|offer|is|are|was|can|should|may|must|will|do|please)\b"
)
_NEW_STATEMENT = re.compile(
    r"[,，:：()（）—]|(?<= )[-–] |\b(?=(?:but|however|so|then|therefore|thus|hence|although"
    r"|though|yet|while|whereas)\b)"
    rf"|\b(?=(?:and|or)\s+{_VERB}|and\s+(?:my|his|her|their|there)\b)"
    r"|(?=但|然而|不过(?!气|来)|所以|因此|而应|而是|改用|改服|换用)"
    r"|(?<=时)(?=服用|使用|可|应|给|用|口服)|(?<![不勿别应])(?=可以(?!排除|除外)|可用|可服|可选"
    r"|应当|应该|建议|推荐|请(?!勿))"
)
_GOES_ON = re.compile(
    rf"(?!(?:(?:and|or|nor)\s+)?(?:{_VERB}|(?:but|so|then|thus|yet|while|when|my|his|her|their)\b))"
    r"(?!.*\b(?:is|are|was|were|can|may|should|likely|prefer\w*|instead)\b)"
    r"(?!.*[服吃喝用去做打拨就看叫送选荐宜]|.*[更较][好佳优合适稳]|.*安全|.*(?:考虑|诊断|提示|符合|而是|可能|疑似|属于))"
    r"(?:(?:and|or|nor)\s+|以及|及|和|或)?[\w-]+(?: [\w-]+){0,3} ?[.。]?"
)

_ONLY_LOOKS_DENIED = re.compile(
    r"\b(?:not (?:only|just)|not true that (?:you|it) should (?:be )?avoid\w*|not (?:hesitate"
    r"|wait) (?:to|in|before)\b|not delay|without delay"
    r"|no (?:problem|harm|doubt)|without (?:a )?doubt|nothing wrong with|no reason not to"
    r"|(?:not|never) (?:forget|skip|stop|miss|discontinue|worry|be afraid|harm|hurt|damage"
    r"|interact)"
    r"|not (?:a|any) (?:problem|concern|risk)|not? (?:need|reason|have) to (?:avoid|stop)"
    r"|need not (?:avoid|stop)|not necessary to (?:avoid|stop)|stop\w* (?:the )?(?:bleeding|pain)"
    r"|not (?:contraindicated|unsafe|dangerous|harmful)|not avoid|not be avoided)"
    r"|不仅|不但|不只|不妨|无妨|(?:不要|不能|别|切勿|不可)(?:擅自|自行|随意)?(?:停|忘|漏|中断)"
    r"|(?:不要|不必|不用|无需)担心|不错|不得不|没问题|毫不犹豫|不要(?:犹豫|拖延|等待)|不能(?:拖延"
    r"|再等)"
    r"|(?:无需|不必|不用|不需要?)(?:避免|停用|停服)|(?:没有|无|并非|不是|不属于|非)禁忌症?"
    r"|(?:不会有|没有)(?:危险|害处|必要避免)|不会(?:伤|损|影响)|不影响"
)
_DENIES_WHAT_FOLLOWS = re.compile(
    r"\b(?:not|no|never|without|avoid\w*|stop\w*|refrain\w*|discontinu\w*|withhold\w*|nor|neither"
    r"|contraindicat\w*|instead of|rather than|against|allerg\w+ to|exclud\w*|rul\w+ out"
    r"|den(?:y|ies|ied)|unsafe|unlikely|wrong|doubt\w*|hardly|unlike|(?:dangerous|risky|unsafe"
    r"|harmful) to (?:take|use|give)|stay away from|steer clear of|switch\w* from)\b"
    r"|不要|不能|不可|不宜|不应|不该|不得|不建议|不推荐|不适合|不考虑|不支持|不用|不必|不需|不是"
    r"|不选|不会"
    r"|无需|并非|没有|没(?!药)|未(?!来)|无(?![论菌痛疑])|否认|排除|除外|^\W{0,4}[❌✗✘🚫⛔][^✅✓✔☑]*$|避免|禁止|禁用|禁忌|忌用|忌服|忌"
    r"|慎用|勿|(?<![特分性区鉴个类级])别|停用|停服|停止|而非|拒绝|严禁|代替|替代|取代"
    r"|(?<![除若])非(?![常典甾但法类])"
)
_SKIPPED = r"(?:(?!(?:and|or|but|because|since|if|unless|until)\b)[\w%-]+\s+){0,3}?"
_ADVERBS = (
    r"(?:(?:be|been|very|strictly|also|generally|usually|absolutely|typically|normally|best|better"
    r"|therefore|thus|relatively|considered|a)\s+){0,3}"
)
_DENIES_WHAT_PRECEDES = re.compile(
    rf"\W*(?:(?:and|or)\s+(?:other\s+)?[\w-]+\s+)?{_SKIPPED}"
    r"(?:(?:is|are|was|were|be|been|has|have|should|must|can|could|may|would|will|do|does|did)\s+)+"
    rf"{_ADVERBS}(?:not|never|contraindicated|avoided|stopped|discontinued|withheld|held|prohibited"
    r"|forbidden|off limits|unsafe|dangerous|harmful|risky|unlikely|less likely|improbable|absent"
    r"|ruled out|excluded|wrong|incorrect|inappropriate)\b|\W*(?:seems?|looks?"
    r"|appears?)\s+(?:to be\s+)?"
    r"(?:unlikely|less likely|improbable|wrong)\b"
    r"|(?:、[^，。；、]{1,8}){0,3}(?:(?![而时])[^，。；、]){0,6}?(?:禁用|禁忌|忌用|不宜|不能|不可"
    r"|不要|不应|不建议|不推荐"
    r"|不适合|不安全|不正确|应避免|避免使用|有害|危险|慎用|除外|排除|不是|错误|可能性(?:小|不大"
    r"|较?低|极低|很小)|不太可能|待排)"
)
_SUPPOSES = re.compile(
    r"(?<!even )(?<!matter )\bif\b|\bunless\b|\bin case\b"
    r"|\bfor any of the following\b"
    r"|\bshould (?:you|it|this|he|she|they|symptoms)\b(?! (?:not )?(?:take|call|go|use|see)\b)"
    r"|(?<!即使)(?<!就算)(?:如果|假如|若|一旦|万一|倘若|除非)|如(?=有|出现|果|症)"
    r"|(?:出现|发生|加重)[^，。]{0,12}时"
    r"|(?<!无论)(?<!不管)(?<!不论)(?:何时|什么(?:时候|情况)|哪些情况)下?"
    r"(?=需|应|要|该|必须|立即|立刻|马上|就医|就诊|去|拨打)"
)

_BETWEEN = " ,，:：()（）-–—"
_ENDED = re.compile(r"没(?!有)|^\W*$")
"""A cue that denies no list: 抽了十分钟还没停，口吐白沫, and the mark of "ibuprofen: ❌, rest"."""

_EMPHASIS = re.compile(r"(?<![\w)])\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?![\w(])")
_NO_APOSTROPHE = re.compile(r"\b(ca|do|does|did|is|are|was|has|have|could|would|should)nt\b")
REACH = 200
"""Characters before and after a name in which a cue can deny it."""


@dataclass(frozen=True, slots=True)
class Mention:
    """One place where a text names something: "Avoid ibuprofen, and rest." denies "ibuprofen"."""

    name: str
    sentence: str
    segment: str
    """At most `REACH` characters of it on either side."""
    behind: str
    """What follows in the sentence, at most `REACH` characters; so of `ahead` what comes before."""
    ahead: str
    denied: bool
    supposed: bool
    """Under a condition: "call an ambulance if it gets worse"."""


def without_accents(text: str) -> str:
    """Full-width forms made plain, Sjögren as Sjogren; ≠ stays."""
    decomposed = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFKC", re.sub("[\u0300-\u0337\u0339-\u036f]", "", decomposed))


def plain(text: str) -> str:
    """Case-folded, without emphasis and accents; full-width forms, quotes and spaces made plain,
    "can't" as "can not"."""
    folded = _EMPHASIS.sub("", without_accents(text).casefold().replace("\u2019", "'"))
    folded = re.sub(r"[^\S\n]+", " ", folded)
    folded = _NO_APOSTROPHE.sub(r"\1n't", folded)
    return (
        folded.replace("won't", "will not")
        .replace("cannot", "can not")
        .replace("can't", "can not")
        .replace("n't", " not")
    )


def sentences(text: str) -> list[str]:
    """The sentences and lines of `text`, without empty ones. A decimal point ends none."""
    return [part.strip() for part in _END.split(text) if part and part.strip()]


def names(terms: Iterable[str]) -> re.Pattern[str]:
    """A pattern for any of `terms`, as whole words, with plurals; longer terms come first."""
    choices = sorted({plain(term).strip() for term in terms} - {""}, key=len, reverse=True)
    words = [
        re.sub(r"\\?\s+", r"\\s+", re.escape(choice))
        + (r"(?:e?s)?(?![a-z0-9])" if choice[-1].isascii() else "")
        for choice in choices
    ]
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(words) or '(?!)'})")


def find(pattern: re.Pattern[str], text: str) -> Iterator[Mention]:
    """Every mention in `text`, for a pattern in the spelling of `plain`. What has a denial of its
    own within one segment ("can not breathe") is not denied by another one before it.
    """
    for sentence in sentences(plain(text)):
        spans = _segments(sentence)
        starts = [start for start, _ in spans]
        states = list(_states(sentence, spans))
        for match in pattern.finditer(sentence):
            place = max(bisect.bisect_right(starts, match.start()) - 1, 0)
            start, end = spans[place]
            carries, supposed = states[place]
            before = sentence[max(start, match.start() - REACH) : match.start()]
            after = sentence[match.end() : min(end, match.end() + REACH)]
            denied = carries or _denies(before, after)
            if _DENIES_WHAT_FOLLOWS.search(match.group()):
                denied = match.end() > end
            near = sentence[max(start, match.start() - REACH) : min(end, match.end() + REACH)]
            rest = sentence[match.end() : match.end() + REACH]
            yield Mention(match.group(), sentence, near.strip(), rest, before, denied, supposed)


def _segments(sentence: str) -> list[tuple[int, int]]:
    """Start and end of each segment, without what is between them."""
    cuts = [0, *(match.end() for match in _NEW_STATEMENT.finditer(sentence)), len(sentence)]
    spans = []
    for start, end in itertools.pairwise(cuts):
        piece = sentence[start:end].rstrip(_BETWEEN)
        if piece := piece.lstrip(_BETWEEN):
            start = sentence.index(piece, start)
            spans.append((start, start + len(piece)))
    return spans


def _states(sentence: str, spans: list[tuple[int, int]]) -> Iterator[tuple[bool, bool]]:
    """Of each segment: whether a denial before it goes on, and whether it is under a condition."""
    segments = [sentence[start:end] for start, end in spans]
    denied = supposed = leading = False
    for place, segment in enumerate(segments):
        carries = denied and _GOES_ON.fullmatch(segment[:REACH]) is not None
        if segment.startswith("and ") and not leading:
            supposed = False  # "chew an aspirin if you are not allergic, and call 911"
        leading = leading or _SUPPOSES.match(segment) is not None
        supposed = supposed or _SUPPOSES.search(segment) is not None
        supposed = supposed or (not place and segment.startswith(("出现以下", "出现下列")))
        last = segments[-1] if place == len(segments) - 2 else ""
        yield carries, supposed or _SUPPOSES.match(last) is not None
        denied = carries or _denies(_ENDED.sub(" ", segment[-REACH:]), "")


@functools.lru_cache(maxsize=1024)  # a reply in a loop asks the same again and again
def _denies(before: str, after: str) -> bool:
    before, after = _ONLY_LOOKS_DENIED.sub(" ", before), _ONLY_LOOKS_DENIED.sub(" ", after)
    return bool(_DENIES_WHAT_FOLLOWS.search(before) or _DENIES_WHAT_PRECEDES.match(after))
