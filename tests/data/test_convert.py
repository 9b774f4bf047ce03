"""Conversion keeps all that is trained on, over all pairs of formats, or writes nothing."""

import json
import os
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from medgpt_ray.data import convert as module
from medgpt_ray.data.convert import COLUMNS, convert
from medgpt_ray.data.files import find
from medgpt_ray.data.formats import FORMATS, detect_file, parse
from medgpt_ray.data.rows import BadRow, DataError, without_ids
from medgpt_ray.data.segments import read, segments
from medgpt_ray.types import Conversation, Document, Labelled, Preference, Row

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Which dose?\n每天几次?"}
SAY = {"role": "assistant", "content": "5 mg."}
MORE = {"role": "user", "content": "Why?"}
WORSE = {"role": "assistant", "content": " 50 mg \u2028"}
RESULT = {"role": "tool", "content": '{"mg": 5}'}


def call(*arguments: dict[str, Any], content: str = "") -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": "f", "arguments": one}} for one in arguments]
    return {"role": "assistant", "content": content, "tool_calls": calls}


ONE = call({"drug": "a", "mg": [1, 2.5], "near": None})
TWO = call({"drug": "乙"}, {}, content="I look.")
TOOLS = tuple(
    {"type": "function", "function": {"name": name, "parameters": {"properties": {name: {}}}}}
    for name in "fg"
)
STRICT = ({"type": "function", "function": {"name": "f"}, "strict": True},)
CUSTOM = ({"type": "custom", "function": {"name": "f"}},)

SIMPLE: list[Row] = [
    Document("Fever.\n\nIs a sign. "),
    Conversation((ASK, SAY)),
    Preference((ASK,), (SAY,), (WORSE,)),
    Labelled((ASK,), (SAY,), False),
]
RICH: list[Row] = [
    Conversation((SYSTEM, ASK, SAY)),
    Conversation((ASK, SAY, MORE, WORSE)),
    Conversation((SYSTEM, ASK, SAY, ASK, WORSE, MORE, SAY)),
    Conversation((ASK, SAY), TOOLS),
    Conversation((ASK, ONE, RESULT, SAY)),
    Conversation((ASK, TWO, RESULT, RESULT, ONE, RESULT, SAY, MORE, TWO), STRICT),
    Preference((SYSTEM, ASK, SAY, MORE), (SAY,), (WORSE,), margin=0.5),
    Preference((ASK,), (SAY,), (WORSE,), margin=-2.0),
    Preference((ASK,), (SAY, MORE, WORSE), (WORSE,)),
    Preference((ASK, TWO, RESULT), (ONE, RESULT, SAY), (SAY,), None, TOOLS),
    Labelled((SYSTEM, ASK, SAY, MORE), (WORSE,), True),
    Labelled((ASK,), (TWO, RESULT, SAY), False, STRICT),
    Conversation((ASK, SAY), CUSTOM),
    Conversation((ASK, ONE, RESULT | {"content": ""}, SAY)),
]
PAIRS = [
    (one, other)
    for one, other in product(FORMATS, FORMATS)
    if FORMATS[one].kind is FORMATS[other].kind
]


def rows_of(path: str, format: str | None = None) -> list[Row]:
    (file,) = find(path)
    parts = segments(file)
    name = format or detect_file(parts)
    return [bare(parse(record.value, name)) for part in parts for record in read(part)]


def bare(row: Row) -> Row:
    """Without the ids of its calls, which formats without any lose, and OpenAI's invents."""
    turns = ("messages", "prompt", "chosen", "rejected", "completion")
    values = {name: getattr(row, name) for name in turns if hasattr(row, name)}
    return replace(row, **{name: tuple(map(without_ids, value)) for name, value in values.items()})


def write(path: Path, rows: list[Row], format: str) -> str:
    lines = [json.dumps(FORMATS[format].write(row), ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return str(path)


def expressible(row: Row, format: str) -> bool:
    if not isinstance(row, FORMATS[format].kind):
        return False
    try:
        FORMATS[format].write(row)
    except BadRow:
        return False
    return True


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "jsonl.gz", "jsonl.zst", "json.gz"])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_there_and_back_is_the_same_rows(
    tmp_path: Path, source: str, target: str, suffix: str
) -> None:
    rows = [row for row in SIMPLE + RICH if expressible(row, source) and expressible(row, target)]
    assert rows
    start = write(tmp_path / "start.jsonl", rows, source)
    there, back = f"{tmp_path}/there.{suffix}", f"{tmp_path}/back.jsonl"
    assert convert([start], there, target) == len(rows)
    assert rows_of(there) == rows
    assert convert([there], back, source) == len(rows)
    assert rows_of(back, source) == rows
    assert sorted(os.listdir(tmp_path)) == ["back.jsonl", "start.jsonl", f"there.{suffix}"]


