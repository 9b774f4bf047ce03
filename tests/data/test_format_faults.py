"""Each way in which a row can be wrong, with the field that its message names."""

import json
from typing import Any

import pytest

from medgpt_ray.data.formats import detect, parse
from medgpt_ray.data.rows import BadRow

ASK = {"role": "user", "content": "Which dose?"}
SAY = {"role": "assistant", "content": "5 mg."}
TOOL = {"name": "dose", "description": "Look up.", "parameters": {"type": "object"}}
CALL_TEXT = json.dumps({"name": "dose", "arguments": {"drug": "a"}})


def sharegpt(*turns: tuple[str, Any], **columns: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": text} for who, text in turns], **columns}


def problem(record: Any) -> str:
    with pytest.raises(BadRow) as caught:
        parse(record, detect(record))
    return str(caught.value)


H, G = ("human", "Which dose?"), ("gpt", "5 mg.")
F, O = ("function_call", CALL_TEXT), ("observation", "5")  # noqa: E741


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ((H, H, G), "[1].from: a turn of the user follows one of the user, expected the assistant"),
        (
            (H, G, G),
            "[2].from: a turn of the assistant follows one of the assistant, expected the u",
        ),
        ((G, H, G), "[0].from: the first turn is the assistant's, expected the user's"),
        (
            (("system", "Be brief."), G),
            "[1].from: a turn of the assistant follows one of the system",
        ),
        (
            (H, O, G),
            "[1].from: a tool's answer without a call in the turn before: write the call as a turn "
            "function_call or as tool_calls",
        ),
        ((O, G), "[0].from: a tool's answer without a call in the turn before"),
        (
            (H, F, G),
            "[2].from: a turn of the assistant follows one of the assistant, expected the t",
        ),
        ((H, F, O, O, G), "[3].from: answers of tools are more than the calls before them"),
        (
            (H, F, O, H, G),
            "[3].from: a turn of the user follows one of the tool, expected the assi",
        ),
        ((H, G, ("system", "Be kind.")), "[2].from: a system message can only come first"),
        ((H, G, H), ": ends with the user, the last turn must be the assistant's"),
        ((H, F, O), ": ends with the tool, the last turn must be the assistant's"),
        ((("system", "Be brief."),), ": ends with the system"),
        (
            (("doctor", "Hm."), G),
            "[0].from: 'doctor' is not one of system, developer, human, user, gpt",
        ),
        ((("human", " \n"), G), "[0].value: empty, expected text"),
        ((H, F, ("tool", None), G), "[2].value: is null, expected a string"),
        ((H, ("gpt", "")), "[1].value: empty, expected text"),
        ((H, ("gpt", 5)), "[1].value: is a number, expected a string"),
        ((H, ("gpt", "\ud83d")), "[1].value: holds half of a surrogate pair"),
        ((H, ("function_call", "dose(a)")), "[1].value: invalid JSON at column 1"),
        ((H, ("function_call", "[]")), "[1].value: empty list, expected at least one call"),
        ((H, ("function_call", "7")), "[1].value: is a number, expected {name, arguments}"),
        ((H, ("function_call", "{}")), "[1].value: has the keys [], expected name and arguments"),
        ((H, ("function_call", '[{"name": ""}]')), "[1].value[0].name: empty"),
        (
            (H, ("function_call", '{"name": "f", "arguments": [1]}')),
            "[1].value.arguments: is a list, expected an object",
        ),
        (
            (H, ("function_call", '{"name": "f", "parameters": {"a": 1}}')),
            "[1].value.parameters: the values of a call are its arguments",
        ),
        (
            (H, ("function_call", '{"name": "f", "arguments": "{"}')),
            "[1].value.arguments: invalid JSON at column 2",
        ),
        (
            (H, ("function_call", '{"name": "f", "name": "g"}')),
            "[1].value.name: given twice in one object",
        ),
        (
            (H, ("function_call", '{"name": "f", "arguments": {"a": NaN}}')),
            "[1].value.arguments.a: is nan",
        ),
        (
            (H, ("function_call", '{"name": "f", "arguments": {"a": "\\ud83d"}}')),
            "[1].value.arguments.a: holds half of a surrogate pair",
        ),
    ],
)
def test_a_wrong_turn_is_named(turns: Any, expected: str) -> None:
    assert problem(sharegpt(*turns)).startswith(f"conversations{expected}")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"conversations": "a"}, "conversations: is a string, expected a list of turns"),
        ({"conversations": []}, "conversations: empty list"),
        (
            {"conversations": ["a"]},
            "conversations[0]: is a string, expected {from, value} or {role",
        ),
        (
            {"conversations": [{"who": "a"}]},
            "conversations[0]: has the keys ['who'], expected from",
        ),
        ({"conversations": [{"from": "human"}]}, "conversations[0].value: missing"),
        (
            {"conversations": [{"from": ["human"]}]},
            "conversations[0].from: ['human'] is not one of",
        ),
        ({"messages": [ASK, {"role": "assistant"}]}, "messages[1].content: missing"),
        ({"messages": [ASK, {**SAY, "content": None}]}, "messages[1].content: is null"),
        (
            {"messages": [ASK, {**SAY, "content": [{"text": "a"}]}]},
            "messages[1].content[0]: is of type None, only",
        ),
        (
            {"messages": [{**ASK, "tool_calls": [{}]}]},
            "messages[0].tool_calls: only an assistant calls tools",
        ),
        (
            {"messages": [ASK, {**SAY, "function_call": {"name": "f", "arguments": "{}"}}]},
            "messages[1].function_call: is not read: write calls as tool_calls",
        ),
        (
            {"messages": [ASK, {**SAY, "reasoning_content": "because"}]},
            "messages[1].reasoning_content: is not read: put it into content",
        ),
        (
            {"messages": [ASK, {**SAY, "weight": 0}]},
            "messages[1].weight: is not read: no turn can be left out",
        ),
        ({"messages": [ASK, {**SAY, "tool_calls": "a"}]}, "messages[1].tool_calls: is a string"),
        (sharegpt(H, G, tools="[{"), "tools: invalid JSON at column 3"),
        (sharegpt(H, G, tools="{}"), "tools: is an object, expected a list of functions"),
        (sharegpt(H, G, tools='["f"]'), "tools[0]: is a string, expected {name, description"),
        (sharegpt(H, G, tools=[{"type": "function"}]), "tools[0]: has the keys ['type'], expected"),
        (
            sharegpt(("system", "a"), H, G, system="b"),
            "system: given together with conversations[0]",
        ),
        (
            sharegpt(("system", "a"), H, G, system_prompt="b"),
            "system_prompt: given together with conversations[0]",
        ),
        (sharegpt(H, G, system=5), "system: is a number"),
        ({"instruction": "a"}, "output: missing"),
        ({"instruction": None, "output": "b"}, "instruction: is null"),
        ({"instruction": "", "input": "", "output": "b"}, "instruction: empty"),
        ({"instruction": "a", "input": 5, "output": "b"}, "input: is a number"),
        (
            {"instruction": "a", "output": "b", "history": "c"},
            "history: is a string, expected a list",
        ),
        (
            {"instruction": "a", "output": "b", "history": [["c"]]},
            "history[0]: has 1 items, expected",
        ),
        ({"instruction": "a", "output": "b", "history": [["c", ""]]}, "history[0][1]: empty"),
        ({"instruction": "a", "output": "b", "tools": [TOOL]}, "tools: alpaca rows have none"),
        (
            {"prompt": "a", "completion": "b", "response": "c"},
            "completion: given together with resp",
        ),
        (
            {"prompt": "a", "completion": [ASK]},
            "completion[0].role: an answer begins with the assis",
        ),
        (
            {"prompt": [ASK, SAY], "completion": "b"},
            "completion: a turn of the assistant follows one",
        ),
        (
            {"prompt": "a", "response": "b", "history": [["c", "d"]]},
            "history: not read beside prompt",
        ),
        ({"question": "a", "answer": None}, "answer: is null"),
        (
            {"question": "a", "answer": "b", "system": "c"},
            "system: question and answer are a whole",
        ),
        ({"question": "a", "answer": True}, "answer: is a boolean"),
        ({"question": "a", "answer": float("inf")}, "answer: is a number"),
        ({"question": "a", "answer": ["b", "c"]}, "answer: is a list"),
        ({"conversations": ["a", "b", "c"]}, "conversations: ends with the user"),
        ({"instruction": "a", "output": "b", "response": "c"}, "output: given together with resp"),
        ({"text": ""}, "text: empty"),
        (sharegpt(H, chosen="a"), "rejected: missing"),
        (sharegpt(H, rejected="a"), "chosen: missing"),
        (sharegpt(H, chosen="a", rejected="a"), "rejected: is the same as chosen"),
        (sharegpt(H, chosen="a", rejected=" "), "rejected: empty"),
        (sharegpt(H, chosen="a", rejected=5), "rejected: is a number"),
        (
            sharegpt(H, G, chosen="a", rejected="b"),
            "chosen: a turn of the assistant follows one of",
        ),
        (
            sharegpt(H, chosen=[ASK], rejected="b"),
            "chosen[0].role: an answer begins with the assist",
        ),
        (sharegpt(H, chosen=[SAY, ASK], rejected="b"), "chosen: ends with the user"),
        (
            sharegpt(H, chosen="a", rejected="b", margin="c"),
            "margin: is a string, expected a number",
        ),
        (sharegpt(H, chosen="a", rejected="b", margin=True), "margin: is a boolean"),
        *(
            (sharegpt(H, chosen="a", rejected="b", margin=margin), "margin: expected a number that")
            for margin in (float("nan"), -1e39, 10**400)
        ),
        ({"chosen": "a", "rejected": "b"}, "prompt: missing"),
        ({"question": "a", "response_chosen": "b"}, "response_rejected: missing"),
        (
            {"prompt": "a", "completion": "b", "label": 2},
            "label: is 2, expected true (a good",
        ),
    ],
)
def test_a_wrong_field_is_named(record: Any, expected: str) -> None:
    assert problem(record).startswith(expected)


