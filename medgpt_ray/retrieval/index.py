"""An index opened for questions.

    index = Index.open("notes.index")
    findings = index.search("How long is driving forbidden after a stroke?")
    findings.sufficient, findings.hits[0].citation    # True, "stroke.pdf, p. 2, Acute stroke > ..."

BM25 and the vectors each propose candidates, which are ordered by the share of the question's
terms that they have, weighted by rarity, plus their cosine: both lie in 0 to 1, so neither is given
a weight. (Reciprocal rank fusion does worse: benchmarks/results/retrieval.md.) A cross-encoder,
where one is given, orders the candidates instead.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from medgpt_ray.retrieval.build import FILE
from medgpt_ray.retrieval.chunks import Chunk
from medgpt_ray.retrieval.confidence import (
    MINILM,
    THRESHOLD,
    WORDS_ONLY,
    Calibration,
    Evidence,
    no_evidence,
)
from medgpt_ray.retrieval.conversation import condense
from medgpt_ray.retrieval.embedding import EMBEDDED_SHA256, Embedder
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.names import alike, holds, names
from medgpt_ray.retrieval.reranker import CrossEncoder
from medgpt_ray.retrieval.store import Store
from medgpt_ray.retrieval.terms import is_chinese, question_terms

CANDIDATES = 20
"""Proposed by each of BM25 and the vectors."""
HITS = 5
_READABLE = 0.5
"""Share of a question's tokens that the embedding model must know for its vector to count."""
_SHORTEST_MISSPELT = 6


@dataclass(frozen=True)
class Hit:
    path: str
    chunk: Chunk
    score: float

    @property
    def citation(self) -> str:
        """Source and place, for a reader: "guide.pdf, p. 3-4, Asthma > Treatment"."""
        first, last = self.chunk.first, self.chunk.last
        word = "para." if PurePosixPath(self.path).suffix.lower() == ".docx" else "line"
        spans = (("p.", first.page, last.page), (word, first.line, last.line))
        places = [
            f"{name} {start}" if start == end else f"{name} {start}-{end}"
            for name, start, end in spans
            if start is not None
        ]
        return ", ".join([self.path, *places, *filter(None, [" > ".join(self.chunk.heading)])])


@dataclass(frozen=True)
class Findings:
    question: str
    hits: tuple[Hit, ...]
    confidence: float
    """That the best hit answers the question, as calibrated."""
    unnamed: tuple[str, ...] = ()
    """Names in the question that the best hit lacks, so that it answers another question."""

    @property
    def sufficient(self) -> bool:
        return self.confidence >= THRESHOLD


class Candidate(NamedTuple):
    id: int
    score: float
    cosine: float
    """0 where the model cannot read the question."""


class Question:
    """What is known of a question before anything is ranked; `turns` are what the user asked."""

    def __init__(self, turns: Sequence[str], store: Store, embedder: Embedder) -> None:
        self.text = condense(turns, lambda text: names(text, embedder.count))
        self.terms = _spelled(question_terms(self.text), store, embedder)
        self.own_terms = _spelled(question_terms(turns[-1]), store, embedder)
        self.vector = embedder.embed_question(self.text)
        self.readable = embedder.coverage(self.text) >= _READABLE
        self.names = names(self.text, embedder.count)
        self.chunks = len(store)
        self.holders = {term: store.with_term(term) for term in self.terms}

    @cached_property
    def rarity(self) -> Mapping[str, float]:
        """Of each term, BM25's weight: 1 where one chunk has it, slightly more where none has."""
        weight = {
            term: math.log1p((self.chunks - len(held) + 0.5) / (len(held) + 0.5))
            for term, held in self.holders.items()
        }
        rarest = math.log1p((self.chunks - 0.5) / 1.5)
        return {term: value / rarest for term, value in weight.items()}

    def matched(self, id: int) -> float:
        return sum(self.rarity[term] for term in self.terms if id in self.holders[term])

    def coverage(self, id: int) -> float:
        return self._share(id, self.terms)

    def own_coverage(self, id: int) -> float:
        """Of what the last turn says itself, without the subject that it took from before."""
        return self._share(id, self.own_terms)

    def _share(self, id: int, terms: Sequence[str]) -> float:
        total = sum(self.rarity[term] for term in terms)
        held = sum(self.rarity[term] for term in terms if id in self.holders[term])
        return held / total if total else 0.0


