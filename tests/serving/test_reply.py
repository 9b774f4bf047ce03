"""The guard in answers, whole and streamed, as vLLM writes them."""

import pytest

from medgpt_ray.guard.notices import ADVICE, CAUTION, examine
from medgpt_ray.serving.reply import Reply

EMERGENCY = [{"role": "user", "content": "I have chest pain, how much aspirin?"}]
CALM = [{"role": "user", "content": "What helps against a cold?"}]


def whole(reply: Reply, text: str | None) -> dict:
    message = {"role": "assistant", "content": text}
    return reply.whole({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def streamed(reply: Reply, pieces: list[str]) -> tuple[str, dict]:
    """The text that a client puts together, and the last chunk."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    chunks = [
        reply.chunk({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        for delta, finish in zip(deltas, [None] * len(pieces) + ["stop"], strict=True)
    ]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert all("medgpt" not in chunk for chunk in chunks[:-1])
    return text, chunks[-1]


def test_notices_stand_before_and_after_whole_or_streamed():
    expected = f"{ADVICE['en']}\n\nTake 300 mg.\n\n{CAUTION['en']}"
    answer = whole(Reply(examine(EMERGENCY), {}, fixed_form=False), "Take 300 mg.")
    assert answer["choices"][0]["message"]["content"] == expected
    text, last = streamed(Reply(examine(EMERGENCY), {}, fixed_form=False), ["Take 30", "0 mg."])
    assert text == expected
    assert last["medgpt"] == answer["medgpt"]
    assert answer["medgpt"]["guard"] == {
        "emergency": ["chest pain"],
        "dose_caution": [0],
        "notices": [ADVICE["en"], CAUTION["en"]],
        "in_text": True,
    }


def test_a_calm_answer_is_left_alone_and_says_that_it_was_looked_at():
    answer = whole(Reply(examine(CALM), {}, fixed_form=False), "Rest.")
    assert answer["choices"][0]["message"]["content"] == "Rest."
    assert answer["medgpt"]["guard"]["notices"] == []
    text, last = streamed(Reply(examine(CALM), {}, fixed_form=False), ["Re", "st."])
    assert text == "Rest."
    assert last["medgpt"] == answer["medgpt"]


def test_without_the_guard_nothing_is_said():
    assert "medgpt" not in whole(Reply(None, {}, fixed_form=False), "Take 300 mg.")


@pytest.mark.parametrize("stream", [False, True])
def test_json_stays_json(stream):
    reply = Reply(examine(EMERGENCY), {}, fixed_form=True)
    if stream:
        text, answer = streamed(reply, ['{"dose": ', '"300 mg"}'])
    else:
        answer = whole(reply, '{"dose": "300 mg"}')
        text = answer["choices"][0]["message"]["content"]
    assert text == '{"dose": "300 mg"}'
    assert answer["medgpt"]["guard"]["in_text"] is False
    assert answer["medgpt"]["guard"]["notices"] == [ADVICE["en"], CAUTION["en"]]


def test_a_tool_call_keeps_the_advice():
    answer = whole(Reply(examine(EMERGENCY), {}, fixed_form=False), None)
    assert answer["choices"][0]["message"]["content"] == ADVICE["en"]
    calm = whole(Reply(examine(CALM), {}, fixed_form=False), None)
    assert calm["choices"][0]["message"]["content"] is None


def test_each_choice_has_its_own_caution():
    reply = Reply(examine(CALM), {}, fixed_form=False)
    choices = [
        {"index": i, "message": {"content": text}, "finish_reason": "stop"}
        for i, text in enumerate(["Rest.", "Take 2 tablets."])
    ]
    answer = reply.whole({"choices": choices})
    assert answer["choices"][0]["message"]["content"] == "Rest."
    assert answer["choices"][1]["message"]["content"].endswith(CAUTION["en"])
    assert answer["medgpt"]["guard"]["dose_caution"] == [1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_raw_continuation_is_left_as_it_is(stream):
    choice = {"index": 0, "text": "Take 2 tablets.", "finish_reason": "stop"}
    reply = Reply(examine(EMERGENCY), {}, fixed_form=True)
    answer = (reply.chunk if stream else reply.whole)({"choices": [choice]})
    assert answer["choices"][0]["text"] == "Take 2 tablets."
    assert answer["medgpt"]["guard"]["notices"] == [ADVICE["en"], CAUTION["en"]]


def test_notes_are_passed_on():
    answer = whole(Reply(None, {"sources": ["a.pdf, p. 3"]}, fixed_form=False), "Rest.")
    assert answer["medgpt"] == {"sources": ["a.pdf, p. 3"]}
