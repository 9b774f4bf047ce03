"""Rows of question files as questions: our own formats, and those of two Chinese exam sets.

    choice  {"question": "...", "options": {"A": "...", "B": "..."}, "answer": "B"}
    open    {"question": "...", "rubric": [{"points": 5, "any": ["rest"]}, ...]}
    cmb     CMB-Exam (arXiv 2308.08833): question, option, answer, question_type, as the README of
            FreedomIntelligence/CMB has them
    cmexam  CMExam (arXiv 2306.03030): Question, Options, Answer, as williamliujl/CMExam's
            src/preprocess/generate_prompt.py reads them

Options are a dict by letter, in the order of the letters; `choice` also takes a list of texts, and
`cmexam` the texts of its CSV files ("A ...\\nB ...") or a list of {"key": "A", "value": "..."}.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Question:
    """One question, with options or open.

    Example: `Question("exam.jsonl:7", "Which ...?", {"A": "aspirin", "B": "warfarin"}, "B", {...})`
    """

    place: str
    """`file:line` of its row."""
    text: str
    options: dict[str, str]
    """Letter -> text, in order; empty for an open question."""
    answer: str
    """The right letters in order, such as "B" or "ABD"; empty for an open question."""
    row: dict[str, Any]
    """The row as read: a prompt can name its columns, and a rubric is found here."""

    @property
    def scored(self) -> dict[str, Any]:
        """What reward functions read."""
        known = {"question": self.text, "options": self.options, "answer": self.answer}
        return self.row | (known if self.options else {"question": self.text})


class BadQuestion(Exception):
    """What is wrong with a row: the field, the reason, the fix."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")


def parse(row: Mapping[str, Any], format: str, place: str) -> Question:
    """The question that a row is, or raises `BadQuestion`."""
    return FORMATS[format](dict(row), place)


def _choice(row: dict[str, Any], place: str) -> Question:
    options = row.get("options")
    if isinstance(options, list):
        if len(options) > len(LETTERS):
            raise BadQuestion("options", f"{len(options)} of them, at most {len(LETTERS)} can be")
        options = dict(zip(LETTERS, options, strict=False))
    return _question(row, place, "question", options, "options", "answer")


def _cmb(row: dict[str, Any], place: str) -> Question:
    options = row.get("option")
    if isinstance(options, dict):  # files fill up to a common number of letters
        options = {letter: text for letter, text in options.items() if text not in ("", None)}
    question = _question(row, place, "question", options, "option", "answer")
    if row.get("question_type") == "单项选择题" and len(question.answer) > 1:
        raise BadQuestion(
            "answer", f"{question.answer} is several letters in a 单项选择题: take one"
        )
    return question


def _cmexam(row: dict[str, Any], place: str) -> Question:
    options = row.get("Options")
    if isinstance(options, str):
        options = _lettered_lines(options)
    elif isinstance(options, list):
        if not all(isinstance(one, dict) and {"key", "value"} <= set(one) for one in options):
            raise BadQuestion("Options", 'expected {"key": "A", "value": "..."} in the list')
        options = {one["key"]: one["value"] for one in options}
    return _question(row, place, "Question", options, "Options", "Answer")


def _lettered_lines(text: str) -> dict[str, str]:
    """{"A": "...", ...} of lines that begin with a letter; a line without one goes on the last."""
    options: dict[str, str] = {}
    letter = ""
    for line in text.strip().splitlines():
        found = re.match(r"\s*([A-J])(?:[\s.、．:：]+)(.*)", line)
        if found and found[1] in options:
            raise BadQuestion("Options", f"the letter {found[1]} stands twice: keep one")
        if found:
            letter = found[1]
            options[letter] = found[2].strip()
        elif letter:
            options[letter] += f" {line.strip()}"
        else:
            raise BadQuestion("Options", f"{line!r:.40} does not begin with an option's letter")
    return options


def _open(row: dict[str, Any], place: str) -> Question:
    if "rubric" not in row:
        raise BadQuestion("rubric", _missing('a list such as {"points": 5, "any": ["rest"]}', row))
    return Question(place, _text(row, "question"), {}, "", row)


FORMATS: dict[str, Callable[[dict[str, Any], str], Question]] = {
    "choice": _choice,
    "open": _open,
    "cmb": _cmb,
    "cmexam": _cmexam,
}


def _question(
    row: dict[str, Any], place: str, text: str, options: Any, option_field: str, answer_field: str
) -> Question:
    checked = _options(row, options, option_field)
    answer = _answer(_text(row, answer_field), checked, answer_field)
    return Question(place, _text(row, text), checked, answer, row)


def _options(row: dict[str, Any], options: Any, field: str) -> dict[str, str]:
    if field not in row:
        raise BadQuestion(field, _missing('texts by letter, {"A": "...", "B": "..."}', row))
    if not isinstance(options, dict) or len(options) < 2:
        raise BadQuestion(field, 'expected two or more texts by letter, {"A": "...", "B": "..."}')
    letters = LETTERS[: len(options)]
    if sorted(map(str, options)) != list(letters):
        gap = next((letter for letter in letters if letter not in options), letters[-1])
        raise BadQuestion(
            field, f"the letters are {', '.join(map(str, options))}: {gap} is missing of {letters}"
        )
    for letter in letters:
        if not isinstance(options[letter], str) or not options[letter].strip():
            raise BadQuestion(f"{field}.{letter}", "empty or no text, expected the option's text")
    return {letter: options[letter].strip() for letter in letters}


def _answer(text: str, options: Mapping[str, str], field: str) -> str:
    meant = next((letter for letter, option in options.items() if option == text), None)
    if meant and text not in options:  # "AB" may be a blood group
        raise BadQuestion(field, f"{text!r:.40} is the text of option {meant}: take its letter")
    letters = re.sub(r"[\s,、;.()]+", "", unicodedata.normalize("NFKC", text)).upper()
    outside = sorted(set(letters) - set(options))
    if outside:
        raise BadQuestion(
            field, f"{text!r:.40} is outside the options, which are {', '.join(options)}"
        )
    if len(set(letters)) < len(letters):
        raise BadQuestion(field, f"{text!r:.40} names a letter twice: keep one")
    return "".join(sorted(letters))


def _text(row: Mapping[str, Any], field: str) -> str:
    if field not in row:
        raise BadQuestion(field, _missing("text", row))
    if not isinstance(row[field], str) or not row[field].strip():
        raise BadQuestion(field, f"is {row[field]!r:.40}, expected text")
    return str(row[field]).strip()


def _missing(expected: str, row: Mapping[str, Any]) -> str:
    return f"missing, expected {expected} (the row has {', '.join(map(str, row)) or 'nothing'})"


def options_text(options: Mapping[str, str]) -> str:
    """The options as a prompt shows them, a line each."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def fill(prompt: str, question: Question) -> str:
    """A task's prompt for one question; `BadQuestion` where it names a column that is not there."""
    columns = {name: value for name, value in question.row.items() if isinstance(value, str)}
    known = columns | {"question": question.text, "options": options_text(question.options)}
    for name in placeholders(prompt):
        if name not in known:
            raise BadQuestion(name, _missing("text, which the task's prompt shows", question.row))
    return re.sub(r"\{(\w+)\}", lambda found: known[found[1]], prompt).strip()


def placeholders(prompt: str) -> Sequence[str]:
    """Names in curly brackets."""
    return re.findall(r"\{(\w+)\}", prompt)
