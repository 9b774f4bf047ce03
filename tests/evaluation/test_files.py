"""Tasks by name: the shipped ones are sound, users' files are checked row by row."""

import json
from pathlib import Path
from typing import Any

import pytest

from medgpt_ray.config.loader import ConfigError
from medgpt_ray.evaluation.files import open_task
from medgpt_ray.evaluation.tasks import DEFAULT, TASKS

CMB = {
    "exam_type": "护理考试",
    "exam_class": "护士执业资格考试",
    "question": "测量脉搏的首选部位是",
    "question_type": "单项选择题",
    "option": {"A": "桡动脉", "B": "股动脉"},
    "answer": "A",
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def problems(named: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        open_task(named, None)
    return caught.value.problems


def test_the_shipped_questions() -> None:
    english, chinese, written = (open_task(name, None) for name in DEFAULT)
    for asked in (english, chinese):
        assert len(asked.questions) >= 20
        letters = [question.answer for question in asked.questions]
        assert {"A", "B", "C", "D"} <= set(letters), "no letter may be always right"
        assert max(map(letters.count, "ABCDE")) <= len(letters) / 3
        texts = [question.text for question in asked.questions]
        assert len(set(texts)) == len(texts)
    assert len(written.questions) == 15
    for question in written.questions:
        assert written.score(question, "I do not know.") == 0


def test_every_shipped_task_says_what_it_is() -> None:
    files = sorted(TASKS.glob("*.yaml"))
    assert {"cmb.yaml", "cmexam.yaml"} < {file.name for file in files}
    assert all(file.read_text().startswith("# ") for file in files)


def test_a_good_answer_earns_the_rubric() -> None:
    asked = open_task("medical_open", None)
    (burn,) = [question for question in asked.questions if "burn" in question.text]
    good = "Hold it under cool running water for twenty minutes, then put a clean dressing on it."
    bad = "Put butter on it at once and wait for it to dry."
    assert asked.score(burn, good) == 1
    assert asked.score(burn, bad) == 0


def test_rows_of_cmexam_without_an_answer_are_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "test.csv"
    head = "Question,Options,Answer,Explanation\n"
    file.write_text(
        f'{head}胆汁由？,"A 肝\nB 肺",A,\n无题,"A 甲\nB 乙",,\n尿由？,"A 肝\nB 肾",B,\n'
    )
    asked = open_task(f"cmexam={file}", None)
    assert [question.answer for question in asked.questions] == ["A", "B"]
    assert capsys.readouterr().err == f"cmexam: left out 1 without an answer, first {file}:4\n"
    file.write_text(f'{head}无题,"A 甲\nB 乙",,\n')
    assert problems(f"cmexam={file}") == [f"{file}: Answer: missing in every row, expected letters"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_cmb_from_the_users_file(tmp_path: Path, suffix: str) -> None:
    several = {"question_type": "多项选择题", "answer": "AB"}
    file = tmp_path / f"exam{suffix}"
    rows = [CMB, CMB | several]
    if suffix == ".json":
        file.write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        write(file, rows)
    asked = open_task(f"cmb={file}", None)
    assert [question.answer for question in asked.questions] == ["A", "AB"]
    assert "护理考试中护士执业资格考试考试的一道单项选择题" in asked.prompts[0]
    assert "A. 桡动脉\nB. 股动脉" in asked.prompts[0]
    single, multiple = asked.questions
    assert asked.score(single, "答案是A") == 1
    assert asked.score(multiple, "选A和B") == 1
    assert asked.score(multiple, "答案是A") == 0


def test_cmexam_from_csv(tmp_path: Path) -> None:
    file = tmp_path / "cmexam.csv"
    file.write_text(
        'Question,Options,Answer,Explanation\n胆汁由何处分泌,"A 肝脏\nB 肺",A,略\n'
        '"血压的单位\n是","A mmHg\nB kg",A,\n',
        encoding="utf-8-sig",
    )
    asked = open_task(f"cmexam={file}", None)
    assert [question.place for question in asked.questions] == [f"{file}:2", f"{file}:4"]
    assert asked.questions[0].options == {"A": "肝脏", "B": "肺"}


def test_csv_rows_that_are_wrong(tmp_path: Path) -> None:
    file = tmp_path / "cmexam.csv"
    head = "Question,Options,Answer\n"
    file.write_text(head + '问题,"A 肝\nB 肺",C\n问题,"A 肝\nB 肺"\n')
    first, second = problems(f"cmexam={file}")
    assert first.startswith(f"{file}:2: Answer: 'C' is outside the options")
    assert second == f"{file}:4: row: expected 3 columns"
    file.write_text(head)
    assert "empty" in problems(f"cmexam={file}")[0]
    file.write_bytes(head.encode() + b"\xff\xfe,A,B\n")
    assert "UTF-8" in problems(f"cmexam={file}")[0]


def test_all_problems_of_a_file_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "exam.jsonl", [CMB | {"answer": "C"}, CMB, {"question": "?"}])
    file.write_text(file.read_text() + "{broken\n")
    found = problems(f"cmb={file}")
    assert [problem.split(": ")[0] for problem in found] == [f"{file}:{n}" for n in (1, 3, 4)]
    assert "answer: 'C' is outside the options, which are A, B" in found[0]


def test_the_column_that_a_prompt_shows_is_missing(tmp_path: Path) -> None:
    file = write(tmp_path / "exam.jsonl", [{k: v for k, v in CMB.items() if k != "exam_class"}])
    assert problems(f"cmb={file}")[0].startswith(f"{file}:1: exam_class: missing")


def test_several_letters_have_no_likelihood(tmp_path: Path) -> None:
    row = {"question": "?", "options": ["a", "b", "c"], "answer": "AB"}
    file = write(tmp_path / "exam.jsonl", [row])
    assert "take a task with `scoring: generation`" in problems(f"medical_en={file}")[0]


def test_a_rubric_that_cannot_be_scored(tmp_path: Path) -> None:
    rows = [
        {"question": "?", "rubric": [{"points": -1, "any": ["x"]}]},
        {"question": "?", "rubric": [{"points": 1, "criterion": "is kind"}]},
    ]
    file = write(tmp_path / "open.jsonl", rows)
    first, second = problems(f"medical_open={file}")
    assert "at least one criterion with positive points" in first
    assert second.startswith(f"{file}:2: row: column rubric")


def test_limit_takes_the_first(tmp_path: Path) -> None:
    file = write(tmp_path / "exam.jsonl", [CMB | {"question": f"第{n}题"} for n in range(5)])
    assert [q.text for q in open_task(f"cmb={file}", 2).questions] == ["第0题", "第1题"]


def test_tasks_that_are_none(tmp_path: Path) -> None:
    assert problems("medical_enn") == [
        "--task medical_enn: no such task or .yaml file, did you mean 'medical_en'?"
    ]
    assert problems("cmb") == ["--task cmb: comes without questions, name a file: cmb=FILE"]
    assert "no such file" in problems(f"cmb={tmp_path}/none.jsonl")[0]


def test_a_task_file_that_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("format: choice\nscoring: likelyhood\nprompt: '{question}'\nlimit: 3\n")
    found = problems(str(file))
    assert any(problem.startswith(f"{file}:2: scoring:") for problem in found)
    assert any(problem.startswith(f"{file}:4: limit:") for problem in found)
    file.write_text("format: choice\nscoring: generation\nprompt: '{question}'\n")
    assert "prompt: lacks {options}" in problems(str(file))[0]
    file.write_text("format: open\nscoring: likelihood\nprompt: '{question}'\n")
    assert "open questions have no letters" in problems(str(file))[0]


def test_a_task_of_the_users_own(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", [{"question": "?", "options": ["a", "b"], "answer": "B"}])
    file = tmp_path / "mine.yaml"
    file.write_text(
        "format: choice\ndata: mine.jsonl\nscoring: generation\nprompt: '{question} {options}'\n"
    )
    asked = open_task(str(file), None)
    assert (asked.name, asked.questions[0].answer) == ("mine", "B")
