"""`medgpt index` from the command line: what it prints, and how it refuses."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from medgpt_ray.cli import app

NOTES = Path(__file__).parents[1] / "benchmarks" / "retrieval_set"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def medgpt(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("index")
    status, out, _ = medgpt("index", "build", NOTES / "notes", "--output", output)
    assert status == 0
    assert "+ english/stroke.pdf\n" in out
    assert out.endswith("20 added, 0 changed, 0 removed, 0 unchanged; 93 chunks\n")
    return output


def test_ask_shows_passages_with_page(index: Path) -> None:
    status, out, _ = medgpt("index", "ask", index, "Can I drive after a stroke?", "--count", "2")
    assert status == 0
    assert "[1] english/stroke.pdf, p. 2, Acute stroke > 5. Driving and prevention\nPrivate" in out
    assert "[3]" not in out
    assert "Insufficient" not in out


def test_ask_in_several_turns(index: Path) -> None:
    _, out, _ = medgpt("index", "ask", index, "肺结核怎么确诊?", "会不会传染?")
    assert out.startswith("searched for: 肺结核怎么确诊? 会不会传染?\n")
    assert "[1] chinese/肺结核.pdf, p. 1" in out


def test_ask_says_that_information_is_insufficient(index: Path) -> None:
    _, out, _ = medgpt("index", "ask", index, "How is psoriasis treated with biologics?")
    assert out.startswith("Insufficient information")
    _, out, _ = medgpt("index", "ask", index, "白癜风怎么治疗?")
    assert out.startswith("资料不足")
    _, out, _ = medgpt("index", "ask", index, "What INR is right on acenocoumarol?")
    assert "(the nearest passage does not name acenocoumarol; nearest passages follow)" in out


def test_calibrate_measures_and_changes_the_confidence(index: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    rows = (NOTES / "questions.jsonl").read_text().splitlines()
    alone = [row for row in rows if "history" not in row]
    known = [row for row in alone if '"source": null' not in row][:15]
    unknown = [row for row in alone if '"source": null' in row][:15]
    questions.write_text("\n".join([*known, *unknown]))
    ask = ("index", "ask", index, "Can I drive after a stroke?")
    before = medgpt(*ask)[1].splitlines()
    status, out, _ = medgpt("index", "calibrate", index, questions)
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()[:4]] == [
        "answer in the first passage",
        "in the first five",
        "taken up, of those with an answer",
        "declined, of those without",
    ]
    assert "n 15)" in out
    after = medgpt(*ask)[1].splitlines()
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]  # (confidence ...)


def test_refusals_end_with_status_2_and_one_line_each(index: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "q.jsonl").write_text('{"question": "x", "source": null}\n{"what": 1}\n')
    for arguments, message in (
        (("build", tmp_path / "empty", "--output", tmp_path / "x"), "file in it"),
        (("build", NOTES / "notes", "--output", index, "--embedding", tmp_path), "no config.json"),
        (("ask", tmp_path / "empty", "x"), "no index in it"),
        (("ask", index, "x", "--reranker", tmp_path), "no cross-encoder"),
        (("calibrate", index, tmp_path / "q.jsonl"), "q.jsonl:2:"),
        (("calibrate", index, tmp_path / "none.jsonl"), "No such file"),
    ):
        status, out, err = medgpt("index", *arguments)
        assert status == 2, arguments
        assert out == ""
        lines = [line for line in err.splitlines() if "chunks" not in line and line.strip()]
        assert len(lines) == 1, err
        assert message in lines[0]
