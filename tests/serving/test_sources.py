"""What a served model is shown of the documents, and what its caller is told of them."""

import asyncio
from typing import Any

import httpx
import pytest

from medgpt_ray.retrieval.augment import INSUFFICIENT
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.serving import versions
from medgpt_ray.serving.assistant import Assistant
from medgpt_ray.serving.errors import send_json
from medgpt_ray.serving.gate import MODEL_PATHS, Gate
from medgpt_ray.serving.settings import Limits
from medgpt_ray.serving.sources import from_index

DOCUMENT = """\
# Warfarin

Warfarin is started with 5 mg once a day. The INR is measured after three days.

# Measles

The rash of measles begins behind the ears. Children stay at home for four days.
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory):
    from medgpt_ray.retrieval.build import build
    from medgpt_ray.retrieval.embedding import EMBEDDED, Embedder

    folder = tmp_path_factory.mktemp("sources")
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.md").write_text(DOCUMENT)
    build(folder / "notes", folder / "index", Embedder(EMBEDDED))
    return folder / "index"


@pytest.fixture(scope="module")
def add_sources(index):
    return from_index(index, None)


def chat(add_sources: Any, messages: Any, fits: Any = None, **fields: Any) -> dict[str, Any]:
    """The answer of a model that repeats the request which it got."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        content = message["body"].decode()
        choice = {"index": 0, "message": {"role": "assistant", "content": content}}
        await send_json(send, 200, {"choices": [choice]}, {})

    async def once() -> dict[str, Any]:
        app = Gate(Assistant(echo, "v1", guard=True, augment=add_sources, fits=fits), Limits())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://s") as http:
            body = {"messages": messages, **fields}
            return (await http.post(MODEL_PATHS[0], json=body)).json()

    return asyncio.run(once())


def test_sources_reach_the_model_and_the_caller(add_sources):
    answer = chat(add_sources, [{"role": "user", "content": "How is warfarin started?"}])
    seen = answer["choices"][0]["message"]["content"]
    assert "started with 5 mg once a day" in seen
    assert "structured_outputs" not in seen
    retrieval = answer["medgpt"]["retrieval"]
    assert retrieval["sufficient"]
    assert retrieval["sources"][0]["path"] == "notes.md"
    assert answer["medgpt"]["guard"]["dose_caution"] == []  # the dose stands in the source


def test_sources_that_leave_no_room_for_the_answer_are_left_out(add_sources):
    asked = [{"role": "user", "content": "How long do children with measles stay at home?"}]
    fitting: list[bool] = []

    async def fits(body: Any) -> bool:
        fitting.append("[2] (" not in body["messages"][-1]["content"])
        return fitting[-1]

    numbers = [
        [source["number"] for source in answer["medgpt"]["retrieval"]["sources"]]
        for answer in (chat(add_sources, asked), chat(add_sources, asked, fits=fits))
    ]
    assert numbers == [[1, 2], [1]]
    assert fitting == [False]  # the first stays, whatever its length


def test_without_sources_the_model_can_only_say_so(add_sources):
    answer = chat(add_sources, [{"role": "user", "content": "Who won the cup in 1998?"}])
    seen = answer["choices"][0]["message"]["content"]
    assert f'"structured_outputs": {{"choice": ["{INSUFFICIENT}"]}}' in seen
    assert answer["medgpt"]["retrieval"]["sufficient"] is False
    assert answer["medgpt"]["retrieval"]["sources"] == []


def test_the_form_that_a_caller_asks_for_is_kept(add_sources):
    form = {"type": "json_object"}
    asked = [{"role": "user", "content": "Who won the cup in 1998?"}]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    named = {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "look"}}}
    for fields in ({"response_format": form}, named):
        answer = chat(add_sources, asked, **fields)
        assert "structured_outputs" not in answer["choices"][0]["message"]["content"]
        assert answer["medgpt"]["retrieval"]["sufficient"] is False
    answer = chat(add_sources, asked, response_format={"type": "text"})
    assert "structured_outputs" in answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "input_text", "text": "How is warfarin started?"}],
        ["How is warfarin started?"],
        [{"type": "text", "text": "How is"}, {"type": "input_text", "text": "warfarin started?"}],
    ],
)
def test_a_question_may_be_parts(add_sources, content):
    answer = chat(add_sources, [{"role": "user", "content": content}])
    assert answer["medgpt"]["retrieval"]["sources"][0]["path"] == "notes.md"
    assert "started with 5 mg once a day" in answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [3]}],
        "hello",
        [3],
    ],
)
def test_malformed_messages_are_left_to_vllm(add_sources, messages):
    answer = chat(add_sources, messages)
    assert "retrieval" not in answer.get("medgpt", {})


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "user", "content": " "}], [{"role": "system", "content": "Be kind."}]],
)
def test_without_a_question_there_is_no_answer(add_sources, messages):
    answer = chat(add_sources, messages)
    assert answer["error"]["message"] == "messages: hold no question of a user"


def test_an_index_that_was_built_anew_is_not_taken_for_the_old_one(index, add_sources):
    version = versions.of_index(index)
    answer = chat(add_sources, [{"role": "user", "content": "How is warfarin started?"}])
    assert answer["medgpt"]["retrieval"]["index"] == version
    from_index(index, version)
    with pytest.raises(RetrievalError, match=f"holds version {version} of the index, not 123"):
        from_index(index, "123")
