"""Batch answers on real engines: those of the chat, in order, each once, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import SECONDS, processes_of
from taught import CONVERSATIONS, messages

from medgpt_ray.config.schema import Model
from medgpt_ray.data.requests import render
from medgpt_ray.data.rows import DataError
from medgpt_ray.generate import Fleet, Settings, run
from medgpt_ray.models.chat_model import ChatModel, Sampling

pytestmark = pytest.mark.usefixtures("warm")

SETTINGS = Settings(None, 0.0, 1.0, 24, 0, "float32", 2)


def rows(count: int) -> list[dict[str, Any]]:
    """Each conversation, up to every user turn, over and over."""
    asked = [turns[:n] for turns in CONVERSATIONS for n in range(1, len(turns), 2)]
    return [{"id": n, "messages": messages(asked[n % len(asked)])} for n in range(count)]


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


@contextmanager
def started(
    model: Path, file: Path, output: Path, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """`medgpt generate`, which does not outlive the block."""
    command = [sys.executable, "-m", "medgpt_ray.cli", "generate", str(model)]
    command += ["--input", str(file), "--output", str(output), "--max-tokens", "24"]
    command += ["--rows-per-shard", "2", "--kv-cache-gib", "0.05", *options]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def parts(output: Path) -> dict[str, int]:
    """Committed parts, with the times at which they were."""
    files = output.with_name(f"{output.name}.parts").glob("0*.jsonl")
    return {file.name: file.stat().st_mtime_ns for file in files}


def wait_for_more(process: subprocess.Popen[str], output: Path, before: int) -> None:
    deadline = time.monotonic() + SECONDS
    while len(parts(output)) <= before:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_workers(process: subprocess.Popen[str], count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + SECONDS
    while len(found := workers(process)) < count:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in processes_of(process.pid):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            found += [child] if child.name().startswith("ray::Generation") else []
    return found


def greedy(model: Path, asked: list[dict[str, Any]]) -> list[str]:
    """What the chat says."""
    chat = ChatModel(Model(path=str(model), dtype="float32"), str(model))
    prompts = [render(chat.tokenizer, row["messages"]) for row in asked]
    known = {p: chat.answer(p, Sampling(max_tokens=24), lambda _: None) for p in set(prompts)}
    return [known[prompt].text for prompt in prompts]


def test_killed_and_killed_again_it_answers_every_row_once(
    taught_model: Path, tmp_path: Path
) -> None:
    asked = rows(120)
    file, output = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    with started(taught_model, file, output, "--workers", "2") as first:
        wait_for_workers(first, 2)[0].kill()  # while it starts
        wait_for_more(first, output, 0)
        assert len(wait_for_workers(first, 2)) == 2  # a new one came
        os.kill(first.pid, signal.SIGKILL)
        first.communicate(timeout=SECONDS)
    kept = parts(output)
    assert 0 < len(kept) < 60
    assert not output.exists()

    with started(taught_model, file, output) as second:  # by another number of workers
        wait_for_more(second, output, len(kept))
        assert kept.items() <= parts(output).items()  # none was made again
        (worker,) = workers(second)
        worker.kill()
        told, _ = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, told
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in written] == list(range(120))
    assert [row["messages"] for row in written] == [row["messages"] for row in asked]
    assert [row["completion"] for row in written] == greedy(taught_model, asked)
    assert {row["finish_reason"] for row in written} == {"stop"}
    assert not output.with_name("out.jsonl.parts").exists()
    assert "120/120" in told


def refused(model: Path, file: Path, output: Path, settings: Settings = SETTINGS) -> list[str]:
    with pytest.raises(DataError) as error:
        run(str(model), str(file), str(output), settings, Fleet(1, 0.05, 60.0))
    assert not output.with_name(f"{output.name}.parts").exists()
    return error.value.problems


def test_every_bad_row_is_named_before_anything_starts(taught_model: Path, tmp_path: Path) -> None:
    long = {"question": "fever " * 2000}
    file = write(tmp_path / "in.jsonl", [{"question": "a"}, {"ask": "b"}, long, {"question": ""}])
    second, third, fourth = sorted(refused(taught_model, file, tmp_path / "out.jsonl"))
    assert second == f"{file}:2: has only ask, expected one of question, prompt, messages"
    assert third.startswith(f"{file}:3: ")
    assert "with 24 of the answer are more than the model's 1024" in third
    assert fourth.startswith(f"{file}:4: question: empty")


def test_outputs_that_cannot_be(taught_model: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", rows(2))
    (tmp_path / "there.jsonl").write_text("mine\n")
    for name, problem in (
        ("out.csv", "is no .jsonl file"),
        ("there.jsonl", "exists, name a new file"),
        ("no/out.jsonl", "is no directory"),
    ):
        (told,) = refused(taught_model, file, tmp_path / name)
        assert problem in told
    assert (tmp_path / "there.jsonl").read_text() == "mine\n"
