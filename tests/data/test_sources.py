"""The files of a run's sources: read as the stage takes them, with columns of other names."""

import json
from pathlib import Path
from typing import Any

import pytest

from medgpt_ray.config.supervised import SftRun, Source
from medgpt_ray.data.examples import Work, renderer_of, tokenise
from medgpt_ray.data.formats import Reading
from medgpt_ray.data.opening import find_data, open_data
from medgpt_ray.data.rows import DataError
from medgpt_ray.data.sources import open_source

COLUMNS = {"question": "Question", "answer": "Response"}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return str(path)


def row(question: str, answer: str = "5 mg.") -> dict[str, str]:
    return {"Question": question, "Response": answer}


def test_the_stage_decides_between_formats(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"instruction": "a", "output": "b", "text": "c"})
    for stage, format in (("sft", "alpaca"), ("pt", "text")):
        assert open_source(Source(path=path), stage).formats == {path: format}
    with pytest.raises(DataError, match="could be alpaca or text: name its format"):
        open_source(Source(path=path), "dpo")


def test_rows_with_columns_of_other_names_become_examples(tiny_model: Path, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", row("Which dose?"), row("Why?", ""))
    held = write(tmp_path / "held.jsonl", {"Q": "How often?", "A": "Daily."})
    config = SftRun.model_validate(
        {
            "stage": "sft",
            "output_dir": str(tmp_path / "run"),
            "model": {"path": str(tiny_model)},
            "data": {
                "train": [{"path": train, "columns": COLUMNS}],
                "validation": {"path": held, "columns": {"question": "Q", "answer": "A"}},
            },
        }
    )
    files = find_data(config)
    opened = open_data(config, files, str(tiny_model))
    ((segment, reading),) = files.train[0].segments
    assert reading == Reading("qa", COLUMNS)
    assert [example.place for example in opened.validation] == [f"{held}:1"]
    renderer = renderer_of(opened.recipe.tokenizer, opened.recipe.data)
    (table,) = tokenise(Work(segment, reading, 0, 0, 1.0), 0, opened.recipe, renderer)
    assert table["problem"].to_pylist() == ["", "Response: empty, expected text"]


def test_a_source_without_a_named_column_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("Which dose?"))
    with pytest.raises(DataError, match=r"columns\.answer: no row has the column 'Answer'"):
        open_source(Source(path=path, columns=COLUMNS | {"answer": "Answer"}), "sft")
    (tmp_path / "a.txt").write_text("Fever is a sign.\n")
    with pytest.raises(DataError, match="no row has the column 'body', those there are: none"):
        open_source(Source(path=f"{tmp_path}/a.txt", columns={"text": "body"}), "pt")


def test_a_folder_with_several_splits_is_not_mixed(tmp_path: Path) -> None:
    row = json.dumps({"question": "Q", "answer": "A"})
    for name in ("train-00000.jsonl", "test-00000.jsonl", "README.txt", "dataset_info.json"):
        (tmp_path / name).write_text(row + "\n")
    with pytest.raises(DataError, match=r"holds several splits: test .*, train .*: name the files"):
        open_source(Source(path=str(tmp_path)), "sft")
    (tmp_path / "test-00000.jsonl").unlink()
    found = open_source(Source(path=str(tmp_path)), "sft")
    assert [Path(path).name for path in found.formats] == ["train-00000.jsonl"]
    for name in ("trainees.jsonl", "testosterone.jsonl"):  # words that only begin so
        (tmp_path / name).write_text(row + "\n")
    assert open_source(Source(path=str(tmp_path)), "sft").rows == 3


@pytest.mark.parametrize(
    ("names", "mixed"),
    [
        (("medqa_train.jsonl", "medqa_test.jsonl"), True),
        (("training.jsonl", "evaluation.jsonl"), True),
        (("train/a.jsonl", "validation/a.jsonl"), True),
        (("train_zh_0.json", "valid_zh_0.json"), True),
        (("train_encyclopedia.jsonl", "test_encyclopedia.jsonl"), True),
        (("train_sft-00000-of-00003.jsonl", "test_sft-00000-of-00001.jsonl"), True),
        (("CMB-train-merge.jsonl", "CMB-val-merge.jsonl"), True),
        (("train-v1.1.jsonl", "dev-v1.1.jsonl"), True),
        (("train-00000-of-00001-4746b8785c.jsonl", "test-00000-of-00001-a1b2c3d4e5.jsonl"), True),
        (("train.jsonl", "contest.jsonl"), False),
        (("train.jsonl", "test-strips.jsonl"), False),
        (("train.jsonl", "lab_test_results.jsonl"), False),
        (("training_a.jsonl", "stress_test_faq.jsonl", "dev_notes.jsonl"), False),
        (("train/a.jsonl", "train/test.jsonl"), False),
        (("license-exam.jsonl", "readme-questions.jsonl"), False),
    ],
)
def test_which_names_are_splits(tmp_path: Path, names: tuple[str, ...], mixed: bool) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"question": "Q", "answer": "A"}) + "\n")
    if mixed:
        with pytest.raises(DataError, match="holds several splits"):
            open_source(Source(path=str(tmp_path)), "sft")
    else:
        assert open_source(Source(path=str(tmp_path)), "sft").rows == len(names)