@pytest.mark.parametrize(
    "name", ["weight", "loss", "train", "training", "train_on_turn", "thinking", "reasoning"]
)
def test_a_key_of_a_turn_that_changes_what_is_learned_is_named(name: str) -> None:
    for value in (0, False, "Hm."):
        told = problem({"messages": [ASK, SAY | {name: value}]})
        assert told.startswith(f"messages[1].{name}: is not read: ")
    for value in (1, True, None, ""):
        assert parse({"messages": [ASK | {name: 0}, SAY | {name: value}]}, "messages")


def test_a_masked_turn_is_named() -> None:
    told = problem({"messages": [ASK, SAY | {"mask": True}]})
    assert told.startswith("messages[1].mask: is not read: ")
    assert parse({"messages": [ASK | {"mask": True}, SAY | {"mask": False}]}, "messages")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"functions": [TOOL]}, "functions: is not read: rename it to tools"),
        ({"image": "x.png"}, "image: only texts are trained on"),
        ({"videos": ["x.mp4"]}, "videos: only texts are trained on"),
        ({"audio": {"path": "x.wav"}}, "audio: only texts are trained on"),
        ({"system": "a", "system_prompt": "b"}, "system_prompt: given together with system"),
        ({"history": [["a", "b"]]}, "history: not read beside turns"),
        ({"label": True}, "label: tells good answers from bad ones, such rows are for stage kto"),
        ({"label": 0}, "label: tells good answers from bad ones"),
        ({"label": "False"}, "label: tells good answers from bad ones"),
        ({"is_correct": False}, "is_correct: tells good answers from bad ones"),
        ({"kto_tag": True}, "kto_tag: tells good answers from bad ones"),
    ],
)
def test_a_column_that_changes_what_is_learned_is_named(
    columns: dict[str, Any], expected: str
) -> None:
    for name, record in (("messages", {"messages": [ASK, SAY]}), ("sharegpt", sharegpt(H, G))):
        with pytest.raises(BadRow) as caught:
            parse(record | columns, name)
        assert str(caught.value).startswith(expected)
        assert parse(record | dict.fromkeys(columns), name)


