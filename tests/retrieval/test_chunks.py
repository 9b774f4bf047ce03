"""Chunks are whole sentences of one section, within the limit, that know where they stand."""

from hypothesis import given
from hypothesis import strategies as st

from medgpt_ray.retrieval.blocks import Block, Outline, Place
from medgpt_ray.retrieval.chunks import chunks
from medgpt_ray.retrieval.sentences import sentences

WORDS = st.lists(st.sampled_from(["dose", "fever", "血压", "升高", "mg"]), min_size=1, max_size=9)
SENTENCE = WORDS.map(lambda words: " ".join(words).capitalize() + ".")


def blocks(*sections: tuple[str, list[str]]) -> list[Block]:
    outline, found, line = Outline(), [], 0
    for title, paragraphs in sections:
        outline.enter(1, title)
        for paragraph in paragraphs:
            line += 1
            found.append(outline.block([(paragraph, Place(line=line))]))
    return found


@given(st.lists(st.lists(SENTENCE, min_size=1, max_size=5), min_size=1, max_size=4))
def test_a_sentence_is_never_cut_where_it_fits(paragraphs: list[list[str]]) -> None:
    written = [sentence for paragraph in paragraphs for sentence in paragraph]
    found = list(chunks(blocks(("T", [" ".join(p) for p in paragraphs])), len, 60))
    assert all(len(chunk.searched) <= 60 + 1 for chunk in found)
    read = [s for chunk in found for line in chunk.text.split("\n") for _, s in sentences(line)]
    assert read == written


def test_a_sentence_longer_than_a_chunk_is_cut_and_keeps_its_place() -> None:
    found = list(chunks(blocks(("T", ["甲" * 30 + "," + "乙" * 30 + "。"])), len, 50))
    assert [chunk.text for chunk in found] == ["甲" * 30 + ",", "乙" * 30 + "。"]
    assert {chunk.first for chunk in found} == {Place(line=1)}


def test_a_chunk_stays_under_its_heading_and_is_searched_with_it() -> None:
    found = list(chunks(blocks(("Dose", ["One.", "Two."]), ("Risk", ["Three."])), len, 100))
    assert [(chunk.heading, chunk.text) for chunk in found] == [
        (("Dose",), "One.\nTwo."),
        (("Risk",), "Three."),
    ]
    assert found[0].searched == "Dose\nOne.\nTwo."
    assert (found[0].first, found[0].last) == (Place(line=1), Place(line=2))


def test_a_very_long_heading_leaves_room_for_the_text() -> None:
    (found,) = chunks(blocks(("word " * 50, ["The answer."])), len, 60)
    assert found.text == "The answer."
    assert len(found.searched) <= 61
