"""Rewards for the form of a reply, and the part of a reply that holds its answer.

Patterns see line ends as any other character and must match the whole reply.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from medgpt_ray.rewards import columns


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"should be a regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
Names = Annotated[Sequence[Annotated[str, Field(min_length=1)]], Field(min_length=1)]

_ANSWERS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THINKING = re.compile(r"\A.*</think>|<think>.*", re.DOTALL)


def answer_part(completion: str, within: str | None = None) -> str:
    """What stands between `<within>` and `</within>`. Without `within`, what comes after the last
    `</think>`, or of that what stands in its one `<answer>...</answer>`.

    "" where the pair is not there exactly once, and where the thinking never ends. Some chat
    templates open `<think>` themselves: the reply need not hold it.
    """
    if within is None:
        reply = _THINKING.sub("", completion).strip()
        closed = reply[: reply.rfind("</answer>") + len("</answer>")]  # else each opening one looks
        answers = _ANSWERS.findall(closed)  # to the end of the reply
        return answers[0].strip() if len(answers) == 1 else reply
    tag = re.escape(within)
    if len(re.findall(f"</?{tag}>", completion)) != 2:
        return ""
    found = re.search(f"<{tag}>(.*)</{tag}>", completion, re.DOTALL)
    return found[1].strip() if found else ""


def regex_match(
    prompt: str, completion: str, row: dict[str, Any], *, pattern: Pattern | None = None
) -> float:
    """1.0 when the whole reply, without white space around it, matches; else 0.0.

    The pattern is the argument, or the row's column `pattern`. `<a>.*</a>` also matches a reply
    that repeats the tags: see `tag_format`.
    """
    if pattern is None:
        pattern = columns.text(row, "pattern")
    try:
        return float(re.fullmatch(pattern, completion.strip(), re.DOTALL) is not None)
    except re.error as error:
        raise columns.bad(row, "pattern", f"a regular expression ({error})") from None


def tag_format(
    prompt: str,
    completion: str,
    row: dict[str, Any],
    *,
    names: Names = ("think", "answer"),
    graded: bool = False,
) -> float:
    """1.0 for `<think>...</think><answer>...</answer>`: each once, in order, nothing around them.

    Every part must hold something. With `graded`, a reply with some of it right earns half of the
    share of tags that are there, so that a model that never has it all can learn. A reply that
    repeats one of the tags scores 0.0 either way.
    """
    tags = [tag for name in names for tag in (f"<{name}>", f"</{name}>")]
    counts = [completion.count(tag) for tag in tags]
    if max(counts) > 1:
        return 0.0
    found = re.split(f"({'|'.join(map(re.escape, tags))})", completion)
    outside, inside = found[0::4], found[2::4]
    if found[1::2] == tags and not any(map(str.strip, outside)) and all(map(str.strip, inside)):
        return 1.0
    return 0.5 * sum(counts) / len(tags) if graded else 0.0