def test_the_formats_that_promise_everything_express_everything() -> None:
    for name in ("sharegpt", "messages", "prompt_completion", "preference_conversations"):
        kind = FORMATS[name].kind
        assert all(expressible(row, name) for row in RICH if isinstance(row, kind))
    for name in ("preference", "labelled", "text"):
        kind = FORMATS[name].kind
        assert all(expressible(row, name) for row in SIMPLE + RICH if isinstance(row, kind))


def test_parquet_has_a_column_for_whatever_a_format_writes() -> None:
    for name, format in FORMATS.items():
        rows = [row for row in SIMPLE + RICH if expressible(row, name)]
        assert set().union(*(format.write(row) for row in rows)) == set(COLUMNS[name])


@pytest.mark.parametrize(
    ("row", "source", "target", "expected"),
    [
        (RICH[3], "messages", "alpaca", "alpaca cannot express tools: convert to another format"),
        (RICH[4], "messages", "alpaca", "alpaca cannot express tool calls"),
        (RICH[3], "sharegpt", "qa", "qa cannot express tools"),
        (RICH[0], "alpaca", "qa", "qa cannot express a system message"),
        (RICH[1], "alpaca", "qa", "qa cannot express more than one question"),
        (RICH[4], "messages", "text", "tools: text cannot express them"),
        (Conversation((ASK, ONE)), "messages", "text", "tools: text cannot express them"),
        (
            RICH[8],
            "preference",
            "preference_question",
            "preference_question cannot express answers",
        ),
        (RICH[9], "preference", "preference_question", "preference_question cannot express tools"),
        (RICH[6], "preference", "labelled", "margin: labelled cannot express it"),
        (SIMPLE[2], "preference", "messages", "messages holds conversations, and these are prefer"),
        (SIMPLE[0], "text", "qa", "qa holds conversations, and these are documents"),
    ],
)
def test_a_row_that_cannot_be_expressed_is_named_and_nothing_is_written(
    tmp_path: Path, row: Row, source: str, target: str, expected: str
) -> None:
    kind = FORMATS[source].kind
    good = [one for one in SIMPLE if isinstance(one, kind)]
    start = write(tmp_path / "start.jsonl", [*good, row, row], source)
    output = tmp_path / "out.jsonl"
    output.write_text("as before")
    with pytest.raises(DataError) as caught:
        convert([start], str(output), target)
    assert f"{start}:2: {expected}" in "\n".join(caught.value.problems)
    assert output.read_text() == "as before"
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "start.jsonl"]


def test_a_conversation_becomes_a_text_and_a_pair_two_labelled_answers(tmp_path: Path) -> None:
    start, output = tmp_path / "start.jsonl", f"{tmp_path}/out.jsonl"
    assert convert([write(start, [RICH[0]], "alpaca")], output, "text") == 1
    assert rows_of(output) == [Document("Be brief.\n\nWhich dose?\n每天几次?\n\n5 mg.")]
    assert convert([write(start, [SIMPLE[2]], "preference")], output, "labelled") == 2
    assert rows_of(output) == [Labelled((ASK,), (SAY,), True), Labelled((ASK,), (WORSE,), False)]


def test_several_files_of_different_formats_become_one(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [SIMPLE[1], RICH[4]], "sharegpt")
    write(tmp_path / "b.jsonl", [RICH[2]], "alpaca")
    output = f"{tmp_path}/all.parquet"
    assert convert([str(tmp_path)], output, "messages") == 3
    assert rows_of(output) == [SIMPLE[1], RICH[4], RICH[2]]


