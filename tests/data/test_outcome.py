"""What a run would make of a row: whole, cut or dropped, and how it is shown."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from medgpt_ray.config.supervised import Source, SupervisedData
from medgpt_ray.data.outcome import Outcome, Tokeniser, rows_by_file
from medgpt_ray.data.rows import BadRow, DataError
from medgpt_ray.types import Conversation, Document, Labelled, Preference, Row

USER = {"role": "user", "content": "How often?"}
ANSWER = {"role": "assistant", "content": "Twice a day."}
OTHER = {"role": "assistant", "content": "No idea, ask the nurse on the ward."}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def tokeniser(tokenizer: Any, **data: Any) -> Tokeniser:
    return Tokeniser(
        tokenizer,
        SupervisedData.model_validate({"train": [{"path": "x"}], "max_tokens": 64} | data),
    )


def outcome(made: Tokeniser, row: Row) -> Outcome:
    found = made(row)
    assert isinstance(found, Outcome)
    return found


def shown(made: Tokeniser, row: Row | BadRow) -> list[str]:
    return [line for text in made.show("a.jsonl:3", row) for line in text.plain.splitlines()]


def test_the_limit_cuts_conversations_and_documents_and_drops_the_rest(tokenizer: Any) -> None:
    once, twice = Conversation((USER, ANSWER)), Conversation((USER, ANSWER) * 2)
    length = outcome(tokeniser(tokenizer), once).length
    exact, less = (tokeniser(tokenizer, max_tokens=limit) for limit in (length, length - 1))
    assert outcome(exact, once).fate == "whole"
    assert outcome(less, once).fate == "dropped"
    assert outcome(less, once).length == length
    cut = outcome(exact, twice)
    assert (cut.fate, cut.length, len(cut.tokens[0].ids)) == ("cut", 2 * length, length)
    document = outcome(tokeniser(tokenizer, max_tokens=4), Document("Wash your hands. " * 3))
    assert document.fate == "cut"
    assert len(document.tokens) > 1
    assert outcome(tokeniser(tokenizer), Document("Wash.")).fate == "whole"
    pair = outcome(less, Preference((USER,), (ANSWER,), (OTHER,)))
    assert (pair.fate, pair.length > length) == ("dropped", True)


def test_rows_are_shown_with_what_is_trained(tokenizer: Any) -> None:
    made = tokeniser(tokenizer)
    head, asked, learned = shown(made, Conversation((USER, ANSWER)))
    (tokens,) = outcome(made, Conversation((USER, ANSWER))).tokens
    assert head == f"a.jsonl:3, {len(tokens.ids)} tokens, {sum(tokens.trained)} trained"
    assert asked == "NOT TRAINED |<|user|>How often?<|end|><|assistant|>|"
    assert learned == "TRAINED     |Twice a day.<|end|>|"
    pair = shown(made, Preference((USER,), (ANSWER,), (OTHER,)))
    assert [line.split(", ")[1] for line in (pair[0], pair[3])] == ["chosen", "rejected"]
    assert pair[5] == "TRAINED     |No idea, ask the nurse on the ward.<|end|>|"
    assert shown(made, Labelled((USER,), (ANSWER,), False))[0].startswith("a.jsonl:3, bad answer, ")


def test_what_is_not_trained_on_says_why(tokenizer: Any) -> None:
    few = tokeniser(tokenizer, max_tokens=8)
    (line,) = shown(few, Conversation((USER, ANSWER)))
    assert line.endswith("dropped: the first exchange is longer than data.max_tokens (8)")
    pieces = [line for line in shown(few, Document("Wash. " * 6)) if line.startswith("a.jsonl")]
    assert len(pieces) > 1
    whole = outcome(few, Document("Wash. " * 6)).length
    assert f"piece 2 of {len(pieces)}, 8 tokens of {whole}, " in pieces[1]
    assert pieces[1].endswith("longer than 8 tokens: cut into several")
    assert shown(few, BadRow("answer", "empty")) == ["a.jsonl:3: answer: empty"]
    call = {"type": "function", "function": {"name": "lookup", "arguments": {}}}
    calling = Conversation((USER, {"role": "assistant", "content": "", "tool_calls": [call]}))
    (line,) = shown(few, calling)
    told = "a.jsonl:3: messages: the chat template leaves out the calls of message 2: set data.t"
    assert line.startswith(told)


def test_a_tokenizer_that_cannot_be_used_is_an_error_in_the_data(tiny_model: Path) -> None:
    bare = AutoTokenizer.from_pretrained(tiny_model)
    with pytest.raises(DataError, match="unknown chat template 'chatmll'"):
        tokeniser(bare, template="chatmll")
    bare.chat_template = None
    with pytest.raises(DataError, match=r"no chat template, set data\.template"):
        tokeniser(bare)(Conversation((USER, ANSWER)))


def test_rows_come_as_the_stage_takes_them(tmp_path: Path) -> None:
    pair = {"prompt": "Dose?", "chosen": "5 mg", "rejected": "None"}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(pair)}\n" + '{"prompt": "", "chosen": "a"}\n')
    (tmp_path / "b.txt").write_text("Fever.\n")
    (tmp_path / "broken.json").write_text("[]")
    problems: list[str] = []

    def rows(path: Path, stage: str | None, format: Any = "auto") -> list[tuple[str, Any]]:
        return list(chain(*rows_by_file(Source(path=str(path), format=format), stage, problems)))

    kinds = [type(row) for _, row in rows(tmp_path, None)]
    assert kinds == [Preference, BadRow, Document]
    assert problems == [f"{tmp_path}/broken.json: empty, expected at least one row"]
    found = rows(tmp_path, "kto")
    assert [type(row) for _, row in found] == [Labelled, Labelled, BadRow, BadRow]
    assert [place.rpartition("/")[2] for place, _ in found] == [
        "a.jsonl:1",
        "a.jsonl:1",
        "a.jsonl:2",
        "b.txt:1",
    ]
    assert "stage kto trains on labelled answers" in str(found[-1][1])
    ((_, named),) = rows(tmp_path / "b.txt", None, "qa")
    assert str(named).startswith("is a line of text, expected qa")
