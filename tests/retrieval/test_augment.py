"""What reaches the model: numbered sources, or the order to say that there are none."""

import copy
from pathlib import Path

import pytest

from medgpt_ray.retrieval.augment import INSUFFICIENT, INSUFFICIENT_CHINESE, augment
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.index import Index


@pytest.fixture(scope="module")
def index(notes: Path) -> Index:
    return Index.open(notes)


def user(content) -> dict:
    return {"role": "user", "content": content}


def test_sources_are_numbered_and_cited(index: Index) -> None:
    messages = [{"role": "system", "content": "Be kind."}, user("Can I drive after a stroke?")]
    before = copy.deepcopy(messages)
    found = augment(index, messages, count=3)
    assert messages == before
    assert found.sufficient
    assert [citation.number for citation in found.citations] == [1, 2, 3]
    first = found.citations[0]
    assert (first.path, first.page, first.line) == ("english/stroke.pdf", 2, None)
    assert found.messages[0] == messages[0]
    prompt = found.messages[1]["content"]
    assert f"[1] ({first.label})\n{first.text}" in prompt
    assert "must not drive for one month" in prompt
    assert INSUFFICIENT in prompt
    assert prompt.endswith("Question: Can I drive after a stroke?")


def test_the_last_sources_are_left_out_until_the_chat_fits(index: Index) -> None:
    question = [user("Can I drive after a stroke?")]
    whole = augment(index, question)
    assert len(whole.citations) == 5
    seen = []

    def fits(messages) -> bool:
        seen.append(messages)
        return "[3]" not in messages[0]["content"].partition("Sources:")[2]

    found = augment(index, question, fits=fits)
    assert found.citations == whole.citations[:2]
    assert [messages == found.messages for messages in seen] == [False, False, False, True]
    assert found.citations[1].text in found.messages[0]["content"]
    assert whole.citations[2].text not in found.messages[0]["content"]
    assert found.sufficient


def test_the_first_source_stays_and_what_is_insufficient_is_not_measured(index: Index) -> None:
    found = augment(index, [user("Can I drive after a stroke?")], fits=lambda messages: False)
    assert [citation.number for citation in found.citations] == [1]
    assert found.citations[0].text in found.messages[0]["content"]
    found = augment(index, [user("How is psoriasis treated with biologics?")], fits=pytest.fail)
    assert found.citations == ()


def test_insufficient_information_in_the_language_of_the_question(index: Index) -> None:
    for question, reply in (
        ("How is psoriasis treated with biologics?", INSUFFICIENT),
        ("白癜风怎么治疗?", INSUFFICIENT_CHINESE),
    ):
        found = augment(index, [user(question)])
        assert not found.sufficient
        assert found.citations == ()
        assert found.insufficient_reply == reply
        prompt = found.messages[0]["content"]
        assert reply in prompt
        assert question in prompt
        assert "[1]" not in prompt


def test_a_conversation_is_searched_as_a_whole_and_only_its_last_question_changes(index) -> None:
    messages = [
        user("肺结核怎么确诊?"),
        {"role": "assistant", "content": "痰涂片。"},
        user("会不会传染?"),
    ]
    found = augment(index, messages)
    assert found.messages[:2] == messages[:2]
    assert "传染性明显下降" in found.citations[0].text
    assert found.messages[2]["content"].endswith("问题:会不会传染?")


def test_content_in_parts_keeps_its_image(index: Index) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    content = [image, {"type": "text", "text": "Can I drive after a stroke?"}]
    found = augment(index, [user(content)])
    text, kept = found.messages[0]["content"]
    assert "must not drive for one month" in text["text"]
    assert kept == image


def test_braces_in_a_question_are_only_text(index: Index) -> None:
    found = augment(index, [user("Can I drive after a stroke {sources}?")])
    assert found.messages[0]["content"].endswith("{sources}?")


def test_the_last_user_message_is_the_one_before_a_tool_result(index: Index) -> None:
    messages = [user("Can I drive after a stroke?"), {"role": "tool", "content": "42"}]
    found = augment(index, messages)
    assert "Sources:" in found.messages[0]["content"]
    assert found.messages[1] == messages[1]


@pytest.mark.parametrize(
    "messages", [[], [{"role": "system", "content": "x"}], [user("  ")], [user(None)]]
)
def test_no_question(index: Index, messages: list) -> None:
    with pytest.raises(RetrievalError, match="none of role user with text"):
        augment(index, messages)
