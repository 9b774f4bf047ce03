"""What is refused before a job is submitted, and how long an answer is waited for."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from runs import write_run
from supervised_runs import write_supervised
from typer.testing import CliRunner

from medgpt_ray import submit
from medgpt_ray.cli import app


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration; only problems stand between it and a cluster."""
    write_run(tmp_path, tiny_model, cluster={"cpus": None})
    monkeypatch.chdir(tmp_path)
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def problems(*words: str | Path, address: str = "http://127.0.0.1:1") -> list[str]:
    """Of a submission that must be refused."""
    words = ("submit", *(str(word) for word in words), "--address", address)
    result = CliRunner().invoke(app, [*words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 2
    return result.stderr.splitlines()


def only(start: str, found: list[str]) -> None:
    assert len(found) == 1, found
    assert found[0].startswith(start), found


def test_a_sound_configuration_fails_at_the_cluster_only(folder: Path) -> None:
    only("http://127.0.0.1:1 cannot be reached: ", problems("run.yaml"))


def test_mistakes_are_those_of_train(folder: Path) -> None:
    only(
        "command line: stepz: unknown field, did you mean 'steps'?", problems("run.yaml", "stepz=3")
    )
    only("nowhere: no such file or preset", problems("nowhere"))


def test_what_is_not_shipped_is_refused(folder: Path) -> None:
    found = problems("run.yaml", "data.heldout=nowhere.jsonl")
    only(f"command line: data.heldout: nowhere.jsonl is not in {folder}, which is what the", found)
    (folder.parent / "outside.jsonl").write_text("{}\n")
    found = problems("run.yaml", "data.train=../outside.jsonl")
    only(f"command line: data.train: ../outside.jsonl is outside {folder}", found)
    only("http://", problems("run.yaml", "data.train=train.jsonl"))
    only("http://", problems("run.yaml", "model.path=/not/on/this/machine"))


def test_what_git_ignores_is_not_shipped(folder: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True, timeout=30)
    (folder / ".gitignore").write_text("*.jsonl\n")
    found = problems("run.yaml", "data.train=train.jsonl")
    only("command line: data.train: train.jsonl is ignored by git, and such files", found)


def test_what_would_be_lost_or_elsewhere_is_refused(folder: Path) -> None:
    found = problems("run.yaml", "output_dir=runs/x", "cluster.address=10.0.0.1:6379")
    assert len(found) == 2
    assert found[0].startswith("command line: output_dir: runs/x would be in the job's copy of")
    assert found[1].startswith("command line: cluster.address: leave it out")


def test_a_configuration_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "run.yaml"
    other.write_text((folder / "run.yaml").read_text())
    only(f"{other}: is not in {folder}, which is what the cluster gets", problems(other))
    only(f"{submit.locate('tiny/sft')}: is not in {folder}", problems("tiny/sft")[:1])


def test_a_pipeline_is_checked_stage_by_stage(folder: Path, tiny_model: Path) -> None:
    for stage in ("sft", "rm"):
        write_supervised(folder / stage, tiny_model, stage, cluster={"cpus": None})
    (folder / "pipeline.yaml").write_text(
        f"stage: pipeline\noutput_dir: {folder}/out\nstages:\n"
        "- {name: sft, config: sft/run.yaml}\n"
        "- {name: rm, config: rm/run.yaml, model: sft, overrides: {model: {adapter: nowhere}}}\n"
    )
    found = problems("pipeline.yaml")
    only(f"command line: model.adapter: nowhere is not in {folder}", found)
    only("http://", problems("pipeline.yaml", "stages.1.overrides={}"))


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "auto", "http://"])
def test_another_kind_of_address(folder: Path, address: str) -> None:
    found = problems("run.yaml", address=address)
    only(f"--address: {address}: expected http://HEAD:8265", found)


def test_one_thing_at_a_time(folder: Path) -> None:
    for words in ([], ["run.yaml", "--stop", "x"], ["--status", "x", "--follow", "x"]):
        result = CliRunner().invoke(app, ["submit", *words])
        assert result.exit_code == 2
        assert "give one of CONFIG" in result.stderr


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_cluster_that_never_answers(
    folder: Path, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "ANSWER_S", 1.0)
    began = time.monotonic()
    only(f"{silent} cannot be reached: ", problems("run.yaml", address=silent))
    assert time.monotonic() - began < 25


@pytest.mark.parametrize(("answer", "stops"), [("y\n", True), ("\n", False), ("", False)])
def test_the_question_after_ctrl_c(
    answer: str, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked on a terminal; no answer in time is a no."""
    monkeypatch.setattr(submit, "QUESTION_S", 0.5)
    keyboard, terminal = os.openpty()
    with os.fdopen(terminal) as stdin, os.fdopen(keyboard, "w") as keys:
        monkeypatch.setattr(sys, "stdin", stdin)
        keys.write(answer)
        keys.flush()
        assert submit._wants_it_stopped() == stops


def test_the_option_is_stronger_than_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own client would go to the address of the environment."""
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(variable, "http://127.0.0.1:2")
    only("http://127.0.0.1:1 cannot be reached", problems("run.yaml"))


def test_a_job_that_cannot_be_followed_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        """Of a cluster without such a job, whose server refuses the socket."""

        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            raise aiohttp.ServerDisconnectedError
            yield ""

        def get_job_info(self, job: str) -> None:
            raise RuntimeError(f"Job {job} does not exist")

    with pytest.raises(submit.SubmitError, match="Job nobody does not exist"):
        asyncio.run(submit._print_log(Client(), "nobody"))  # type: ignore[arg-type]
