"""What a run is told of its data before it starts: validation rows, and the rows that are bad."""

import json
from pathlib import Path
from typing import Any

import pytest

from medgpt_ray.config.supervised import SupervisedRun
from medgpt_ray.data.examples import held_out
from medgpt_ray.data.formats import as_labelled
from medgpt_ray.data.opening import bad_rows, find_data, open_data
from medgpt_ray.data.rows import DataError
from medgpt_ray.models.load import load_tokenizer
from medgpt_ray.types import Preference


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(name: str, count: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"question": f"{name} {number}?", "answer": f"{number}."}
        for number in range(start, start + count)
    ]


def config(tiny: Path, train: list[str], **data: Any) -> SupervisedRun:
    return SupervisedRun.model_validate(
        {
            "stage": "sft",
            "output_dir": "runs/x",
            "model": {"path": str(tiny)},
            "data": {"train": [{"path": path} for path in train], **data},
        }
    )


def test_validation_rows_come_from_every_source_and_from_anywhere_in_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    ward = write(tmp_path / "ward.jsonl", asked("ward", 6_000))
    home = write(tmp_path / "home.jsonl", asked("home", 2_000))
    run = config(tiny_model, [ward, home], validation={"share": 0.1, "max_rows": 200})
    measured = open_data(run, find_data(run), str(tiny_model)).validation
    assert len(measured) == 200
    lines = {
        name: [int(e.place.rpartition(":")[2]) for e in measured if name in e.place]
        for name in ("ward.jsonl", "home.jsonl")
    }
    assert 140 <= len(lines["ward.jsonl"]) <= 160
    for found, last in ((lines["ward.jsonl"], 6_000), (lines["home.jsonl"], 2_000)):
        assert min(found) < last / 10
        assert max(found) > last * 9 / 10


def test_a_validation_file_is_known_whole_and_measured_in_part(
    tiny_model: Path, tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", asked("ward", 20))
    own = write(tmp_path / "own.jsonl", asked("home", 60))
    run = config(tiny_model, [train], validation={"path": own, "max_rows": 10})
    opened = open_data(run, find_data(run), str(tiny_model))
    assert len(opened.validation) == 10
    assert len(opened.recipe.validation) == 60


def test_labelled_answers_to_one_prompt_are_on_one_side(tiny_model: Path, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", asked("ward", 3))
    run = config(tiny_model, [train], validation={"share": 0.3})
    recipe = open_data(run, find_data(run), str(tiny_model)).recipe
    sides = set()
    for number in range(100):
        pair = Preference(
            ({"role": "user", "content": f"Question {number}?"},),
            ({"role": "assistant", "content": "Yes."},),
            ({"role": "assistant", "content": "No."},),
        )
        good, bad = (held_out(row, recipe) for row in as_labelled(pair))
        assert good == bad
        sides.add(good)
    assert sides == {True, False}


def test_validation_rows_that_the_template_cannot_show_are_named_or_left_out(
    tiny_model: Path, tmp_path: Path
) -> None:
    tools = [{"name": "lookup", "parameters": {}}]
    turns = [{"role": "user", "content": "Dose?"}, {"role": "assistant", "content": "5 mg."}]
    rows = [*asked("ward", 30), {"messages": turns, "tools": tools}]
    train = write(tmp_path / "train.jsonl", asked("home", 3))
    messages = [
        {"messages": [{"role": "user", "content": row["question"]}, turns[1]]} for row in rows[:-1]
    ]
    own = write(tmp_path / "own.jsonl", [*messages, rows[-1]])
    run = config(tiny_model, [train], validation={"path": own})
    (told,) = bad_rows(run, find_data(run), load_tokenizer(str(tiny_model)))
    assert told.startswith(f"{own}:31: tools: the chat template shows no tools")
    with pytest.raises(DataError, match=r"own\.jsonl:31: tools: "):
        open_data(run, find_data(run), str(tiny_model))
    run = config(tiny_model, [train], validation={"path": own}, on_bad_row="skip")
    opened = open_data(run, find_data(run), str(tiny_model))
    assert list(opened.described())[-1] == "validation: 30 examples, 1 bad row left out"


def test_validation_rows_that_are_too_long_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", asked("home", 3))
    long = {"question": "Dose? " * 2000, "answer": "5 mg."}
    own = write(tmp_path / "own.jsonl", [*asked("ward", 3), long])
    run = config(tiny_model, [train], validation={"path": own})
    lines = list(open_data(run, find_data(run), str(tiny_model)).described())
    assert lines[-1] == "validation: 3 examples, 1 row too long for data.max_tokens"
    write(tmp_path / "own.jsonl", [long])
    with pytest.raises(DataError, match="none of 1 row can be measured: 1 too long"):
        open_data(run, find_data(run), str(tiny_model))


def test_a_row_that_is_trained_and_validated_is_known_before_a_run(
    tiny_model: Path, tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", asked("ward", 3))
    own = write(tmp_path / "own.jsonl", asked("ward", 1, start=1))
    run = config(tiny_model, [train], validation={"path": own})
    (told,) = bad_rows(run, find_data(run), load_tokenizer(str(tiny_model)))
    assert told.startswith(f"{train}:2: is a row of data.validation.path as well")


def test_bad_rows_are_known_before_a_run(tiny_model: Path, tmp_path: Path) -> None:
    rows = [*asked("ward", 2), {"question": "Bed?", "answer": ""}, *asked("ward", 2, start=2)]
    train = write(tmp_path / "train.jsonl", [*rows, {"question": "Bed?"}])
    run = config(tiny_model, [train])
    found = list(bad_rows(run, find_data(run), load_tokenizer(str(tiny_model))))
    assert found == [
        f"{train}:3: answer: empty, expected text",
        f"{train}:6: answer: missing, and the file is read as qa",
    ]