def _spelled(words: Sequence[str], store: Store, embedder: Embedder) -> list[str]:
    """`words`, where no chunk has one by the word of the documents that is one letter from it.

    Not those that the embedding model's tokenizer has whole: "better" is not "butter" misspelt.
    """

    def spelled(word: str) -> str:
        if len(word) < _SHORTEST_MISSPELT or embedder.count(word) == 1 or store.with_term(word):
            return word
        known = (other for other in store.words_like(word) if alike(word, other))
        return next((other for other in known if store.with_term(other)), word)

    return list(dict.fromkeys(map(spelled, words)))


class Index:
    """Read-only, and safe to share between threads; a later build does not disturb it."""

    def __init__(self, store: Store, embedder: Embedder, reranker: CrossEncoder | None) -> None:
        self.store, self._embedder, self._reranker = store, embedder, reranker

    @classmethod
    def open(
        cls, directory: str | Path, embedding: str | None = None, reranker: str | None = None
    ) -> "Index":
        """`embedding`: where the model of the index is now, if it was moved; `reranker`: the
        directory of a cross-encoder. Raises `RetrievalError` for what does not fit."""
        file = Path(directory) / FILE
        if not file.is_file():
            raise RetrievalError([f"{directory}: no index in it, make one: medgpt index build"])
        store = Store.open(file)
        embedder = Embedder(embedding or store.facts.embedding)
        if embedder.fingerprint != store.facts.fingerprint:
            built = f"built with the embedding model {store.facts.embedding}"
            reason = f"{built}, and the weights of {embedder.path} are others"
            raise RetrievalError([f"{directory}: {reason}: build it anew"])
        return cls(store, embedder, CrossEncoder(reranker) if reranker else None)

    @property
    def calibration(self) -> Calibration:
        if self.store.facts.calibration:
            return Calibration(*self.store.facts.calibration)
        return MINILM if self.store.facts.fingerprint == EMBEDDED_SHA256 else WORDS_ONLY

    def search(self, *turns: str, count: int = HITS) -> Findings:
        """The best `count` passages for the last of the `turns` of the user, given those before."""
        question = self.question(*turns)
        best = self.rank(question)[:count]
        hits = tuple(Hit(*self.store.chunk(found.id), found.score) for found in best)
        confidence = self.calibration.confidence(self.evidence(question, best))
        return Findings(question.text, hits, confidence, self.unnamed(question, best))

    def rank(self, question: Question) -> list[Candidate]:
        """Every candidate, best first."""
        ids = list(dict.fromkeys([*self.by_terms(question), *self.by_meaning(question)]))
        cosines = self.store.cosines(question.vector, ids) if question.readable else {}
        scores = [question.coverage(id) + cosines.get(id, 0.0) for id in ids]
        if self._reranker and ids:
            passages = [self.store.chunk(id)[1].searched for id in ids]
            scores = self._reranker.scores(question.text, passages)
        found = [
            Candidate(id, score, cosines.get(id, 0.0))
            for id, score in zip(ids, scores, strict=True)
        ]
        return sorted(found, key=lambda candidate: (-candidate.score, candidate.id))

    def evidence(self, question: Question, ranked: Sequence[Candidate]) -> Evidence:
        """That the best candidate answers the question."""
        chinese = is_chinese(question.text)
        if not ranked or self.unnamed(question, ranked):
            return no_evidence(chinese)
        id, _, cosine = ranked[0]
        return Evidence(question.matched(id), question.own_coverage(id), cosine, float(chinese))

    def unnamed(self, question: Question, ranked: Sequence[Candidate]) -> tuple[str, ...]:
        """Names in the question that the best candidate and its path lack, in every form."""
        if not ranked:
            return ()
        id = ranked[0].id
        path, chunk = self.store.chunk(id)
        passage = f"{path}\n{chunk.searched}"
        return tuple(
            name
            for name in question.names
            if id not in question.holders.get(name, ()) and not holds(passage, name)
        )

    def question(self, *turns: str) -> Question:
        return Question(turns, self.store, self._embedder)

    def by_terms(self, question: Question) -> list[int]:
        """Candidates, best first by BM25."""
        return self.store.by_terms(question.terms, CANDIDATES)

    def by_meaning(self, question: Question) -> list[int]:
        """Candidates, nearest first; none where the model cannot read the question."""
        return self.store.by_vector(question.vector, CANDIDATES) if question.readable else []
