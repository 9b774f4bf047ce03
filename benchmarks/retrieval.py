"""Retrieval: BM25, dense, reciprocal rank fusion, and the order that the index uses, side by side.

    python -m benchmarks.retrieval [--embedding DIRECTORY] [--output FILE]

The shipped questions over the shipped notes (benchmarks/retrieval_set). A question counts as found
where the chunk that holds the words of the answer, from the right file, is among the first; a chunk
of the right file without them does not count. When to decline is measured on three more folders,
each an index of its own. Prints the fits for `retrieval/confidence.py`.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import apsw
import torch

from benchmarks import machine
from benchmarks.compare import today
from medgpt_ray.retrieval import measure
from medgpt_ray.retrieval.build import build
from medgpt_ray.retrieval.confidence import THRESHOLD, Evidence, fit
from medgpt_ray.retrieval.embedding import EMBEDDED, Embedder
from medgpt_ray.retrieval.index import CANDIDATES, Index, Question
from medgpt_ray.retrieval.measure import Case, cross_validated, place, read_cases
from medgpt_ray.retrieval.terms import is_chinese, question_terms, terms
from medgpt_ray.tracking.statistics import bootstrap_interval

FOLDER = Path("benchmarks/retrieval_set")
MORE = ("leaflets", "chinese_leaflets", "handbook")
"""Folders of documents beside the notes, each with its questions in a .jsonl of the same name."""
OUTPUT = Path("benchmarks/results/retrieval.md")
FUSION_CONSTANT = 60
"""k of reciprocal rank fusion, as its authors set it (Cormack et al. 2009)."""

Method = Callable[[Index, Question], list[int]]


def dense(index: Index, question: Question) -> list[int]:
    return index.store.by_vector(question.vector, CANDIDATES)


def fusion(index: Index, question: Question) -> list[int]:
    return _fused([index.by_terms(question), dense(index, question)])


def fusion_if_readable(index: Index, question: Question) -> list[int]:
    return _fused([index.by_terms(question), index.by_meaning(question)])


def hybrid(index: Index, question: Question) -> list[int]:
    return [candidate.id for candidate in index.rank(question)]


METHODS: dict[str, Method] = {
    "BM25": Index.by_terms,
    "dense": dense,
    "BM25 + dense by rank fusion": fusion,
    "the same, dense only where it can read the question": fusion_if_readable,
    "**the index**: coverage + cosine": hybrid,
}


def _fused(rankings: Sequence[Sequence[int]]) -> list[int]:
    scores: dict[int, float] = {}
    for ranking in rankings:
        for number, id in enumerate(ranking, start=1):
            scores[id] = scores.get(id, 0.0) + 1 / (FUSION_CONSTANT + number)
    return sorted(scores, key=lambda id: (-scores[id], id))


def groups(cases: Sequence[Case]) -> dict[str, list[Case]]:
    heldout = [case for case in cases if case.source is not None and case.heldout]
    known = [case for case in cases if case.source is not None and not case.heldout]
    alone = [case for case in known if not case.history]
    return {
        "English": [case for case in alone if not is_chinese(case.question)],
        "Chinese": [case for case in alone if is_chinese(case.question)],
        "follow-ups": [case for case in known if case.history],
        "all": known,
        "held out, English": [case for case in heldout if not is_chinese(case.question)],
        "held out, Chinese": [case for case in heldout if is_chinese(case.question)],
    }


def score(places: Sequence[int | None]) -> str:
    """The three columns hit@1, hit@5 and MRR, each with its interval."""
    values = (
        [float(found == 1) for found in places],
        [float(found is not None and found <= 5) for found in places],
        [1 / found if found else 0.0 for found in places],
    )
    return " | ".join(map(interval, values))


def interval(values: Sequence[float]) -> str:
    mean, low, high = bootstrap_interval(values)
    return f"{mean:.2f} ({low:.2f}-{high:.2f})"


def table(index: Index, cases: Sequence[Case]) -> list[str]:
    lines = ["| questions | n | method | hit@1 | hit@5 | MRR |", "|---|---:|---|---|---|---|"]
    for group, members in groups(cases).items():
        questions = [index.question(*case.turns) for case in members]
        for name, method in METHODS.items():
            ranked = [method(index, question) for question in questions]
            places = [place(index, case, ids) for case, ids in zip(members, ranked, strict=True)]
            lines.append(f"| {group} | {len(members)} | {name} | {score(places)} |")
    return lines


def condensing(index: Index, cases: Sequence[Case]) -> list[str]:
    """Follow-ups with and without what was asked before, and questions after another subject."""
    follow_ups = groups(cases)["follow-ups"]
    alone = [case for case in groups(cases)["all"] if not case.history]
    order = random.Random(0)
    others = [
        order.choice([other.question for other in alone if other.source != case.source])
        for case in alone
    ]
    rows = {
        "follow-ups, searched as they are": [(case, [case.question]) for case in follow_ups],
        "follow-ups, condensed": [(case, case.turns) for case in follow_ups],
        "other questions, alone": [(case, [case.question]) for case in alone],
        "other questions, condensed after one on another subject": [
            (case, [other, case.question]) for case, other in zip(alone, others, strict=True)
        ],
    }
    lines = ["| questions | n | hit@1 | hit@5 | MRR |", "|---|---:|---|---|---|"]
    for name, pairs in rows.items():
        places = [
            place(index, case, hybrid(index, index.question(*turns))) for case, turns in pairs
        ]
        lines.append(f"| {name} | {len(pairs)} | {score(places)} |")
    return lines


def tokenisation(index: Index, cases: Sequence[Case]) -> list[str]:
    """BM25 on Chinese by pairs of characters alone, and with single characters too."""
    schemes: dict[str, Callable[[list[str]], list[str]]] = {
        "pairs": lambda found: [term for term in found if len(term) > 1],
        "characters and pairs": lambda found: found,
    }
    members = groups(cases)["Chinese"]
    lines = ["| terms | n | hit@1 | hit@5 | MRR |", "|---|---:|---|---|---|"]
    for name, chosen in schemes.items():
        memory = apsw.Connection(":memory:")
        memory.execute("create virtual table t using fts5(words, tokenize='porter unicode61')")
        for id in range(1, len(index.store) + 1):
            words = " ".join(chosen(terms(index.store.chunk(id)[1].searched)))
            memory.execute("insert into t (rowid, words) values (?, ?)", (id, words))
        places = []
        for case in members:
            query = " OR ".join(f'"{term}"' for term in chosen(question_terms(case.question)))
            rows = memory.execute(
                "select rowid from t where t match ? order by rank limit 20", (query,)
            )
            places.append(place(index, case, [id for (id,) in rows]))
        lines.append(f"| {name} | {len(members)} | {score(places)} |")
    return lines


def abstention(sets: Mapping[str, Sequence[tuple[Evidence, Case]]]) -> list[str]:
    """Judged by a fit that did not see the question: of the others, or for the held-out of all."""
    lines = [
        "| questions | confidence from | with an answer: taken up | without: declined "
        "| of these on another drug, disease or device |",
        "|---|---|---|---|---|",
    ]
    for source in ("words and meaning", "words only"):
        judged = {name: list(pairs) for name, pairs in sets.items()}
        if source == "words only":
            judged = {
                name: [(one._replace(cosine=0.0), case) for one, case in pairs]
                for name, pairs in sets.items()
            }
        for group, members in _judged(judged, source).items():
            right = [float(yes) for yes, case in members if case.source is not None]
            wrong = [float(not yes) for yes, case in members if case.source is None]
            other = [float(not yes) for yes, case in members if case.lacks == "subject"]
            columns = [
                f"{interval(some)}, n {len(some)}" if some else "-"
                for some in (right, wrong, other)
            ]
            lines.append(f"| {group} | {source} | {' | '.join(columns)} |")
    return lines


def _judged(
    sets: Mapping[str, Sequence[tuple[Evidence, Case]]], source: str
) -> dict[str, list[tuple[bool, Case]]]:
    """By the group that a question belongs to: whether it is taken up, and the question."""
    seen = [pair for pairs in sets.values() for pair in pairs if not pair[1].heldout]
    evidence, answerable = [one for one, _ in seen], [case.source is not None for _, case in seen]
    fitted = fit(evidence, answerable)
    print(f"fit from {source}: {fitted}")
    left_out = iter(cross_validated(evidence, answerable))
    found: dict[str, list[tuple[bool, Case]]] = {}
    for name, pairs in sets.items():
        for one, case in pairs:
            taken = fitted.confidence(one) >= THRESHOLD if case.heldout else next(left_out)
            language = "Chinese" if is_chinese(case.question) else "English"
            kind = "held out" if case.heldout else "follow-ups" if case.history else language
            found.setdefault(f"{name}: {kind}", []).append((taken, case))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--embedding", default=EMBEDDED)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    about = machine.describe(torch.get_num_threads())
    cases = read_cases(FOLDER / "questions.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        embedder = Embedder(arguments.embedding)
        started = time.process_time()
        report = build(FOLDER / "notes", Path(folder), embedder)
        built = time.process_time() - started
        index = Index.open(folder, arguments.embedding)
        started = time.process_time()
        found = {"notes": list(zip(measure.evidence(index, cases), cases, strict=True))}
        asked = (time.process_time() - started) / len(cases) * 1000
        for name in MORE:
            others = read_cases(FOLDER / f"{name}.jsonl")
            output = Path(folder) / name
            build(FOLDER / name, output, embedder)
            evidence = measure.evidence(Index.open(output, arguments.embedding), others)
            found[name] = list(zip(evidence, others, strict=True))
        command = "python -m benchmarks.retrieval"
        if arguments.embedding != EMBEDDED:
            command += f" --embedding {Path(arguments.embedding).name}"
        unreadable = [case for case in cases if not index.question(case.question).readable]
        lines = [
            "# Retrieval on the shipped questions",
            f"{today()}, `{command}`. {about}.",
            f"{len(report.added)} files, {report.chunks} chunks, {len(cases)} questions. "
            f"Processor time: {built:.1f} s to build ({report.chunks / built:.0f} chunks/s), "
            f"{asked:.0f} ms a question. In brackets: 95% bootstrap intervals over questions. "
            "Whoever wrote the notes wrote the questions: expect less elsewhere. The order of the "
            "index, its Chinese terms and its confidence were chosen on the questions that are not "
            "marked held out; those were written afterwards and count under that name only.",
            f"The embedding model cannot read {len(unreadable)} of the questions (fewer than half "
            "of their tokens are known to it): for those the index goes by words alone.",
            "## Finding the passage",
            "\n".join(table(index, cases)),
            "## Conversations",
            "\n".join(condensing(index, cases)),
            "## Chinese terms, BM25 alone",
            "\n".join(tokenisation(index, cases)),
            "## Insufficient information",
            "Each question judged by a confidence that was fitted on all the others, of all "
            f"folders (notes, {', '.join(MORE)}); the held-out ones by one that saw none of them.",
            "\n".join(abstention(found)),
        ]
    arguments.output.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
