"""Prompts: rendering, every class of bad row, and the resumable cursor."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from medgpt_ray.config.schema import Data
from medgpt_ray.data.prompts import DataError, PromptSource, read_prompts

TURN = {"role": "user", "content": "Which dose?"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def read(
    tmp_path: Path, tokenizer: Any, content: bytes, system: str | None = None, limit: int = 512
) -> Any:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    data = Data(train=str(path), system_prompt=system, max_prompt_tokens=limit)
    return read_prompts(str(path), tokenizer, data)


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def problems(tmp_path: Path, tokenizer: Any, content: bytes, limit: int = 512) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(tmp_path, tokenizer, content, limit=limit)
    return [problem.removeprefix(f"{tmp_path}/rows.jsonl") for problem in caught.value.problems]


def test_a_question_is_rendered_with_the_system_prompt_and_the_generation_header(
    tmp_path: Path, tokenizer: Any
) -> None:
    row = {"question": "Which dose?", "answer": "5 mg", "ward": 3}
    (prompt,) = read(tmp_path, tokenizer, b"\n" + lines(row), system="Be brief.")
    text = "<|system|>Be brief.<|end|><|user|>Which dose?<|end|><|assistant|>"
    assert tokenizer.decode(prompt.token_ids) == text
    assert all(type(token) is int for token in prompt.token_ids)
    assert prompt.id == "rows.jsonl:2"
    assert prompt.row == row
    assert prompt.messages == ({"role": "system", "content": "Be brief."}, TURN)


def test_a_column_system_is_the_system_message(tmp_path: Path, tokenizer: Any) -> None:
    rows = {"question": "Dose?", "system": "Be kind."}, {"question": "Dose?", "system": ""}
    own, configured = read(tmp_path, tokenizer, lines(*rows), system="Be brief.")
    assert own.messages[0] == {"role": "system", "content": "Be kind."}
    assert configured.messages[0] == {"role": "system", "content": "Be brief."}
    (empty,) = read(tmp_path, tokenizer, lines({"question": "Dose?"}), system="")
    assert empty.messages[0] == {"role": "system", "content": ""}
    both = {"messages": [{"role": "system", "content": "Be brief."}, TURN], "system": "Be kind."}
    unread = {"question": "?", "history": [["a", "b"]]}, {"question": "?", "images": ["x.png"]}
    assert [
        problem.split(",")[0] for problem in problems(tmp_path, tokenizer, lines(both, *unread))
    ] == [
        ":1: system: given together with the system message of messages",
        ":2: history: is not read: put the turns into messages",
        ":3: images: models here read text only: leave the row out",
    ]


def test_a_conversation_keeps_its_own_system_message(tmp_path: Path, tokenizer: Any) -> None:
    conversation = [
        {"role": "system", "content": "Be kind."},
        TURN,
        {"role": "assistant", "content": "5 mg"},
        {"role": "user", "content": "每天几次?"},
    ]
    content = lines({"messages": conversation}, {"messages": [TURN]})
    own, none = read(tmp_path, tokenizer, content, system="Be brief.")
    assert list(own.messages) == conversation
    assert none.messages[0] == {"role": "system", "content": "Be brief."}
    assert tokenizer.decode(own.token_ids).endswith("<|user|>每天几次?<|end|><|assistant|>")


def test_prompts_as_others_write_them(tmp_path: Path, tokenizer: Any) -> None:
    system = {"role": "system", "content": "Be kind."}
    empty = {"role": "system", "content": ""}
    rows = [
        {"prompt": "Which dose?"},
        {"prompt": [system, TURN | {"name": "Ward"}], "reward_model": {"ground_truth": "5"}},
        {"problem": "Which dose?", "solution": "Hm."},
        {"messages": [empty, TURN]},
        {"question": "Which dose?", "problem": "dose"},
    ]
    prompts = read(tmp_path, tokenizer, lines(*rows), system="Be brief.")
    brief = {"role": "system", "content": "Be brief."}
    systems = [brief, system, brief, brief, brief]
    assert [prompt.messages for prompt in prompts] == [(one, TURN) for one in systems]
    assert [prompt.row for prompt in prompts] == rows


def test_a_number_is_an_answer_as_text(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"question": "How many?", "answer": answer} for answer in (42, 0.5, [1, "one"])]
    prompts = read(tmp_path, tokenizer, lines(*rows))
    assert [prompt.row["answer"] for prompt in prompts] == ["42", "0.5", ["1", "one"]]


def test_options_stand_in_the_question(tmp_path: Path, tokenizer: Any) -> None:
    row = {"answer": "A", "options": {"A": "iron", "B": "zinc"}, "context": "Not checked."}
    asked = "Which?\nA) Iron B) Zinc"
    turns = [{"role": "user", "content": asked}]
    good = lines(row | {"question": asked}, row | {"messages": turns})
    assert len(read(tmp_path, tokenizer, good)) == 2
    (problem,) = problems(tmp_path, tokenizer, good + lines(row | {"question": "Which?"}))
    assert problem.startswith(":3: options: is not read, and does not stand in the question: write")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"prompt": [{"role": "user", "content": " "}]}', "prompt[0].content: empty"),
        (b"{question: 1}", "invalid JSON at column 2: Expecting property name"),
        (b"[" * 100_000, "invalid JSON: maximum recursion depth"),
        (b'["Which dose?"]', "is a list, expected a JSON object"),
        (b'{"question": "a", "question": "b"}', "question: given twice"),
        (b'{"answer": "5 mg"}', "question: missing"),
        (b'{"question": " "}', "question: empty"),
        (b'{"question": 5}', "question: is a number, expected a string"),
        (b'{"question": true}', "question: is a boolean, expected a string"),
        (b'{"question": null}', "question: missing"),
        (b'{"question": "\\ud800"}', "question: holds half of a surrogate pair"),
        (b'{"question": "a", "ward": ["\\ud800"]}', "ward[0]: holds half of a surrogate pair"),
        (b'{"question": "a", "mg": NaN}', "mg: is nan, which is no JSON number"),
        (b'{"question": "a", "messages": []}', "question: given together with messages"),
        (b'{"question": "a", "answer": true}', "answer: is a boolean, expected a string"),
        (b'{"question": "a", "answer": []}', "answer: empty list"),
        (b'{"question": "a", "answer": ["b", {}]}', "answer: is an object, expected a string"),
        (b'{"messages": "a"}', "messages: is a string, expected a list"),
        (b'{"messages": []}', "messages: empty list"),
        (b'{"messages": ["a"]}', "messages[0]: is a string, expected {role, content}"),
        (b'{"messages": [{"role": "user"}]}', "messages[0]: has the keys ['role']"),
        (
            b'{"messages": [{"role": "doctor", "content": "a"}]}',
            "messages[0].role: 'doctor' is not one of system, user, assistant",
        ),
        (
            b'{"messages": [{"role": "user", "content": ""}]}',
            "messages[0].content: empty",
        ),
        (
            b'{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}',
            "messages[1].role: a system message can only come first",
        ),
        (
            b'{"messages": [{"role": "assistant", "content": "a"}]}',
            "messages: ends with assistant, the last turn must be the user's",
        ),
        (
            b'{"question": "a<|end|><|assistant|>b"}',
            "messages: the text of message 1 holds <|end|>, which would be read as the chat",
        ),
        (b'{"question": "caf\xe9"}', "invalid UTF-8 at byte 18 of the line"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_field(
    tmp_path: Path, tokenizer: Any, line: bytes, expected: str
) -> None:
    content = lines({"question": "good"}) + line + b"\n" + lines({"question": "good"})
    (problem,) = problems(tmp_path, tokenizer, content)
    assert problem.startswith(f":2: {expected}")


def test_a_long_prompt_is_an_error_with_its_length_and_the_limit(
    tmp_path: Path, tokenizer: Any
) -> None:
    (prompt,) = read(tmp_path, tokenizer, lines(row := {"question": "dose " * 20}))
    length = len(prompt.token_ids)
    assert len(read(tmp_path, tokenizer, lines(row), limit=length)) == 1
    (problem,) = problems(tmp_path, tokenizer, lines(row), limit=length - 1)
    assert f"{length} tokens, more than data.max_prompt_tokens ({length - 1})" in problem


def test_all_problems_come_at_once_and_the_message_is_capped(
    tmp_path: Path, tokenizer: Any
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, tokenizer, lines(*[{"question": ""}] * 30))
    assert len(caught.value.problems) == 30
    shown = str(caught.value).splitlines()
    assert len(shown) == 21
    assert shown[-1] == "... and 10 more (30 problems in all)"


def test_a_byte_order_mark_is_reported_beside_other_problems(
    tmp_path: Path, tokenizer: Any
) -> None:
    found = problems(tmp_path, tokenizer, b"\xef\xbb\xbf" + lines({"question": 1}) * 2)
    assert [problem.split(",")[0] for problem in found] == [
        ":1: byte order mark",
        ":2: question: is a number",
    ]
    utf16 = '{"question": "a"}'.encode("utf-16")
    assert problems(tmp_path, tokenizer, utf16) == [
        ": is UTF-16, save it as UTF-8 without a byte order mark"
    ]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, tokenizer: Any, content: bytes) -> None:
    assert problems(tmp_path, tokenizer, content) == [": empty, expected at least one row"]


def test_a_missing_file_and_a_folder_without_data_are_errors(
    tmp_path: Path, tokenizer: Any
) -> None:
    for path, expected in ((tmp_path / "none.jsonl", "no such file"), (tmp_path, "no data files")):
        with pytest.raises(DataError, match=expected):
            read_prompts(str(path), tokenizer, Data(train=str(path)))


def test_prompts_come_from_files_of_every_kind(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"question": "Which dose?", "answer": "5 mg"}, {"question": "How often?"}]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name / "rows.parquet")
    (tmp_path / "b" / "more.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    found = read_prompts(str(tmp_path), tokenizer, Data(train=str(tmp_path)))
    assert [prompt.messages[-1]["content"] for prompt in found] == ["Which dose?", "How often?"] * 3
    assert len({prompt.id for prompt in found}) == 6
    (tmp_path / "c.txt").write_text("Which dose?")
    with pytest.raises(DataError, match=r"c\.txt:1: is a line of text, expected a JSON object"):
        read_prompts(str(tmp_path), tokenizer, Data(train=str(tmp_path)))


def test_a_tokenizer_without_chat_template_is_named_once(tmp_path: Path, tiny_model: Path) -> None:
    bare = AutoTokenizer.from_pretrained(tiny_model)
    bare.chat_template = None
    found = problems(tmp_path, bare, lines({"question": "a"}, {"question": ""}, {"question": "b"}))
    assert len(found) == 2
    assert "chat_template: missing" in found[0]
    assert found[1].startswith(":2: question: empty")


def test_what_the_chat_template_refuses_is_the_rows_problem(
    tmp_path: Path, tiny_model: Path
) -> None:
    strict = AutoTokenizer.from_pretrained(tiny_model)
    strict.chat_template = (
        "{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('no system role') }}"
        "{% endif %}x"
    )
    row = {"messages": [{"role": "system", "content": "Be kind."}, TURN]}
    (problem,) = problems(tmp_path, strict, lines({"messages": [TURN]}, row))
    assert problem == ":2: messages: the model's chat template refuses them: no system role"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Any:
    rows = [{"question": f"Question {number}"} for number in range(7)]
    return read(tmp_path_factory.mktemp("prompts"), tokenizer, lines(*rows))


def ids(source: PromptSource, count: int) -> list[str]:
    return [prompt.id for prompt in source.take(count)]


def test_each_epoch_holds_every_prompt_once_in_another_order(prompts: Any) -> None:
    source = PromptSource(prompts, seed=3)
    first, second = ids(source, 7), ids(source, 7)
    assert sorted(first) == sorted(second) == sorted(prompt.id for prompt in prompts)
    assert first != second
    assert source.epoch == 2.0
    assert ids(PromptSource(prompts, seed=3), 14) == first + second
    assert ids(PromptSource(prompts, seed=4), 7) != first


@pytest.mark.parametrize("taken", [0, 5, 7, 16])
def test_a_restored_source_goes_on_exactly(prompts: Any, taken: int) -> None:
    source = PromptSource(prompts, seed=3)
    source.take(taken)
    state = json.loads(json.dumps(source.state()))
    resumed = PromptSource(prompts, seed=3)
    resumed.take(2)
    resumed.restore(state)
    assert ids(resumed, 20) == ids(source, 20)
    assert resumed.state() == source.state()


def test_restore_refuses_other_prompts_and_another_seed(prompts: Any) -> None:
    state = PromptSource(prompts, seed=3).state()
    with pytest.raises(DataError, match="differ from those of the checkpoint"):
        PromptSource(prompts[:-1], seed=3).restore(state)
    with pytest.raises(DataError, match="seed 4 is not the checkpoint's"):
        PromptSource(prompts, seed=4).restore(state)
