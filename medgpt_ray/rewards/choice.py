"""Rewards for multiple-choice questions, in English and Chinese.

`row["answer"]` holds the right letters: "B", or "ABD" where all three must be chosen, in any order;
a list means equally good ones. `row["options"]`, {"A": "aspirin", ...} or a list in order of the
letters, is needed only for replies that name an option by its text; without it the letters are A to
H. A choice must be clear: "A or B", two different answers, or a copy of the options choose nothing.
"""

import re
import unicodedata
from typing import Any

from medgpt_ray.rewards import columns, mentions
from medgpt_ray.rewards.form import answer_part
from medgpt_ray.rewards.latex import without_latex

LETTERS = "ABCDEFGHIJ"
WITHOUT_OPTIONS = LETTERS[:8]
"""I is left out: in a reply it is more often a word."""

NEAR = 300
"""Characters before and behind a cue that are looked at."""
_NEXT_PARAGRAPH = re.compile(
    r"(?<=\b[A-J])[^\S\n]*\n\s*(?=A[^\S\n]+(?!(?:and|or)\b)(?:[A-Za-z]{2}|\d))"
)
"""Between a choice and what explains it: "B, A patient with a stroke ...", on two lines."""
_AND = r"[)\"]? ?(?:(?:[,、;&+/和与及]|以及|\band\b) ?){0,2}[(\"]?"
_OR = re.compile(r"[\s,)]*(?:\bor\b|或|还是|/)", re.IGNORECASE)
_CUE = re.compile(
    r"\b(?:answers?|ans\b\.?|solution|choice)(?:\s+(?:is|are|would be|should be|option|choice)\b)*"
    r"|\b(?:correct|right|best) (?:option|choice|one)s?(?:\s+(?:is|are)\b)?"
    r"|\b(?:choose|pick|select|go with|so|therefore|thus|hence|actually|no(?=,)|definitely"
    r"|most likely)\b,?"
    r"|\b(?:it is|it's|it must be|must be|i think|i believe)\b|\bbut\b(?= \(?[A-J]\b)"
    r"|答案(?:应(?:该|当)?)?(?:是|为|选|包括)?|答(?=[:：])"
    r"|(?:正确|最佳|最合适)(?:的)?(?:选项)?(?:是|为|包括|(?=:))|我认为(?:是)?"
    r"|(?:所以|因此|故)(?:是|为)?,?|而是|选择|选(?![项择])|\\boxed",
    re.IGNORECASE,
)
_NOT = r"(?:(?:is|are)?\s*(?:not|isn't|never)\b|不是|不选|并非|非)"
_DENIED_CUE = re.compile(
    r"(?:(?:\b(?:not|never|cannot)|n't)\s+|(?:不|别|排除)(?:应该?|能|可|要|会|宜)?"
    r"|\b(?:least \w+|wrong|incorrect|worst)\s+)$",
    re.IGNORECASE,
)
_VERDICT = (
    r"\)?\s?(?i:(?:[-–—:]\s?)?(?:is |are |seems |项|选项)?(?P<wrong>not |isn't |不)?(?:the |是|均"
    r"|都)?"
    r"(?P<verdict>correct|right|best|true|正确|对|符合题意|[✓✔√]"
    r"|wrong|incorrect|false|(?:least|less) (?:likely|appropriate)|错|[✗✘❌]))"
)
_WRONG = re.compile(r"wrong|incorrect|false|least|less|错|[✗✘❌]", re.IGNORECASE)
_EXCEPT = (
    r"(?:(?i:\b(?:all|everything|each)(?: of (?:the above|them))?,? (?:except|but)(?: for)? )"
    r"|(?<!排)除了?)\(?"
)
_ALL = re.compile(
    r"(?<!not )\ball of (?:the above|them)(?=[\s.!]*$| (?:is|are) )|以上(?:选项)?(?:都|全部|均)",
    re.IGNORECASE,
)


