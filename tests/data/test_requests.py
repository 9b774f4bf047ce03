"""Rows that ask: every form, every file, and what is wrong with a row told with its place."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medgpt_ray.data.requests import Request, render, requests
from medgpt_ray.data.rows import BadRow, DataError


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: str, system: str | None = None) -> tuple[list[Request], list[str]]:
    problems: list[str] = []
    return list(requests(path, system, problems)), problems


def test_every_form_of_a_row(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "Iron?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Dose?"},
    ]
    rows = [{"question": "Dose?", "id": 7}, {"prompt": "Dose?"}, {"messages": talk}]
    found, problems = read(write(tmp_path / "a.jsonl", *rows))
    assert problems == []
    assert [request.row for request in found] == rows
    assert [request.place for request in found] == [f"{tmp_path}/a.jsonl:{n}" for n in (1, 2, 3)]
    one = ({"role": "user", "content": "Dose?"},)
    assert [request.messages for request in found] == [one, one, tuple(talk)]


def test_lines_of_text_and_columns_of_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Dose?\n\n发烧?\n")
    pq.write_table(pa.table({"question": ["Dose?", "发烧?"], "n": [1, 2]}), tmp_path / "a.parquet")
    for name, rows in (
        ("a.txt", [{"prompt": "Dose?"}, {"prompt": "发烧?"}]),
        ("a.parquet", [{"question": "Dose?", "n": 1}, {"question": "发烧?", "n": 2}]),
    ):
        found, problems = read(str(tmp_path / name))
        assert (problems, [request.row for request in found]) == ([], rows)
        assert [request.messages[-1]["content"] for request in found] == ["Dose?", "发烧?"]


def test_a_system_prompt_goes_where_there_is_none(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Dose?"}]
    found, _ = read(write(tmp_path / "a.jsonl", {"question": "?"}, {"messages": own}), "Be brief.")
    assert [request.messages[0]["content"] for request in found] == ["Be brief.", "Be kind."]
    assert "messages" not in found[0].row


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "Dose?"}, "has only text, expected one of question, prompt, messages"),
        ({"question": "a", "prompt": "b"}, "has question and prompt, expected one of"),
        ({"question": " "}, "question: empty, expected text"),
        ({"question": "a", "completion": "b"}, "completion: is a column that the answer adds"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages: ends with assistant"),
        ([1], "is a list, expected a JSON object"),
    ],
)
def test_a_bad_row_is_named_and_loses_no_other(tmp_path: Path, row: Any, problem: str) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "a"}, row, {"question": "b"})
    found, problems = read(path)
    assert [request.row["question"] for request in found] == ["a", "b"]
    (told,) = problems
    assert told.startswith(f"{path}:2: {problem}")


def test_one_file_at_a_time(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"question": "a"})
    write(tmp_path / "b.jsonl", {"question": "b"})
    with pytest.raises(DataError, match="names 2 files, name one"):
        read(str(tmp_path))


def test_what_the_template_refuses_is_a_bad_row(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    turns = [{"role": "user", "content": "Dose?"}]
    text = "<|user|>Dose?<|end|><|assistant|>"
    assert render(tokenizer, turns) == tuple(tokenizer(text, add_special_tokens=False).input_ids)
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(BadRow, match="the model's chat template refuses them: no system role"):
        render(tokenizer, turns)