ASKING = [
    {"question": "Which?", "answer": "A"},
    {"instruction": "Which?", "output": "A"},
    {"prompt": "Which?", "completion": "A"},
    {"prompt": [{"role": "user", "content": "Which?"}], "chosen": "A", "rejected": "B"},
    {"question": "Which?", "response_chosen": "A", "response_rejected": "B"},
    {"instruction": "Which?", "chosen": "A", "rejected": "B"},
    {"prompt": "Which?", "completion": "A", "label": True},
]
NOTE = "A note of the ward."
OPTIONS = [
    {"A": "Iron", "B": "zinc"},
    ["Iron", "zinc"],
    [{"key": "A", "value": "Iron"}, {"key": "B", "value": "zinc"}],
    {"text": ["Iron", "zinc"], "label": ["A", "B"]},
    '{"A": "Iron", "B": "zinc"}',
    "A Iron\nB zinc",
]


@pytest.mark.parametrize("record", ASKING)
@pytest.mark.parametrize(
    "columns",
    [
        *({name: OPTIONS[0]} for name in ("options", "option", "choices", "Options")),
        *({"options": options} for options in OPTIONS),
        {"opa": "iron", "opb": "zinc"},
        {"A": "iron", "B": "zinc"},
        {"contexts": ["A note of the ward."]},
        {"passage": "A note of the ward."},
    ],
)
def test_what_an_answer_is_about_stands_in_the_question(
    record: dict[str, Any], columns: dict[str, Any]
) -> None:
    name = next(iter(columns))
    told = problem(record | columns)
    assert told.startswith(f"{name}: is not read, and does not stand in the question: write ")
    assert parse(record | dict.fromkeys(columns), detect(record))
    (asked,) = {"question", "instruction", "prompt"} & record.keys()
    question = "A note of the ward. Which?\nA. iron\nB. zinc."
    shown = [{"role": "user", "content": question}] if asked == "prompt" else question
    assert parse(record | columns | {asked: shown}, detect(record))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"question": "a", "answer": "b", "context": NOTE}, "context: is not read"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "context": NOTE}, "context: is not read"),
        ({"prompt": "a", "completion": "b", "input": NOTE}, "input: is not read"),
        ({"question": "a", "answer": "b", "input": NOTE}, "input: is not read"),
        ({"instruction": "a", "output": "b", "query": NOTE}, "query: is not read"),
        (
            {"instruction": "a", "input": "b", "output": "c", "context": NOTE},
            "context: is not read",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "instruction": NOTE}, "instruction: is"),
        # A number stands in the question as a whole only.
        ({"question": "Of 12?", "answer": "b", "options": [1, 2]}, "options: is not read"),
        (
            {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "A"}]}
            | {"options": ["Iron", "zinc"]},
            "options: is not read",
        ),
    ],
)
def test_a_part_of_the_question_that_is_not_read_is_named(record: Any, expected: str) -> None:
    assert problem(record).startswith(expected)


@pytest.mark.parametrize(
    "columns",
    [
        {"answer": "Iron", "options": ["Iron", "zinc"]},  # an open question
        {"answer": "yes", "options": ["yes", "no", "maybe"]},
        {"option": 3, "context": "ICU", "A": 1, "B": 2},
        {
            "question": "1) Iron 2) Zinc",
            "options": [{"letter": "A", "text": "Iron"}],
            "answer": "A",
        },
        {"question": "Iron or zinc?", "options": ["A. Iron", "B. Zinc"], "answer": "A"},
        {"question": "A) 5 B) 6", "options": [5.0, 6.0], "answer": "A"},
        {"question": "Iron or zinc?", "options": "['Iron', 'zinc']", "answer": "B"},
        {"question": f"{NOTE} Which?", "context": {"contexts": [NOTE], "meshes": ["A long term"]}},
        {"images": [None], "image": False},
    ],
)
def test_columns_that_take_nothing_from_the_question_are_left_alone(columns: Any) -> None:
    record = {"question": "Which?", "answer": "A longer answer."} | columns
    assert parse(record, detect(record))