def test_a_bad_row_of_the_source_is_an_error_with_its_line(tmp_path: Path) -> None:
    start = write(tmp_path / "start.jsonl", [SIMPLE[1], RICH[2]], "alpaca")
    with open(start, "a") as stream:
        stream.write('{"instruction": ""}\n{\n')
    with pytest.raises(DataError) as caught:
        convert([start], f"{tmp_path}/out.parquet", "qa")
    places = [problem.split(": ")[0] for problem in caught.value.problems]
    assert places == [f"{start}:{line}" for line in (2, 3, 4)]
    assert os.listdir(tmp_path) == ["start.jsonl"]


def test_the_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    start = write(tmp_path / "start.jsonl", [RICH[2]], "alpaca")
    (tmp_path / "empty.json").touch()
    with pytest.raises(DataError) as caught:
        convert(["x.jsonl", f"{tmp_path}/empty.json", start], f"{tmp_path}/out.jsonl", "qa")
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        "x.jsonl",
        f"{tmp_path}/empty.json",
        f"{start}:1",
    ]
    assert sorted(os.listdir(tmp_path)) == ["empty.json", "start.jsonl"]


def test_it_stops_after_many_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBLEMS_KEPT", 5)
    start = write(tmp_path / "start.jsonl", [RICH[1]] * 20, "alpaca")
    with pytest.raises(DataError) as caught:
        convert([start], f"{tmp_path}/out.jsonl", "qa")
    assert len(caught.value.problems) == 5


def test_an_output_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    start = write(tmp_path / "start.jsonl", [SIMPLE[1]], "qa")
    for output, expected in (
        (f"{tmp_path}/out.csv", r"unknown kind of file, expected \.jsonl, "),
        (f"{tmp_path}/out.txt", r"unknown kind of file, expected \.jsonl, "),
        (f"{tmp_path}/none/out.jsonl", "cannot be written: .*none is no directory"),
        (f"{start}/out.jsonl", r"cannot be written: .*start\.jsonl is no directory"),
        (f"{tmp_path}/{'x' * 250}.jsonl", "cannot be written: .*File name too long"),
        (f"{tmp_path}/../{tmp_path.name}/start.jsonl", "is one of the files to convert"),
    ):
        with pytest.raises(DataError, match=expected):
            convert([start], output, "alpaca")
    assert rows_of(start) == [SIMPLE[1]]


def test_columns_of_other_names_are_converted(tmp_path: Path) -> None:
    (tmp_path / "start.jsonl").write_text(json.dumps({"Q": ASK["content"], "A": "5 mg."}))
    output, columns = f"{tmp_path}/out.jsonl", {"question": "Q", "answer": "A"}
    assert convert([f"{tmp_path}/start.jsonl"], output, "messages", columns=columns) == 1
    assert rows_of(output) == [SIMPLE[1]]


def test_a_json_output_is_a_list(tmp_path: Path) -> None:
    start = write(tmp_path / "start.jsonl", [SIMPLE[1]] * 2, "qa")
    convert([start], f"{tmp_path}/out.json", "qa")
    expected = {"question": ASK["content"], "answer": "5 mg."}
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == [expected] * 2


def test_files_are_written_in_the_words_of_their_formats(tmp_path: Path) -> None:
    start = write(
        tmp_path / "start.jsonl", [Conversation((ASK, ONE, RESULT, SAY), TOOLS)], "messages"
    )
    output = tmp_path / "out.jsonl"
    convert([start], str(output), "sharegpt")
    row = json.loads(output.read_text("utf-8"))
    assert [turn["from"] for turn in row["conversations"]] == [
        "human",
        "function_call",
        "observation",
        "gpt",
    ]
    assert json.loads(row["conversations"][1]["value"])["name"] == "f"
    assert [set(tool) for tool in json.loads(row["tools"])] == [{"name", "parameters"}] * 2
    convert([str(output)], f"{tmp_path}/back.jsonl", "messages")
    row = json.loads((tmp_path / "back.jsonl").read_text("utf-8"))
    (one,) = row["messages"][1]["tool_calls"]
    assert json.loads(one["function"]["arguments"])["drug"] == "a"
    assert row["messages"][2]["tool_call_id"] == one["id"]
    assert row["tools"] == list(TOOLS)


def test_splits_are_not_mixed(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        write(tmp_path / name, SIMPLE[1:2], "messages")
    with pytest.raises(DataError, match="holds several splits"):
        convert([str(tmp_path)], f"{tmp_path}/out.jsonl", "sharegpt")
    assert not (tmp_path / "out.jsonl").exists()
