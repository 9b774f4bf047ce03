"""Questions with known answers: how often an index finds them, and when it should decline."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgpt_ray.retrieval.confidence import THRESHOLD, Evidence, fit
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.index import Index

FEWEST = 10
"""Questions of either kind; from fewer nothing can be calibrated."""


@dataclass(frozen=True)
class Case:
    """A row of a file of questions. `source` null: nothing in the documents answers it."""

    question: str
    source: str | None
    answer: str = ""
    """Words of the passage that answers it, as they stand in `source`."""
    page: int | None = None
    history: tuple[str, ...] = ()
    """What the user asked before."""
    heldout: bool = False
    """Kept out of every fit and choice."""
    lacks: str = ""
    """Where `source` is null: "subject" for another drug, disease or device than the documents
    have, "fact" for something that they do not tell about theirs, "" for another topic."""

    @property
    def turns(self) -> tuple[str, ...]:
        return (*self.history, self.question)

    def answered_by(self, index: Index, id: int) -> bool:
        path, chunk = index.store.chunk(id)
        return path == self.source and self.answer in chunk.text


def read_cases(path: Path) -> list[Case]:
    """Raises `RetrievalError` with every bad line."""
    cases, problems = list[Case](), list[str]()
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RetrievalError([f"{path}: {error}"]) from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # no half of a surrogate pair
            cases.append(Case(**{**row, "history": tuple(row.get("history", ()))}))
        except (ValueError, RecursionError, TypeError, AttributeError) as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        if cases[-1].source is not None and not cases[-1].answer:
            problems.append(f"{path}:{number}: answer: missing, say which words answer it")
    for kind, some in (("an answer", True), ("source null", False)):
        if not problems and sum((case.source is not None) == some for case in cases) < FEWEST:
            problems.append(f"{path}: fewer than {FEWEST} questions with {kind}")
    if problems:
        raise RetrievalError(problems)
    return cases


def place(index: Index, case: Case, ids: Sequence[int]) -> int | None:
    """Place, from 1, of the passage that answers the question; None where it is not in `ids`."""
    found = (number for number, id in enumerate(ids, start=1) if case.answered_by(index, id))
    return next(found, None)


def evidence(index: Index, cases: Sequence[Case]) -> list[Evidence]:
    """Of the first passage for each question, which is what `confidence` judges."""
    questions = [index.question(*case.turns) for case in cases]
    return [index.evidence(question, index.rank(question)) for question in questions]


def cross_validated(evidence: Sequence[Evidence], answerable: Sequence[bool]) -> list[bool]:
    """For each question, whether it is taken up by a confidence that was fitted without it."""
    taken: list[bool] = []
    for out in range(len(evidence)):
        rest = [*evidence[:out], *evidence[out + 1 :]], [*answerable[:out], *answerable[out + 1 :]]
        taken.append(fit(*rest).confidence(evidence[out]) >= THRESHOLD)
    return taken
