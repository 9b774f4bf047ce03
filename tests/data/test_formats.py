"""Every format read into rows, told apart by its keys, and which stage takes them."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from medgpt_ray.config.supervised import COLUMNS
from medgpt_ray.config.supervised import Format as FormatName
from medgpt_ray.data.convert import COLUMNS as CONVERTED
from medgpt_ray.data.files import find
from medgpt_ray.data.formats import (
    FORMATS,
    KINDS,
    Reading,
    check_stage,
    detect,
    detect_file,
    for_stage,
    parse,
    reading_of,
)
from medgpt_ray.data.formats.columns import THOUGHTS
from medgpt_ray.data.rows import BadRow, DataError, content_hash, near_hash, without_ids
from medgpt_ray.data.segments import segments
from medgpt_ray.types import Conversation, Document, Labelled, Preference, Row

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Which dose?"}
SAY = {"role": "assistant", "content": "5 mg."}
WORSE = {"role": "assistant", "content": "50 mg."}
MORE = {"role": "user", "content": "How often?"}
DAILY = {"role": "assistant", "content": "每天一次。"}
TOOL = {"name": "dose", "description": "Look up.", "parameters": {"type": "object"}}
TOOLS = ({"type": "function", "function": TOOL},)
RESULT = {"role": "tool", "content": '{"mg": 5}'}


def call(*drugs: str, content: str = "") -> dict[str, Any]:
    calls = [
        {"type": "function", "function": {"name": "dose", "arguments": {"drug": drug}}}
        for drug in drugs
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def sharegpt(*turns: tuple[str, str], **columns: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": text} for who, text in turns], **columns}


def read(record: Any) -> Row:
    return parse(record, detect(record))


def bare(row: Row) -> Conversation:
    """Without the ids of its calls."""
    assert isinstance(row, Conversation)
    return Conversation(tuple(map(without_ids, row.messages)), row.tools)


def problem(record: Any, name: str | None = None) -> str:
    with pytest.raises(BadRow) as caught:
        parse(record, name or detect(record))
    return str(caught.value)


def test_the_formats_are_those_of_the_configuration() -> None:
    assert set(FORMATS) == set(get_args(FormatName)) - {"auto"}


@pytest.mark.parametrize(
    ("record", "name", "messages"),
    [
        (sharegpt(("human", "Which dose?"), ("gpt", "5 mg.")), "sharegpt", (ASK, SAY)),
        (
            sharegpt(("system", "Be brief."), ("user", "Which dose?"), ("assistant", "5 mg.")),
            "sharegpt",
            (SYSTEM, ASK, SAY),
        ),
        (
            sharegpt(("human", "Which dose?"), ("gpt", "5 mg."), system="Be brief.", tools=""),
            "sharegpt",
            (SYSTEM, ASK, SAY),
        ),
        (
            {"messages": [SYSTEM, ASK, SAY, MORE, DAILY]},
            "messages",
            (SYSTEM, ASK, SAY, MORE, DAILY),
        ),
        (
            {"messages": [{**ASK, "name": "Ward 3"}, {**SAY, "tool_calls": None}], "id": 7},
            "messages",
            (ASK, SAY),
        ),
        ({"instruction": "Which dose?", "output": "5 mg."}, "alpaca", (ASK, SAY)),
        (
            {"instruction": "Which dose?", "input": " ", "output": "5 mg.", "system": None},
            "alpaca",
            (ASK, SAY),
        ),
        ({"instruction": "", "input": "Which dose?", "output": "5 mg."}, "alpaca", (ASK, SAY)),
        (
            {"instruction": "Translate.", "input": "Dosis", "output": "Dose"},
            "alpaca",
            (
                {"role": "user", "content": "Translate.\n\nDosis"},
                {"role": "assistant", "content": "Dose"},
            ),
        ),
        (
            {
                "instruction": "How often?",
                "output": "每天一次。",
                "system": "Be brief.",
                "history": [["Which dose?", "5 mg."]],
            },
            "alpaca",
            (SYSTEM, ASK, SAY, MORE, DAILY),
        ),
        ({"prompt": "Which dose?", "response": "5 mg."}, "prompt_completion", (ASK, SAY)),
        ({"prompt": "Which dose?", "completion": "5 mg."}, "prompt_completion", (ASK, SAY)),
        (
            {"prompt": [ASK, SAY, MORE], "completion": [DAILY], "system": "Be brief."},
            "prompt_completion",
            (SYSTEM, ASK, SAY, MORE, DAILY),
        ),
        ({"question": "Which dose?", "answer": "5 mg.", "ward": 3}, "qa", (ASK, SAY)),
        ({"问": "Which dose?", "答": "5 mg."}, "qa", (ASK, SAY)),
        (
            {"instruction": "Translate.", "context": "Dosis", "response": "Dose", "category": "x"},
            "alpaca",
            (
                {"role": "user", "content": "Translate.\n\nDosis"},
                {"role": "assistant", "content": "Dose"},
            ),
        ),
        ({"instruction": None, "input": "Which dose?", "output": "5 mg."}, "alpaca", (ASK, SAY)),
        (
            {"conversations": ["Which dose?", "5 mg.", "How often?", "每天一次。"], "source": "x"},
            "sharegpt",
            (ASK, SAY, MORE, DAILY),
        ),
        (
            {"messages": [ASK, SAY], "system_prompt": "Be brief.", "images": []},
            "messages",
            (SYSTEM, ASK, SAY),
        ),
        (
            sharegpt(("human", "Which dose?"), ("gpt", "5 mg."), instruction="?", response="!"),
            "sharegpt",
            (ASK, SAY),
        ),
        (
            {"messages": [SYSTEM, ASK, SAY], "system_prompt": "Be brief."},
            "messages",
            (SYSTEM, ASK, SAY),
        ),
        ({"question": ["Which dose?"], "answer": [["5 mg."]]}, "qa", (ASK, SAY)),
    ],
)
def test_conversations(record: Any, name: str, messages: tuple[Any, ...]) -> None:
    assert detect(record) == name
    assert parse(record, name) == Conversation(messages)


def test_documents() -> None:
    assert read("Fever is a sign.") == Document("Fever is a sign.")
    assert read({"text": "Fever is a sign.", "url": "x"}) == Document("Fever is a sign.")
    assert problem("Fever", "qa") == "is a line of text, expected qa (question, answer)"


PAIR = Preference((ASK,), (SAY,), (WORSE,))
SAID = {"from": "gpt", "value": "5 mg."}


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (sharegpt(("human", "Which dose?"), chosen="5 mg.", rejected="50 mg."), "conversations"),
        (sharegpt(("human", "Which dose?"), chosen=[SAY], rejected=WORSE), "conversations"),
        (sharegpt(("human", "Which dose?"), chosen=SAID, rejected=[WORSE]), "conversations"),
        (
            {"question": "Which dose?", "response_chosen": "5 mg.", "response_rejected": "50 mg."},
            "question",
        ),
        (
            {
                "system": "",
                "history": [],
                "question": "Which dose?",
                "response_chosen": "5 mg.",
                "response_rejected": "50 mg.",
            },
            "question",
        ),
        ({"question": "Which dose?", "chosen": "5 mg.", "rejected": "50 mg."}, "question"),
        ({"instruction": "Which dose?", "chosen": "5 mg.", "rejected": "50 mg."}, "alpaca"),
        ({"instruction": "Which dose?", "input": "", "chosen": SAID, "rejected": WORSE}, "alpaca"),
        ({"instruction": "", "input": "Which dose?", "chosen": SAY, "rejected": WORSE}, "alpaca"),
        ({"prompt": "Which dose?", "chosen": "5 mg.", "rejected": "50 mg."}, ""),
        ({"prompt": [ASK], "chosen": [SAY], "rejected": [WORSE], "messages": None}, ""),
        ({"chosen": [ASK, SAY], "rejected": [ASK, WORSE]}, ""),
        ({"prompt": "Which dose?", "chosen": [ASK, SAY], "rejected": [ASK, WORSE]}, ""),
        ({"input": "Which dose?", "chosen": "5 mg.", "rejected": "50 mg."}, "question"),
        (
            {
                "input": {"messages": [ASK]},
                "preferred_output": [SAY],
                "non_preferred_output": [WORSE],
            },
            "",
        ),
        (
            {
                "chosen": "\n\nHuman: Which dose?\n\nAssistant: 5 mg.",
                "rejected": "\n\nHuman: Which dose?\n\nAssistant: 50 mg.",
            },
            "",
        ),
        (
            {
                "prompt": "\n\nHuman: Which dose?\n\nAssistant:",
                "chosen": "5 mg.",
                "rejected": "50 mg.",
            },
            "",
        ),
    ],
)
def test_preference_pairs(record: Any, name: str) -> None:
    name = f"preference_{name}".rstrip("_")
    assert detect(record) == name
    assert parse(record, name) == PAIR
    for margin in (1, 0.5):
        assert parse({**record, "margin": margin}, name) == Preference(
            (ASK,), (SAY,), (WORSE,), margin
        )
    with_system = Preference((SYSTEM, ASK), (SAY,), (WORSE,))
    assert parse({**record, "system": "Be brief."}, name) == with_system


def test_two_conversations_part_at_their_first_difference() -> None:
    common = (SYSTEM, ASK, call("a"), RESULT)
    chosen, rejected = (SAY, MORE, DAILY), (WORSE,)
    record = {"chosen": [*common, *chosen], "rejected": [*common, *rejected], "tools": [TOOL]}
    assert read(record) == Preference(common, chosen, rejected, tools=TOOLS)
    record = {"chosen": [ASK, SAY, MORE, DAILY], "rejected": [ASK, SAY, ASK, WORSE]}
    assert read(record) == Preference((ASK,), (SAY, MORE, DAILY), (SAY, ASK, WORSE))
    assert "no prompt in common" in problem({"chosen": [ASK, SAY], "rejected": [MORE, DAILY]})
    other = {"prompt": "How often?", "chosen": [ASK, SAY], "rejected": [ASK, WORSE]}
    assert problem(other) == "prompt: is not the prompt that chosen and rejected begin with"


def test_roles_and_parts_as_others_write_them() -> None:
    parts = [{"type": "text", "text": "Which "}, {"type": "text", "text": "dose?"}]
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "model", "content": [{"type": "text", "text": "5 mg."}]},
    ]
    assert read({"messages": turns}) == Conversation((SYSTEM, ASK, SAY))
    for part, told in (
        (
            {"type": "image_url", "image_url": {}},
            "messages[0].content[1]: is of type image_url, only",
        ),
        ({"type": "text"}, "messages[0].content[1].text: is null, expected a string"),
        ("dose?", "messages[0].content[1]: is a string, only parts of type text"),
    ):
        turn = {"role": "user", "content": [parts[0], part]}
        assert problem({"messages": [turn, SAY]}).startswith(told)
    turn = {"role": "user", "content": []}
    assert problem({"messages": [turn, SAY]}) == "messages[0].content: empty, expected text"


def test_two_texts_of_hh_rlhf_part_at_their_first_difference() -> None:
    start = "\n\nHuman: Which dose?\n\nAssistant: 5 mg.\n\nHuman: How often?\n\nAssistant: "
    record = {"chosen": start + "每天一次。", "rejected": start + "50 mg."}
    assert read(record) == Preference((ASK, SAY, MORE), (DAILY,), (WORSE,))
    assert problem(record | {"rejected": start}) == "rejected[3]: empty, expected text"


def test_tools_of_openai_s_pairs() -> None:
    asked = {"messages": [SYSTEM, ASK], "tools": [TOOL]}
    record = {"input": asked, "preferred_output": [SAY], "non_preferred_output": [WORSE]}
    assert read(record) == Preference((SYSTEM, ASK), (SAY,), (WORSE,), tools=TOOLS)
    same = problem(record | {"non_preferred_output": [SAY]})
    assert same.startswith("non_preferred_output: is the same as preferred_output")
    assert problem(record | {"input": "Which dose?"}).startswith("input: expected an object")


@pytest.mark.parametrize("role", ["chatgpt", "bing", "bard"])
def test_assistants_of_other_names(role: str) -> None:
    assert read(sharegpt(("human", "Which dose?"), (role, "5 mg."))) == Conversation((ASK, SAY))


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_an_empty_system_message_is_none(empty: str | None) -> None:
    turn = {"role": "system", "content": empty}
    assert read({"messages": [turn, ASK, SAY]}) == Conversation((ASK, SAY))
    expected = Conversation((SYSTEM, ASK, SAY))
    assert read({"messages": [turn, ASK, SAY], "system": "Be brief."}) == expected
    assert problem({"messages": [turn]}).startswith("messages: has only an empty system message")
    parquet = {"role": "system"}
    assert read({"messages": [parquet, ASK, SAY]}) == Conversation((ASK, SAY))


@pytest.mark.parametrize(("value", "text"), [(42, "42"), (0.5, "0.5")])
def test_a_number_is_an_answer(value: float, text: str) -> None:
    said = {"role": "assistant", "content": text}
    assert read({"question": "Which dose?", "answer": value}) == Conversation((ASK, said))


def test_history_comes_before_the_question_of_a_pair() -> None:
    record = {
        "history": [["Which dose?", "5 mg."]],
        "question": "How often?",
        "response_chosen": "每天一次。",
        "response_rejected": "50 mg.",
    }
    assert read(record) == Preference((ASK, SAY, MORE), (DAILY,), (WORSE,))


def test_labelled_answers() -> None:
    record = {"prompt": "Which dose?", "completion": "5 mg.", "label": False, "system": "Be brief."}
    assert detect(record) == "labelled"
    assert read(record) == Labelled((SYSTEM, ASK), (SAY,), False)
    record["response"] = record.pop("completion")
    assert detect(record) == "labelled"
    assert read(record) == Labelled((SYSTEM, ASK), (SAY,), False)
    record = {"prompt": [ASK], "completion": [SAY], "label": True, "tools": json.dumps([TOOL])}
    assert read(record) == Labelled((ASK,), (SAY,), True, TOOLS)
    for label in (0, 1):
        record = {"prompt": "Which dose?", "completion": "5 mg.", "label": label}
        assert read(record) == Labelled((ASK,), (SAY,), label == 1)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASK, SAY]},
        sharegpt(("human", "Which dose?"), ("gpt", "5 mg.")),
        {"instruction": "Which dose?", "output": "5 mg."},
        {"prompt": "Which dose?", "response": "5 mg."},
    ],
)
def test_a_kto_tag_labels_the_last_answer(record: dict[str, Any]) -> None:
    for tag in (True, False):
        assert read(record | {"kto_tag": tag}) == Labelled((ASK,), (SAY,), tag)
    both = problem(record | {"kto_tag": True, "label": True}, "labelled")
    assert both == "label: given together with kto_tag, keep one of them"


def test_a_label_of_turns_is_for_kto() -> None:
    record = {"messages": [ASK, SAY, MORE, DAILY], "label": False}
    assert detect(record, "kto") == "labelled"
    assert parse(record, "labelled") == Labelled((ASK, SAY, MORE), (DAILY,), False)
    assert detect(record, "sft") == "messages"
    assert problem(record, "messages").startswith("label: tells good answers from bad ones")
    topic = record | {"label": "cardiology"}
    assert parse(topic, "messages") == Conversation((ASK, SAY, MORE, DAILY))


SWAPPED = {"question": "answer", "answer": "question"}
CALL_TEXT = json.dumps({"name": "dose", "arguments": {"drug": "a"}})
TWO_CALLS = json.dumps([{"name": "dose", "arguments": {"drug": drug}} for drug in "ab"])
TALK = (ASK, call("a"), RESULT, SAY)


@pytest.mark.parametrize("tools", [json.dumps([TOOL]), json.dumps(TOOLS), [TOOL], list(TOOLS)])
def test_function_calls_and_observations(tools: Any) -> None:
    for role in ("observation", "tool"):
        turns = ("human", "Which dose?"), ("function_call", CALL_TEXT), (role, '{"mg": 5}')
        record = sharegpt(*turns, ("gpt", "5 mg."), tools=tools)
        assert read(record) == Conversation(TALK, TOOLS)


@pytest.mark.parametrize("role", ["function", "function_response", "ipython"])
def test_tools_of_other_names(role: str) -> None:
    turns = ("human", "Which dose?"), ("function_call", CALL_TEXT), (role, '{"mg": 5}')
    assert read(sharegpt(*turns, ("gpt", "5 mg."))) == Conversation(TALK)


def test_a_tool_may_answer_nothing() -> None:
    nothing = RESULT | {"content": ""}
    expected = Conversation((ASK, call("a"), nothing, SAY))
    called = call("a", content="\n")
    assert read({"messages": [ASK, called, nothing, SAY]}) == expected
    written = FORMATS["sharegpt"].write(expected)
    assert read(written) == expected


def test_a_call_in_the_text_is_a_call() -> None:
    said = {"role": "assistant", "content": f"<tool_call>\n{CALL_TEXT}\n</tool_call>"}
    turns = ("human", "Which dose?"), ("gpt", said["content"]), ("tool", '{"mg": 5}')
    assert read(sharegpt(*turns, ("gpt", "5 mg."))) == Conversation((ASK, said, RESULT, SAY))
    assert read(sharegpt(*turns[:2])) == Conversation((ASK, said))
    more = problem(sharegpt(*turns, turns[2], ("gpt", "5 mg.")))
    assert more.startswith("conversations[3].from: answers of tools are more than the calls")


def test_parallel_calls_and_a_text_before_a_call() -> None:
    turns = ("human", "Which dose?"), ("gpt", "I look."), ("function_call", TWO_CALLS)
    results = (("observation", '{"mg": 5}'),) * 2
    both = call("a", "b", content="I look.")
    record = sharegpt(*turns, *results, ("gpt", "5 mg."))
    assert read(record) == Conversation((ASK, both, RESULT, RESULT, SAY))
    record = sharegpt(*turns, *results[:1], ("gpt", "5 mg."))
    assert read(record) == Conversation((ASK, both, RESULT, SAY))
    assert read(sharegpt(*turns)) == Conversation((ASK, both))


def test_a_weight_of_zero_is_a_question_s_own() -> None:
    turns = [{"from": "human", "value": "Which dose?", "weight": 0.0}]
    turns += [{"from": "gpt", "value": "5 mg.", "weight": 1.0}]
    assert read({"conversations": turns}) == Conversation((ASK, SAY))


def openai_call(id: str, drug: str, arguments: Any = None) -> dict[str, Any]:
    arguments = json.dumps({"drug": drug}) if arguments is None else arguments
    return {"id": id, "type": "function", "function": {"name": "dose", "arguments": arguments}}


def test_tool_calls_as_openai_writes_them() -> None:
    for arguments in (None, {"drug": "a"}):
        calls = {
            "role": "assistant",
            "content": None,
            "tool_calls": [openai_call("1", "a", arguments)],
        }
        result = {**RESULT, "tool_call_id": "1"}
        assert bare(read({"messages": [ASK, calls, result, SAY]})) == Conversation(TALK)
    calls = {"role": "assistant", "tool_calls": [{"name": "dose", "arguments": {"drug": "a"}}]}
    assert read({"messages": [ASK, calls, RESULT, SAY], "tools": [TOOL]}) == Conversation(
        TALK, TOOLS
    )
    empty = {"role": "assistant", "content": "", "tool_calls": [openai_call("1", "a", "")]}
    expected = {"type": "function", "function": {"name": "dose", "arguments": {}}}
    message = {"role": "assistant", "content": "", "tool_calls": [expected]}
    assert bare(read({"messages": [ASK, empty]})) == Conversation((ASK, message))


def test_answers_of_tools_come_in_the_order_of_their_calls() -> None:
    calls = {"role": "assistant", "tool_calls": [openai_call("x", "a"), openai_call("y", "b")]}
    second, first = (
        {"role": "tool", "content": text, "tool_call_id": id}
        for id, text in (("y", "b"), ("x", "a"))
    )
    results = tuple({"role": "tool", "content": text} for text in "ab")
    expected = Conversation((ASK, call("a", "b"), *results, SAY))
    assert bare(read({"messages": [ASK, calls, second, first, SAY]})) == expected
    assert bare(read({"messages": [ASK, calls, first, second, SAY]})) == expected
    unknown = {**first, "tool_call_id": "z"}
    expected_problem = "messages[2].tool_call_id: 'z' is not the id of a call just before"
    assert problem({"messages": [ASK, calls, unknown, SAY]}) == expected_problem


def test_keys_that_fit_no_format_or_several_are_listed() -> None:
    with pytest.raises(BadRow) as caught:
        detect({"id": 1, "body": "Fever."})
    text = str(caught.value)
    assert text.startswith("has the keys ['id', 'body'], which fit no known format: sharegpt (conv")
    assert all(f"{name} ({format.schema})" in text for name, format in FORMATS.items())
    assert "say so with columns, such as {question: Question, answer: Response}" in text
    with pytest.raises(BadRow, match="could be sharegpt or messages: name its format"):
        detect({"conversations": [], "messages": []})
    assert detect({"conversations": None, "messages": []}) == "messages"
    assert detect({"text": None}) == "text"


@pytest.mark.parametrize(
    ("record", "names"),
    [
        (
            {"prompt": "?", "messages": [ASK, SAY], "chosen": [ASK, SAY], "rejected": [ASK, WORSE]},
            {"sft": "messages", "dpo": "preference", "kto": "preference"},
        ),
        (
            {"instruction": "Which dose?", "input": "", "output": "5 mg.", "text": "Below is"},
            {"sft": "alpaca", "pt": "text"},
        ),
        (
            {"prompt": "Which dose?", "response": "5 mg.", "chosen": "5 mg.", "rejected": "50 mg."},
            {"sft": "prompt_completion", "rm": "preference", "orpo": "preference"},
        ),
    ],
)
def test_of_several_formats_the_stage_takes_its_own(
    record: dict[str, Any], names: dict[str, str]
) -> None:
    assert {stage: detect(record, stage) for stage in names} == names
    with pytest.raises(BadRow, match="name its format or the stage that it is for"):
        detect(record)
    with pytest.raises(BadRow, match=r"could be sharegpt or messages: name its format$"):
        detect({"conversations": [], "messages": []}, "sft")


@pytest.mark.parametrize(
    ("record", "columns", "name"),
    [
        (
            {
                "Question": "Which dose?",
                "Response": "5 mg.",
                "Complex_CoT": "Let me see what is asked.",
            },
            {"question": "Question", "answer": "Response", "unused": "Complex_CoT"},
            "qa",
        ),
        (
            {"kind": "QA", "input": "Which dose?", "target": "5 mg."},
            {"question": "input", "answer": "target"},
            "qa",
        ),
        ({"query": "Which dose?", "response": "5 mg."}, {"instruction": "query"}, "alpaca"),
        ({"answer": "Which dose?", "question": "5 mg."}, SWAPPED, "qa"),
    ],
)
def test_columns_of_other_names(
    tmp_path: Path, record: dict[str, Any], columns: dict[str, str], name: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(record))
    (file,) = find(str(path))
    reading = reading_of(segments(file), "auto", columns, "sft")
    assert reading == Reading(name, columns)
    assert parse(record, reading) == Conversation((ASK, SAY))


def test_a_wrong_row_is_told_in_the_words_of_its_file() -> None:
    reading = Reading("qa", {"question": "Question", "answer": "Response"})
    for record, expected in (
        ({"Question": "Which dose?"}, "Response: missing"),
        ({"Question": "Which dose?", "answer": "5 mg."}, "Response: missing"),
        ({"Question": " ", "Response": "5 mg."}, "Question: empty, expected text"),
        (
            {"Question": "Which?", "Response": "A", "Options": {"A": "iron"}},
            "Options: is not read, and does not stand in the question",
        ),
    ):
        with pytest.raises(BadRow) as caught:
            parse(record, reading)
        assert str(caught.value).startswith(expected)
    reading = Reading("messages", {"messages": "talk.v1"})
    with pytest.raises(BadRow) as caught:
        parse({"talk.v1": [ASK, {"role": "assistant", "content": 5}]}, reading)
    assert str(caught.value) == "talk.v1[1].content: is a number, expected a string"


def test_several_columns_may_be_unused() -> None:
    row = {"question": "Which dose?", "answer": "5 mg.", "context": "The ward at night, room 4."}
    row["reasoning"] = "Let me see what is asked."
    for unused in ("context", ["context"], "reasoning"):
        with pytest.raises(BadRow, match="is not read"):
            parse(row, Reading("qa", {"unused": unused}))
    both = parse(row, Reading("qa", {"unused": ["context", "reasoning"]}))
    assert both == Conversation((ASK, SAY))


def test_lines_of_json_in_a_file_of_text_are_no_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text('{"text": "Rest."}\n{"text": "Sleep."}\n')
    (file,) = find(str(path))
    with pytest.raises(DataError, match=r"rows\.txt:1: is a JSON object in a file of plain text"):
        detect_file(segments(file), "pt")
    path.write_text("{Rest}\n")
    assert detect_file(segments(file), "pt") == "text"


def test_a_nul_character_is_no_text() -> None:
    assert "holds a NUL character" in problem({"question": "W\0h\0i\0c\0h\0?\0", "answer": "5"})


def test_ids_and_names_of_tools_are_kept_and_mean_nothing_to_the_hash() -> None:
    def rows(one: str, other: str) -> Conversation:
        asked = call("iron")
        asked["tool_calls"][0]["id"] = one
        answered = RESULT | {"tool_call_id": other, "name": "dose"}
        row = parse({"messages": [ASK, asked, answered, SAY]}, "messages")
        assert isinstance(row, Conversation)
        return row

    row = rows("functions.dose:0", "functions.dose:0")
    assert row.messages[1]["tool_calls"][0]["id"] == "functions.dose:0"
    assert row.messages[2]["tool_call_id"] == "functions.dose:0"
    assert row.messages[2]["name"] == "dose"
    assert parse(FORMATS["messages"].write(row), "messages") == row
    assert content_hash(row) == content_hash(rows("call_1", "call_1"))
    assert near_hash(row) == near_hash(rows("call_1", "call_1"))


def test_answers_of_tools_as_hermes_writes_them() -> None:
    written = "<tool_response>\n{}\n</tool_response>"
    calls = "<tool_call>\n{}\n</tool_call>\n<tool_call>\n{}\n</tool_call>"
    turns = [ASK, {"role": "assistant", "content": calls}]
    both = written.format("5") + "\n" + written.format("6")
    row = parse({"messages": [*turns, {"role": "tool", "content": both}, SAY]}, "messages")
    assert isinstance(row, Conversation)
    assert [m["content"] for m in row.messages if m["role"] == "tool"] == ["5", "6"]
    many = "\n".join(written.format(number) for number in range(30)) + "\nUse these."
    row = parse({"messages": [*turns, {"role": "tool", "content": many}, SAY]}, "messages")
    assert isinstance(row, Conversation)
    assert row.messages[2]["content"] == many  # more than answers: as it is, and at once
    shown = {"role": "system", "content": "Call <tools>...</tools>."}
    with pytest.raises(BadRow, match="tools: the system message has <tools> already"):
        parse({"messages": [shown, ASK, SAY], "tools": [TOOL]}, "messages")


def test_a_pair_may_have_its_prompt_as_messages() -> None:
    record = {"messages": [ASK], "chosen": SAY, "rejected": WORSE}
    assert detect(record, "dpo") == "preference"
    assert parse(record, "preference") == Preference((ASK,), (SAY,), (WORSE,))


def test_a_topic_beside_an_answer_is_no_label() -> None:
    record = {"prompt": "Which dose?", "response": "5 mg.", "label": "cardiology"}
    assert detect(record, "sft") == "prompt_completion"
    assert parse(record, "prompt_completion") == Conversation((ASK, SAY))
    assert detect(record, "kto") == "labelled"  # and the label is told to be none


def test_a_column_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"Question": "a"}\n{"Response": "b"}\n')
    (file,) = find(str(path))
    columns = {"question": "Question", "answer": "Response"}
    assert reading_of(segments(file), "qa", columns, None) == Reading("qa", columns)
    for format in ("qa", "auto"):
        with pytest.raises(DataError) as caught:
            reading_of(segments(file), format, columns | {"answer": "Answer"}, None)
        assert caught.value.problems == [
            f"{path}: columns.answer: no row has the column 'Answer', those there are: "
            "Question, Response"
        ]


def test_every_column_that_is_written_can_be_named() -> None:
    written = set().union(*CONVERTED.values())
    assert written - set(COLUMNS) == {"response_chosen", "response_rejected"}


def test_a_file_has_the_format_of_its_first_readable_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body"\n{"body": 1}\n{"question": "a", "answer": "b"}\n{"text": "c"}\n')
    (file,) = find(str(path))
    assert detect_file(segments(file, 1)) == "qa"
    path.write_text('{"body"\n{"body": 1}\n')
    with pytest.raises(DataError) as caught:
        detect_file(segments(file))
    first, second = caught.value.problems
    assert first.startswith(f"{path}:1: invalid JSON")
    assert second.startswith(f"{path}:2: has the keys ['body']")


ROWS: list[Row] = [
    Document("Fever."),
    Conversation((ASK, SAY)),
    PAIR,
    Labelled((ASK,), (SAY,), True),
]


def test_a_stage_takes_rows_of_its_kind() -> None:
    for stage, kind in KINDS.items():
        for row in ROWS:
            if type(row) is kind:
                assert for_stage(row, stage) == (row,)
            elif stage != "kto" or row is not PAIR:
                with pytest.raises(BadRow, match=f"stage {stage} trains on "):
                    for_stage(row, stage)


def test_kto_takes_a_pair_as_a_good_and_a_bad_answer() -> None:
    pair = Preference((ASK,), (SAY,), (WORSE,), tools=TOOLS)
    good, bad = for_stage(pair, "kto")
    assert good == Labelled((ASK,), (SAY,), True, TOOLS)
    assert bad == Labelled((ASK,), (WORSE,), False, TOOLS)


def test_a_stage_that_refuses_a_kind_names_the_way_out() -> None:
    with pytest.raises(
        BadRow, match=r"these are conversations: make texts .* `medgpt data convert`"
    ):
        check_stage(Conversation, "pt")
    with pytest.raises(
        BadRow, match="these are preference pairs: train with stage rm or dpo or orpo or kto"
    ):
        check_stage(Preference, "sft")


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        (
            {"Question": "Q", "Response": "A", "Complex_CoT": "Let me see what is asked."},
            {"question": "Question"},
        ),
        ({"instruction": "Q", "output": "A", "think": "Let me see what is asked."}, {}),
        ({"prompt": "Q", "completion": " A", "reasoning": "Let me see what is asked."}, {}),
        (
            {"instruction": "Q", "output": "A", "thoughts": "Let me see what is asked."},
            {"thoughts": "thoughts"},
        ),
    ],
)
def test_thoughts_are_learned_where_their_column_is_named(
    record: dict[str, Any], columns: dict[str, str]
) -> None:
    name = next(name for name in record if name.lower() in THOUGHTS)
    own = columns | ({"answer": "Response"} if "Response" in record else {})
    format = detect(record, "sft", own)
    if name != "thoughts":
        with pytest.raises(BadRow, match=f"^{name}: is not read: put it into the answer, or"):
            parse(record, Reading(format, own))
    conversation = parse(record, Reading(format, own | {"thoughts": name}))
    assert (
        conversation.messages[-1]["content"] == "<think>\nLet me see what is asked.\n</think>\n\nA"
    )
    if name != "thoughts":
        conversation = parse(record, Reading(format, own | {"unused": name}))
        assert conversation.messages[-1]["content"] == "A"


def test_a_dialogue_in_one_text_is_read_as_turns() -> None:
    row = {"instruction": "Human:Hello\nAssistant:Hi!\nHuman:It hurts.\nAssistant:", "input": ""}
    conversation = parse(row | {"output": "Where?"}, "alpaca")
    assert [turn["content"] for turn in conversation.messages] == [
        "Hello",
        "Hi!",
        "It hurts.",
        "Where?",
    ]
    pair = {"prompt": "Human: Hello\nAssistant:", "chosen": "Hi.", "rejected": "Go."}
    assert parse(pair, "preference").prompt == ({"role": "user", "content": "Hello"},)
    whole = {name: f"Human: Hello\nAssistant: {said}" for name, said in (("chosen", "Hi."),)}
    assert parse(whole | {"rejected": "Human: Hello\nAssistant: Go."}, "preference").prompt


def test_texts_in_turn_lose_the_names_of_who_speaks() -> None:
    texts = ["问：头痛怎么办？", "答：多休息。"]
    conversation = parse({"conversations": texts}, "sharegpt")
    assert [turn["content"] for turn in conversation.messages] == ["头痛怎么办？", "多休息。"]
    with pytest.raises(
        BadRow, match=r"conversations\[0\]: begins with Doctor, expected the user's"
    ):
        parse({"conversations": ["Doctor: Hello.", "Patient: It hurts."]}, "sharegpt")
    kept = parse({"conversations": ["问：头痛？", "多休息。"]}, "sharegpt")
    assert kept.messages[0]["content"] == "问：头痛？"


def test_turns_may_be_json_text_and_labels_numbers() -> None:
    turns = json.dumps([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}])
    assert parse({"messages": turns}, "messages").messages[1]["content"] == "A"
    row = {"prompt": "Q", "completion": "A", "label": 1.0}
    assert parse(row, detect(row)).desirable is True


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"Question": "Q", "Answer": "A"}, "prompt=Question,completion=Answer"),
        ({"query": "Q", "response": "A"}, "prompt=query,completion=response"),
        ({"inputs": "Q", "targets": "A"}, "prompt=inputs,completion=targets"),
        (
            {
                "conversation": [
                    {"role": "user", "content": "Q"},
                    {"role": "assistant", "content": "A"},
                ]
            },
            "messages=conversation",
        ),
        ({"data": ["问：Q", "答：A"]}, "conversations=data"),
    ],
)
def test_the_columns_that_would_do_are_named(record: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRow, match="fit no known format") as caught:
        detect(record, "sft")
    assert f"(with --columns {told} it would be a conversation)" in str(caught.value)
    columns = dict(pair.split("=") for pair in told.split(","))
    assert parse(record, Reading(detect(record, "sft", columns), columns)).messages[0] == {
        "role": "user",
        "content": "Q",
    }


@pytest.mark.parametrize(
    "answer", ["The answer is B", "Option B", "选B", "Ans. (b) Radial", "B. Radial", "(B)", "b"]
)
@pytest.mark.parametrize("names", [("optionA", "optionB"), ("ending0", "ending1")])
def test_options_that_only_columns_hold_are_refused(answer: str, names: tuple[str, str]) -> None:
    row = {"question": "Which artery, femoral or other?", "answer": answer}
    for columns in (
        {"options": {"A": "Femoral", "B": "Radial", "C": "Ulnar"}},
        dict(zip(names, ("Iron", "Zinc"), strict=True)),
    ):
        with pytest.raises(BadRow, match="is not read, and does not stand in the question"):
            parse(row | columns, "qa")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (
            {"instruction": "Answer it.", "question": "Is metformin safe?", "output": "No."},
            "question",
        ),
        (
            {
                "instruction": "Answer it.",
                "note": "A note of the ward about a man of 45 with pain since yesterday.",
                "output": "No.",
            },
            "note",
        ),
        ({"prompt": "应如何处理？", "input": "男45岁胸痛", "response": "立即做心电图。"}, "input"),
    ],
)
def test_more_of_the_question_in_other_columns_is_refused(row: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRow, match=f"^{field}: is not read, and does not stand in the question"):
        parse(row, detect(row, "sft"))


def test_the_whole_row_again_in_a_column_text_is_let_be() -> None:
    row = {"instruction": "Name a fever drug.", "output": "Paracetamol."}
    row["text"] = "### Instruction:\nName a fever drug.\n\n### Response:\nParacetamol."
    assert parse(row, "alpaca").messages[0]["content"] == "Name a fever drug."


def test_thoughts_that_the_answer_holds_are_not_missed() -> None:
    thoughts = "It hurts,\nso it may be gout."
    row = {"question": "Why?\n\n\n\nTell.", "answer": f"<think>\n{thoughts}\n</think>\n\nGout."}
    assert parse(row | {"reasoning": thoughts}, "qa").messages[1]["content"] == row["answer"]
    with pytest.raises(BadRow, match=r"^reasoning: given together with <think>"):
        parse(row | {"reasoning": thoughts}, Reading("qa", {"thoughts": "reasoning"}))
    asked = {"question": "A man has chest pain.", "answer": "Infarction."}
    with pytest.raises(BadRow, match=r"^reasoning: is not read"):
        parse(asked | {"reasoning": "A man has chest pain.\nHe smokes, so it is one."}, "qa")


def test_thoughts_of_pairs_are_no_column() -> None:
    record = {"prompt": "Q", "chosen": "A", "rejected": "B", "cot": "Let me see what is asked."}
    assert isinstance(parse(record, "preference"), Preference)  # a judge's, mostly
    with pytest.raises(BadRow, match="cot: is not read of pairs"):
        parse(record, Reading("preference", {"thoughts": "cot"}))
