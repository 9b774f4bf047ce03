"""The verbs of `medgpt data` on files: what they print and what their status says."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data import check
from medgpt_ray.data.formats import FORMATS, KINDS, check_stage
from medgpt_ray.data.rows import BadRow, DataError
from medgpt_ray.data.templates import TEMPLATES
from medgpt_ray.data_commands import convert, percentile, preview, stats, validate


def qa(question: str, answer: str = "5 mg.") -> dict[str, str]:
    return {"question": question, "answer": answer}


def write(path: Path, *rows: Any) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    texts = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return str(path)


def data(*paths: str, **options: Any) -> SupervisedData:
    train = [{"path": path} for path in paths]
    return SupervisedData.model_validate({"train": train, **options})


def cells(line: str) -> list[str]:
    return line.split()


def test_every_bad_row_is_named_before_the_table(tmp_path: Path, capsys: Any) -> None:
    # A path longer than a terminal is wide: lines are never wrapped.
    long = tmp_path / ("ward-" * 20)
    path = write(long / "a[red].jsonl", qa("Dose?"), qa("Why?", ""), "{", qa("dose"), qa("Dose?"))
    other = write(tmp_path / "b.txt", "Fever [red]is a sign[/red] :smile:")
    assert validate(data(path, other), None, None) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}:2: answer: empty, expected text"
    assert lines[1].startswith(f"{path}:3: invalid JSON at column 2: ")
    header = "file format good bad duplicates near duplicates characters"
    assert cells(lines[2]) == cells(header)
    assert cells(lines[3]) == [path, "qa", "3", "2", "1", "1", "29"]
    assert cells(lines[4]) == [other, "text", "1", "0", "0", "0", "34"]
    assert cells(lines[5]) == ["total", "4", "2", "1", "1", "63"]
    assert f"{path}:5 repeats {path}:1" in lines
    assert f"{path}:4 repeats {path}:1" in lines


def test_good_rows_and_unreadable_files_have_a_status_of_their_own(
    tmp_path: Path, capsys: Any
) -> None:
    good = write(tmp_path / "good.jsonl", qa("Dose?"))
    assert validate(data(good), "sft", None) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{good}  qa         1    0           0                0          10"
    ]
    assert validate(data(good, f"{tmp_path}/none.jsonl"), None, None) == 2
    first, _, row, missing, total = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/none.jsonl: no such file")
    assert cells(row)[2] == "1"
    assert cells(missing) == [f"{tmp_path}/none.jsonl", *"------"]
    assert cells(total)[:2] == ["total", "1"]
    assert validate(data(good), "dpo", None) == 2
    assert validate(data(write(tmp_path / "odd.jsonl", {"body": 1})), None, None) == 1
    (tmp_path / "one.json").write_text(f"[{json.dumps(qa('Dose?'))}, {json.dumps(qa('Why?', ''))}]")
    assert validate(data(f"{tmp_path}/one.json"), None, None) == 1  # a list on one line


def test_columns_of_other_names_are_read(tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "a.jsonl", {"Question": "Dose?", "Response": "5 mg."})
    columns = {"question": "Question", "answer": "Response"}
    named = SupervisedData.model_validate({"train": [{"path": path, "columns": columns}]})
    assert validate(named, "sft", None) == 0
    preview(named, "sft", str(tiny_model), 1)
    stats(named, "sft", str(tiny_model))
    convert(named, "qa", f"{tmp_path}/b.jsonl", False)
    assert json.loads((tmp_path / "b.jsonl").read_text()) == qa("Dose?")
    wrong = {"train": [{"path": path, "columns": {"question": "Frage"}}]}
    assert validate(SupervisedData.model_validate(wrong), "sft", None) == 2
    assert "columns.question: no row has the column 'Frage'" in capsys.readouterr().out


def test_the_stage_decides_between_formats(tmp_path: Path, capsys: Any) -> None:
    rows = {"instruction": "Dose?", "output": "5 mg.", "text": "Dose? 5 mg."}
    path = write(tmp_path / "a.jsonl", rows)
    assert validate(data(path), "sft", None) == 0
    assert validate(data(path), "pt", None) == 0
    assert validate(data(path), None, None) == 1
    assert "could be alpaca or text: name its format or the stage" in capsys.readouterr().out


def test_what_is_beyond_the_listed_is_counted(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "PROBLEMS_KEPT", 2)
    rows = [qa("Dose?")] * 4 + [qa("Why?", "")] * 5
    path = write(tmp_path / "a.jsonl", *rows)
    assert validate(data(path), None, None) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == f"{path}: 3 more bad rows"
    assert cells(lines[4]) == [path, "qa", "4", "5", "2+", "0", "40"]
    assert "Duplicates, 2 of 3" in lines


def test_with_a_model_the_lengths_are_told(tmp_path: Path, tiny_model: Path, capsys: Any) -> None:
    turns = [{"role": role, "content": "Dose?"} for role in ("user", "assistant") * 2]
    rows = [qa("Dose?"), {**qa("How?"), "answer": "mg " * 300}]
    paths = [
        write(tmp_path / "a.jsonl", *rows),
        write(tmp_path / "b.jsonl", {"messages": turns * 5}),
    ]
    assert validate(data(*paths, max_tokens=32), None, str(tiny_model)) == 0
    text = capsys.readouterr().out
    assert f"up to  64  1  {40 * '█'}\n" in text
    assert f"up to 128  1  {40 * '█'}\n" in text
    assert "up to 256  0\n" in text
    assert f"up to 512  1  {40 * '█'}\n" in text
    assert text.endswith("With at most 32 tokens, of 3 examples: 1 fit, 1 cut, 1 dropped.\n")


def test_what_the_template_refuses_is_a_bad_row(
    tmp_path: Path, tiny_model: Path, capsys: Any
) -> None:
    call = {"type": "function", "function": {"name": "lookup", "arguments": "{}"}}
    asked = {"role": "user", "content": "Dose?"}
    turns = [asked, {"role": "assistant", "content": "", "tool_calls": [call]}]
    path = write(tmp_path / "a.jsonl", {"messages": turns})
    assert validate(data(path), None, None) == 0
    assert validate(data(path), None, str(tiny_model)) == 1
    told = f"{path}:1: messages: the chat template leaves out the calls of message 2"
    assert told in capsys.readouterr().out


def test_a_conversion_is_counted_and_replaces_only_by_force(tmp_path: Path, capsys: Any) -> None:
    path, output = write(tmp_path / "a.jsonl", qa("Dose?"), qa("Why?")), tmp_path / "b.json"
    convert(data(path), "alpaca", str(output), force=False)
    assert capsys.readouterr().out == f"2 rows written to {output}, format alpaca\n"
    before = output.read_bytes()
    with pytest.raises(DataError, match="is there already, replace it with --force"):
        convert(data(path), "messages", str(output), force=False)
    assert output.read_bytes() == before
    convert(data(path), "messages", str(output), force=True)
    assert "messages" in json.loads(output.read_text())[0]


def test_a_format_by_name_settles_what_rows_are(tmp_path: Path) -> None:
    both = data(write(tmp_path / "a.jsonl", {"text": "Fever.", **qa("Dose?")}))
    with pytest.raises(DataError, match="name its format"):
        convert(both, "messages", str(tmp_path / "b.jsonl"), force=False)
    train = [both.train[0].model_copy(update={"format": "text"})]
    named = both.model_copy(update={"train": train})
    assert validate(named, "pt", None) == 0
    convert(named, "text", str(tmp_path / "b.jsonl"), force=False)
    assert json.loads((tmp_path / "b.jsonl").read_text()) == {"text": "Fever."}


def test_a_preview_shows_some_rows_of_each_file(
    tmp_path: Path, tiny_model: Path, capsys: Any
) -> None:
    write(tmp_path / "a.jsonl", qa("Dose [1]?"), qa("Why?", ""), qa("How?"))
    write(tmp_path / "b.jsonl", {"prompt": "Dose?", "chosen": "5 mg", "rejected": "None"})
    preview(data(str(tmp_path), system_prompt="Be brief."), None, str(tiny_model), rows=2)
    text = capsys.readouterr().out
    prompt = "<|system|>Be brief.<|end|><|user|>Dose [1]?<|end|><|assistant|>"
    assert f"NOT TRAINED |{prompt}|\nTRAINED     |5 mg.<|end|>|\n" in text
    assert f"{tmp_path}/a.jsonl:2: answer: empty" in text
    assert "How?" not in text
    assert f"{tmp_path}/b.jsonl:1, chosen, " in text
    assert f"{tmp_path}/b.jsonl:1, rejected, " in text


def test_a_preview_goes_on_after_a_file_that_cannot_be_read(
    tmp_path: Path, tiny_model: Path, capsys: Any
) -> None:
    path = write(tmp_path / "a.jsonl", qa("Dose?"))
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        preview(data(f"{tmp_path}/none.jsonl", path), None, str(tiny_model), rows=1)
    assert "TRAINED     |5 mg." in capsys.readouterr().out
    with pytest.raises(DataError, match="the tokenizer cannot be loaded: nowhere: no such model"):
        preview(data(path), None, "nowhere", rows=1)


def test_stats_count_tokens_by_source(tmp_path: Path, tiny_model: Path, capsys: Any) -> None:
    asked, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    paths = [
        write(tmp_path / "a.jsonl", qa("a", "b"), qa("a", "b c d"), qa("a", ""), qa("a", "b " * 9)),
        write(tmp_path / "b.jsonl", {"messages": [asked, answer] * 2}),
    ]
    stats(data(*paths, max_tokens=10), "sft", str(tiny_model))
    lines = capsys.readouterr().out.splitlines()
    header = "source examples bad dropped cut tokens trained median 90% 99% longest"
    assert cells(lines[0]) == cells(header)
    # <|user|> a <|end|> <|assistant|>, then the answer and <|end|>, which are trained
    assert cells(lines[1])[1:8] == ["3", "1", "1", "0", f"{6 + 8}", f"{2 + 4}", "8"]
    assert cells(lines[2])[1:] == ["1", "0", "0", "1", "6", "2", "12", "12", "12", "12"]
    assert cells(lines[3])[:7] == ["total", "4", "1", "1", "1", "20", "8"]
    assert lines[4] == (
        f"{paths[0]}: 1 bad, the first is {paths[0]}:3: answer: empty, expected text"
    )
    assert "1 dropped: the first exchange is longer than data.max_tokens (10)" in lines[5]
    assert lines[6] == f"{paths[1]}: 1 cut: longer than 10 tokens: its last turns are left out"


def test_stats_go_on_after_a_file_of_a_folder_that_cannot_be_read(
    tmp_path: Path, tiny_model: Path, capsys: Any
) -> None:
    write(tmp_path / "a.json", "[]")
    write(tmp_path / "b.jsonl", qa("a", "b"))
    write(tmp_path / "c.json", "{")
    with pytest.raises(DataError) as caught:
        stats(data(str(tmp_path)), "sft", str(tiny_model))
    assert [problem.rpartition("/")[2][:7] for problem in caught.value.problems] == [
        "a.json:",
        "c.json:",
    ]
    assert cells(capsys.readouterr().out.splitlines()[1])[1:3] == ["1", "0"]


def test_stats_count_as_the_stage_takes_rows(tmp_path: Path, tiny_model: Path, capsys: Any) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    for stage, expected in (("kto", ["2", "0", "0", "0", "12", "4"]), ("sft", ["0", "1"])):
        stats(data(path), stage, str(tiny_model))
        (row,) = [
            line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{path} ")
        ]
        assert cells(row)[1:][: len(expected)] == expected


def test_percentiles_are_lengths_that_occur() -> None:
    lengths = Counter({10: 50, 20: 40, 30: 9, 900: 1})
    assert [percentile(lengths, percent) for percent in (50, 51, 90, 99, 100)] == [
        *(10, 20, 20, 30, 900)
    ]
    assert percentile(Counter(), 50) == 0


def test_the_page_about_data_names_every_format_and_template() -> None:
    page = (Path(__file__).parent.parent / "docs" / "data.md").read_text("utf-8")
    for name, format in FORMATS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        stages = [stage for stage in KINDS if fits(format.kind, stage)]
        assert row == f"| `{name}` | {format.schema} | {', '.join(stages)} |"
    listed, able = page.partition("base models without one: ")[2].split("With tools: ")
    assert re.findall("`(.*?)`", listed) == list(TEMPLATES)
    assert re.findall("`(.*?)`", able.partition(".")[0]) == [
        name for name, template in TEMPLATES.items() if template.tools
    ]


def fits(kind: Any, stage: str) -> bool:
    try:
        check_stage(kind, stage)
    except BadRow:
        return False
    return True
