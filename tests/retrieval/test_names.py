"""Names in a question, and passages that lack them: the dose of another drug is no answer."""

import pytest

from medgpt_ray.retrieval.build import build
from medgpt_ray.retrieval.index import Index
from medgpt_ray.retrieval.names import holds, names


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the target level for theophylline?", ["theophylline"]),
        ("Which food should I avoid during pregnancy?", []),
        ("Is Lyrica taken with food?", ["lyrica"]),
        ("Is lyrica taken with food?", []),  # two pieces, and no capital
        ("Is wheezing or drowsiness a reason to stop?", []),
        ("美托洛尔和氢氯噻嗪能一起吃吗?", ["托洛尔", "氯噻"]),
        ("吃普利类降压药老是咳嗽怎么办?", []),
        ("孩子发烧38.5度怎么办?", []),
    ],
)
def test_names_are_told_from_common_words(embedder, question: str, expected: list[str]) -> None:
    assert names(question, embedder.count) == expected


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("theophylline", True),
        ("theophyline", True),
        ("theophyllline", True),
        ("theohpylline", True),
        ("theophylxine", True),
        ("prednisone", False),
        ("prednisolone", True),
        ("aminophylline", False),
        ("洛地平", False),
        ("苯地平", True),
    ],
)
def test_a_name_is_held_with_one_letter_wrong(name: str, held: bool) -> None:
    assert holds("Theophylline and prednisolone; 硝苯地平", name) == held


@pytest.fixture(scope="module")
def leaflets(embedder, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("leaflets")
    (folder / "lithium.md").write_text(
        "# Lithium\n\n## Monitoring\n\nThe level is taken 12 hours after the last dose. The target "
        "level is 0.6 to 0.8 mmol/l. Diuretics such as furosemide raise it.\n"
    )
    (folder / "citalopram.txt").write_text(
        "The usual dose is one tablet of 20 mg a day, and at most 40 mg.\n"
    )
    (folder / "硝苯地平.md").write_text("# 硝苯地平\n\n每次30毫克,清晨整片吞服,不能掰开。\n")
    build(folder, folder / "index", embedder)
    return Index.open(folder / "index")


def test_another_drug_in_the_same_words_is_declined(leaflets: Index) -> None:
    assert leaflets.search("What is the target level for lithium?").sufficient
    other = leaflets.search("What is the target level for theophylline?")
    assert (other.sufficient, other.unnamed) == (False, ("theophylline",))
    assert leaflets.search("硝苯地平能掰开吞服吗?").sufficient
    assert leaflets.search("非洛地平能掰开吞服吗?").unnamed == ("洛地平",)


def test_the_subject_of_a_conversation_is_a_name_too(leaflets: Index) -> None:
    turns = "What is theophylline used for?", "And what is its target level?"
    assert leaflets.search(*turns).unnamed == ("theophylline",)


def test_a_name_in_another_form_or_in_the_name_of_the_file_is_held(leaflets: Index) -> None:
    assert not leaflets.search("Which diuretic raises the level, furosemid?").unnamed
    assert not leaflets.search("The usual dose of citalopram?").unnamed


def test_a_misspelt_word_is_found_and_a_common_one_is_not_respelt(leaflets: Index) -> None:
    assert leaflets.question("lithum and diuretiks").terms == ["lithium", "diuretics"]
    assert leaflets.question("lavel of tables").terms == ["lavel", "tables"]  # short; common
