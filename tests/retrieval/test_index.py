"""Search on the shipped notes with the real embedding model."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from medgpt_ray.retrieval import measure
from medgpt_ray.retrieval.build import FILE, build, calibrate
from medgpt_ray.retrieval.confidence import MINILM, WORDS_ONLY, Calibration
from medgpt_ray.retrieval.embedding import EMBEDDED, Embedder, locate
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.index import Index

QUESTIONS = Path(__file__).parents[2] / "benchmarks" / "retrieval_set" / "questions.jsonl"


@pytest.fixture(scope="module")
def index(notes: Path) -> Index:
    return Index.open(notes)


@pytest.mark.parametrize(
    ("question", "citation"),
    [
        ("Can I drive after a stroke?", "english/stroke.pdf, p. 2, Acute stroke > 5. Driving"),
        ("When can alteplase be given?", "english/stroke.pdf, p. 1-2, Acute stroke > 3. Clot"),
        ("孕晚期胰岛素用量", "chinese/妊娠期糖尿病.docx, para. 11, 妊娠期糖尿病 > 胰岛素用量参考"),
        (
            "Which drugs raise the INR on warfarin?",
            "english/warfarin.md, line 9, Warfarin > What",
        ),
        ("鱼刺卡喉咙", "chinese/问答.jsonl, line 2, 鱼刺卡喉咙怎么办?"),
    ],
)
def test_the_best_passage_is_cited_with_its_place(index: Index, question, citation) -> None:
    findings = index.search(question)
    assert findings.hits[0].citation.startswith(citation)
    assert findings.sufficient


def test_meaning_finds_what_words_do_not(index: Index) -> None:
    question = "How long should someone be observed after a serious bee sting reaction?"
    wanted = "Watch for at least six hours"
    by_terms = index.by_terms(index.question(question))[:5]
    assert not any(wanted in index.store.chunk(id)[1].text for id in by_terms)
    assert any(wanted in hit.chunk.text for hit in index.search(question, count=3).hits)


def test_a_follow_up_is_searched_with_its_subject(index: Index) -> None:
    findings = index.search("肺结核怎么确诊?", "会不会传染?")
    assert findings.question == "肺结核怎么确诊? 会不会传染?"
    assert "传染性明显下降" in findings.hits[0].chunk.text


def test_rows_of_questions_that_cannot_be_read_are_all_told(tmp_path: Path) -> None:
    rows = [r'{"question": "\ud83d", "source": null}', "[" * 200_000, "1" * 6_000, '{"what": 1}']
    (tmp_path / "questions.jsonl").write_text("\n".join(rows))
    with pytest.raises(RetrievalError) as refused:
        measure.read_cases(tmp_path / "questions.jsonl")
    places = [problem.partition(": ")[0][-2:] for problem in refused.value.problems]
    assert places == [":1", ":2", ":3", ":4"]


def test_the_shipped_questions(index: Index) -> None:
    """The rates of benchmarks/results/retrieval.md, with room for one more miss in twenty."""
    cases = measure.read_cases(QUESTIONS)
    found = [(case, index.search(*case.turns)) for case in cases]
    known = [(case, findings) for case, findings in found if case.source is not None]
    assert len(known) >= 60
    assert len(cases) - len(known) >= 15
    places = []
    for case, findings in known:
        right = [case.source == hit.path and case.answer in hit.chunk.text for hit in findings.hits]
        places.append(right.index(True) + 1 if True in right else None)
        if case.page and True in right:
            chunk = findings.hits[right.index(True)].chunk
            assert chunk.first.page <= case.page <= chunk.last.page, case
    assert np.mean([place == 1 for place in places]) > 0.86
    assert np.mean([place is not None for place in places]) > 0.95

    alone = [(case, findings.sufficient) for case, findings in found if not case.history]
    assert np.mean([yes for case, yes in alone if case.source is not None]) > 0.8
    assert np.mean([yes for case, yes in alone if case.source is None]) < 0.1


def test_a_question_without_words_finds_nothing_sufficient(index: Index) -> None:
    assert not index.search("???").sufficient
    assert not index.search("").sufficient
    assert not index.search('dose" OR "x').sufficient


def test_threads_share_an_index(index: Index) -> None:
    questions = ["Can I drive after a stroke?", "鱼刺卡喉咙", "iron tablets"] * 8
    alone = [index.search(question) for question in questions[:3]] * 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(index.search, questions)) == alone


def test_many_threads_read_a_store_at_once(index: Index) -> None:
    vector = index.question("stroke").vector

    def read(word: str) -> list[object]:
        store = index.store
        nearest = [store.by_vector(vector, 9) for _ in range(20)]
        return [nearest, len(store), store.by_terms([word], 9), store.with_term(word)]

    words = ["stroke", "iron", "gout"] * 50
    alone = [read(word) for word in words[:3]] * 50
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, words)) == alone


def test_a_moved_model_is_found_by_its_new_path(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("Colchicine helps gout.\n")
    model = tmp_path / "model"
    shutil.copytree(locate(EMBEDDED), model)
    build(tmp_path / "notes", tmp_path / "index", Embedder(str(model)))
    model.rename(tmp_path / "moved")
    with pytest.raises(RetrievalError, match=r"model: no config\.json and no model\.safetensors"):
        Index.open(tmp_path / "index")
    moved = Index.open(tmp_path / "index", embedding=str(tmp_path / "moved"))
    assert moved.search("gout").hits[0].path == "a.txt"


def test_another_model_is_judged_by_words_until_calibrated(tmp_path: Path, other_model) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("Colchicine helps gout.\n")
    build(tmp_path / "notes", tmp_path / "index", Embedder(str(other_model)))
    assert Index.open(tmp_path / "index").calibration == WORDS_ONLY
    own = Calibration(1.0, 2.0, 3.0, 4.0, -5.0)
    calibrate(tmp_path / "index", own)
    assert Index.open(tmp_path / "index").calibration == own
    build(tmp_path / "notes", tmp_path / "index", Embedder(str(other_model)))
    assert Index.open(tmp_path / "index").calibration == own


def test_the_shipped_model_has_its_own_calibration(index: Index) -> None:
    assert index.calibration == MINILM


def test_a_cross_encoder_orders_the_candidates(notes: Path, index: Index, cross_encoder) -> None:
    from medgpt_ray.retrieval.reranker import CrossEncoder

    directory = cross_encoder(1)
    question = "Can I drive after a stroke?"
    hits = Index.open(notes, reranker=str(directory)).search(question, count=40).hits
    passages = [hit.chunk.searched for hit in hits]
    scores = CrossEncoder(str(directory)).scores(question, passages)
    assert scores == sorted(scores, reverse=True)
    assert passages != [hit.chunk.searched for hit in index.search(question, count=40).hits]


def test_a_classifier_is_no_cross_encoder(notes: Path, cross_encoder, tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="3 outputs, a cross-encoder for ranking has one"):
        Index.open(notes, reranker=str(cross_encoder(3)))
    with pytest.raises(RetrievalError, match=r"no cross-encoder with model\.safetensors"):
        Index.open(notes, reranker=str(tmp_path))


def test_what_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="no index in it, make one: medgpt index build"):
        Index.open(tmp_path)
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to be looked at" * 40)
    with pytest.raises(RetrievalError, match="not an index"):
        Index.open(tmp_path)
