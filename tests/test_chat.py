"""The terminal chat: its history, its commands, and what comes out of a pipe."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SECONDS
from taught import ADAPTED, FEVER, IRON, ZINC

from medgpt_ray.chat import Session
from medgpt_ray.data.formats import parse
from medgpt_ray.models.chat_model import Sampling


def start(path: Path, system: str | None = None, max_tokens: int = 40) -> Session:
    return Session(str(path), system, Sampling(max_tokens=max_tokens), "float32")


def talk(session: Session, capsys: pytest.CaptureFixture[str], *lines: str) -> tuple[str, str]:
    """What was shown, and what was told beside it."""
    capsys.readouterr()
    for line in lines:
        assert session.handle(line)
    shown, told = capsys.readouterr()
    return shown, told


def test_the_history_counts_until_it_is_cleared(
    taught_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = start(taught_model)
    assert talk(session, capsys, IRON[0], IRON[2])[0] == f"{IRON[1]}\n{IRON[3]}\n"
    assert [turn["content"] for turn in session.messages] == list(IRON)
    assert talk(session, capsys, "/clear", ZINC[0], ZINC[2])[0] == f"{ZINC[1]}\n{ZINC[3]}\n"
    assert [turn["content"] for turn in session.messages] == list(ZINC)


def test_the_system_prompt_stands_first_and_can_go(
    taught_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = start(taught_model, system="Be brief.")
    talk(session, capsys, IRON[0])
    assert session.messages[0] == {"role": "system", "content": "Be brief."}
    _, told = talk(session, capsys, "/system Be kind.", "/clear")
    assert session.messages == [{"role": "system", "content": "Be kind."}]
    assert "Be kind." in told
    talk(session, capsys, "/system")
    assert session.messages == []


def test_a_saved_conversation_is_training_data(
    taught_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = start(taught_model, system="Be brief.")
    file = tmp_path / "talk.jsonl"
    assert "nothing was said" in talk(session, capsys, f"/save {file}")[1]
    _, told = talk(session, capsys, FEVER[0], f"/save {file}")
    assert "saved 3 messages" in told
    row = parse(json.loads(file.read_text()), "messages")
    assert list(row.messages) == session.messages
    assert "exists" in talk(session, capsys, f"/save {file}")[1]
    assert "cannot be written" in talk(session, capsys, f"/save {tmp_path}/no/talk.jsonl")[1]


def test_the_adapter_goes_off_and_on(lora_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = start(lora_run)
    ask = ("/clear", FEVER[0])
    answers = [
        talk(session, capsys, *before, *ask)[0]
        for before in ((), ("/adapter off",), ("/adapter on",), ("/adapter off",))
    ]
    assert answers == [f"{text}\n" for text in (ADAPTED[1], FEVER[1], ADAPTED[1], FEVER[1])]


def test_without_an_adapter_there_is_none_to_switch_off(
    taught_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = start(taught_model)
    assert "no run that keeps an adapter" in talk(session, capsys, "/adapter off")[1]
    assert "on or" in talk(session, capsys, "/adapter maybe")[1]


def test_what_does_not_fit_is_told_and_forgotten(
    taught_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = start(taught_model, max_tokens=2)
    shown, told = talk(session, capsys, "fever " * 1100)
    assert shown == ""
    assert "the model takes 1024: /clear" in told
    assert session.turns == []
    assert "[cut at its token limit]" in talk(session, capsys, FEVER[0])[1]


def test_lines_through_a_pipe(taught_model: Path, tmp_path: Path) -> None:
    """Only answers come out of the standard output."""
    lines = [IRON[0], "/help", IRON[2], "", "/unknown", "/clear", FEVER[0]]
    lines += ["/clear ", f"  {FEVER[0]} ", "/save spaces.jsonl", "/exit", ZINC[0]]
    done = subprocess.run(
        [sys.executable, "-m", "medgpt_ray.cli", "chat", str(taught_model), "--max-tokens", "40"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{IRON[1]}\n{IRON[3]}\n{FEVER[1]}\n")
    saved = json.loads((tmp_path / "spaces.jsonl").read_text())
    assert saved["messages"][0]["content"] == f"  {FEVER[0]} "  # as the API would get it
    assert "/unknown: no such command" in done.stderr


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medgpt_ray.cli", "chat", str(tmp_path)],
        input="",
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path}: holds no config.json, so it is no HF model directory\n"