def multiple_choice(
    prompt: str,
    completion: str,
    row: dict[str, Any],
    *,
    within: str | None = None,
    partial: bool = False,
) -> float:
    """1.0 when the reply chooses exactly the right letters, else 0.0.

    With `partial`, a choice of several letters earns (right - wrong) / letters of the gold, at
    least 0.0: choosing every option does not pay.
    """
    options = _options(row)
    golds = [_gold(row, gold, options) for gold in columns.texts(row, "answer")]
    chosen = choice(answer_part(completion, within), options)
    if not partial:
        return float(chosen in golds)
    scores = [(len(chosen & gold) - len(chosen - gold)) / len(gold) for gold in golds]
    return max(0.0, *scores)


def choice(reply: str, options: dict[str, str]) -> frozenset[str]:
    """The letters that the reply chooses; empty where it chooses none, or not clearly.

    What it states ("the answer is B", "B is correct", 选B) counts before a letter at its start, and
    that before an option's text.
    """
    reply = unicodedata.normalize("NFKC", without_latex(reply))
    reply = reply.replace("*", "").replace("`", "").replace("\u2019", "'").strip()
    listed = _listed(reply, options)
    reply = " ".join(_NEXT_PARAGRAPH.sub(". ", reply).split())
    affirmed, denied = _claims(reply, options)
    if listed and not affirmed:
        affirmed = {listed}
    if not affirmed:
        start = re.sub(r"^(?:option|choice|选项)\s*", "", reply, flags=re.IGNORECASE)
        letters = _letters_at_start(start, options)
        if letters is not None:
            affirmed = {letters if _copied(reply, options) <= letters else frozenset()}
        elif not denied:
            affirmed = {_by_text(reply, options)}
    chosen = affirmed.pop() if len(affirmed) == 1 else frozenset()
    return frozenset() if chosen & denied else chosen


def _listed(reply: str, options: dict[str, str]) -> frozenset[str]:
    """The letters of a reply that is a list of some of the options, each on a line of its own."""
    lines = [line.strip(" -•") for line in reply.splitlines() if line.strip()]
    if lines and lines[0].endswith(":"):
        lines = lines[1:]
    found = [re.match(r"(?:\d+[.)] )?\(?([A-J])[.):、]\s*(.*)", line) for line in lines]
    if len(found) < 2 or not all(found) or not options:
        return frozenset()
    letters = {match[1]: mentions.plain(match[2]) for match in found if match}
    own = all(
        text.startswith(mentions.plain(options.get(letter, "?")))
        for letter, text in letters.items()
    )
    return frozenset(letters) if own and len(letters) < len(options) else frozenset()


def _copied(reply: str, options: dict[str, str]) -> set[str]:
    """The letters that stand before a text, the option's own where the options are known."""
    texts = {letter: _bare(text)[:20] for letter, text in options.items()}
    copied = set()
    for mark in re.finditer(r"(?<![A-Za-z'])([A-J])[.):、]\s*(?=[\w(])", reply):
        if _bare(reply[mark.end() : mark.end() + 80]).startswith(texts.get(mark[1], "")):
            copied.add(mark[1])
    return copied


def _bare(text: str) -> str:
    return re.sub(r"\W", "", mentions.plain(without_latex(text)))


def _claims(reply: str, options: dict[str, str]) -> tuple[set[frozenset[str]], frozenset[str]]:
    """The sets of letters that the reply says are right, and the letters that it says are not."""
    affirmed: set[frozenset[str]] = set()
    denied: set[str] = set()
    for cue in _CUE.finditer(reply):
        rest = reply[cue.end() : cue.end() + NEAR]
        negation = re.match(rf"[\s:]*{_NOT}", rest, re.IGNORECASE)
        letters = _letters_at_start(rest[negation.end() if negation else 0 :], options)
        if letters is None:
            continue
        if negation or _DENIED_CUE.search(reply[max(0, cue.start() - NEAR) : cue.start()]):
            denied |= letters
        else:
            affirmed.add(letters)
    one = rf"[{''.join(options) or WITHOUT_OPTIONS}]"
    several = rf"{one}(?:{_AND}{one}){{0,9}}"
    right: set[str] = set()
    verdicts = re.compile(rf"(?<![A-Za-z0-9'])(?P<set>{several})(?![A-Za-z0-9']){_VERDICT}")
    excepted = re.search(rf"{_EXCEPT}(?P<set>{several})(?![A-Za-z0-9'])", reply)
    for found in verdicts.finditer(reply):
        letters = _all_of(found["set"], one)
        if excepted and excepted["set"] == found["set"]:
            continue
        if bool(found["wrong"]) != bool(_WRONG.match(found["verdict"])):
            denied |= letters
        else:
            right |= letters
    if excepted and options:
        right |= set(options) - _all_of(excepted["set"], one)
    if (
        not affirmed
        and not right
        and _ALL.search(reply)
        and not _ALL.search(" ".join(options.values()))
    ):
        right |= set(options)
    if right:
        affirmed.add(frozenset(right))
    kept = {letters for letters in affirmed if not letters or letters - denied}
    return kept, frozenset(denied)


def _all_of(letters: str, one: str) -> frozenset[str]:
    return frozenset(re.findall(one, re.sub("and", "", letters)))


def _letters_at_start(text: str, options: dict[str, str]) -> frozenset[str] | None:
    """{A, B} of "(A) and (B), since ...": None without letters, empty where they are no choice."""
    one = rf"[{''.join(options) or WITHOUT_OPTIONS}]"
    opening = r"[\s:(\[{\"'“【】「」\-–—→是为]*(?:(?:option|choice|both|选项)\s*\(?)?"
    several = rf"{one}(?:{_AND}{one}(?![a-z'])){{0,9}}"
    found = re.match(rf"{opening}(?P<set>{several})(?![A-Za-z0-9']|-[a-z])", text)
    if found is None:
        small = re.match(rf"{opening}(?P<set>{one})(?:\)|[\s\].}}\"'”】」]*$)", text, re.IGNORECASE)
        return frozenset(small["set"].upper()) if small else None
    rest = text[found.end() :]
    if rest.startswith("?") or (
        found["set"] == "A"
        and re.match(r"\s+(?:(?!is|because|since|as|due|which|and)[a-z]|\d|[A-Z]{2})", rest)
    ):
        return None  # a question, or the article of "A beta blocker"
    letters = _all_of(found["set"], one)
    text_after = mentions.plain(rest).lstrip(" .,:)-、(]}")
    others = [t for letter, t in options.items() if letter not in letters]
    named_other = any(text_after.startswith(mentions.plain(other)) for other in others if other)
    more = re.match(rf"{_AND}{one}(?![A-Za-z0-9'])", rest)
    return frozenset() if more or named_other or _OR.match(rest) else letters


def _by_text(reply: str, options: dict[str, str]) -> frozenset[str]:
    """The options whose text the reply affirms; empty where it wavers between several."""
    letters = {mentions.plain(text).strip(): letter for letter, text in options.items()}
    pattern = mentions.names(options.values())
    chosen = {
        letters.get(mention.name, letters.get(mention.name.rstrip("es"), ""))
        for mention in mentions.find(pattern, reply)
        if not mention.denied
    }
    wavers = len(chosen) > 1 and re.search(r"\bor\b|或|还是|\?|/", reply, re.IGNORECASE)
    return frozenset() if wavers or "" in chosen else frozenset(chosen)


def _options(row: dict[str, Any]) -> dict[str, str]:
    options = row.get("options")
    if options is None:
        return {}
    if isinstance(options, list):
        options = dict(zip(LETTERS, options, strict=False))
    if not isinstance(options, dict) or not all(
        key in LETTERS and len(key) == 1 and isinstance(text, str) for key, text in options.items()
    ):
        raise columns.bad(row, "options", 'texts by letter, {"A": ..., "B": ...}, or their list')
    return options


def _gold(row: dict[str, Any], gold: str, options: dict[str, str]) -> frozenset[str]:
    for letter, text in options.items() if gold.strip() not in options else ():
        if gold.strip() == text.strip():
            return frozenset(letter)
    letters = _letters_at_start(unicodedata.normalize("NFKC", gold), options)
    if not letters:
        known = ", ".join(options) or "A to H"
        raise columns.bad(row, "answer", f"letters such as B or ABD (of {known})")
    return letters
