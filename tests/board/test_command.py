"""The command itself: its server by HTTP, and its pages in a browser."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from board_runs import board, events, log_steps
from browser import Browser, chromium
from runs import SECONDS
from taught import FEVER, IRON

from medgpt_ray.tracking.rundir import RunDirectory

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture(scope="module")
def runs(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(written, tmp_path_factory.mktemp("served") / "runs"))


@pytest.fixture(scope="module")
def address(runs: Path, taught_model: Path) -> Iterator[str]:
    """Of a board with a chat, for this machine."""
    with board(runs, "--model", str(taught_model), log=runs.parent / "board.log") as (found, _):
        yield found


@pytest.fixture(scope="module")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        found.open(address)
        yield found


@contextmanager
def client(address: str) -> Iterator[httpx.Client]:
    """As a browser: with the cookie, and what the pages say."""
    origin = address.partition("/?")[0]
    with httpx.Client(base_url=origin, timeout=SECONDS, trust_env=False) as http:
        page = http.get(address, follow_redirects=True).text
        token = page.partition('name="form-token" content="')[2].partition('"')[0]
        http.headers.update({"Origin": origin, "X-Form-Token": token})
        yield http


def refused(*arguments: str) -> str:
    command = [sys.executable, "-m", "medgpt_ray.cli", "board", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_what_cannot_be_shown_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    told = refused(str(file), "--model", "x", "--url", "ftp://x")
    assert f"{file}: is no folder" in told
    assert "--model and --url: give one" in told
    assert "--url ftp://x: expected http://HOST:PORT/v1" in told
    assert "holds no config.json" in refused(str(tmp_path), "--model", str(tmp_path))


def test_a_page_hears_of_new_steps(address: str, runs: Path) -> None:
    with (
        client(address) as http,
        http.stream("GET", "/run/events", params={"run": "pipe/rl"}) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = events(answer.iter_lines())
        before = next(found)["metrics"]
        log_steps(RunDirectory(runs / "pipe" / "rl"), [4])
        assert next(found)["metrics"] > before


def test_the_curves_on_the_page_go_on(browser: Browser, address: str, runs: Path) -> None:
    origin = address.partition("/?")[0]
    browser.open(f"{origin}/run?run=alone")
    browser.until("document.querySelectorAll('svg').length === 2")
    assert "step 3 of 20" in browser.text
    time.sleep(2)  # the page listens
    log_steps(RunDirectory(runs / "alone"), [4, 5])
    browser.until("document.body.innerText.includes('step 5 of 20')")
    assert browser.complaints == []


def test_a_conversation_on_the_page(browser: Browser, address: str) -> None:
    browser.open(f"{address.partition('/?')[0]}/chat")

    def say(text: str, turns: int) -> list[str]:
        browser.run(f"form.elements.text.value = {json.dumps(text)}; form.requestSubmit()")
        browser.until(f"!form.elements.send.disabled && turns.children.length === {turns}")
        return list(browser.run("[...turns.children].map((turn) => turn.textContent)"))

    browser.run("form.elements.max_tokens.value = 40")
    assert say(IRON[0], 2) == list(IRON[:2])
    assert say(IRON[2], 4) == list(IRON)
    browser.run("form.elements.clear.click()")
    assert say(FEVER[0], 2) == list(FEVER)
    assert browser.complaints == []


def test_mistakes_in_the_form_stand_at_their_fields(browser: Browser, address: str) -> None:
    origin = address.partition("/?")[0]
    browser.open(f"{origin}/train/form?preset=tiny/grpo")
    assert browser.run("document.getElementById('algorithm.clip_high').placeholder") == "0.2"
    browser.run(
        "const name = document.getElementById('algorithm.name'); name.value = 'cispo';"
        "name.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    browser.until("document.getElementById('algorithm.clip_high').placeholder === '0.28'")
    browser.run(
        "document.getElementById('steps').value = '0';"
        "document.getElementById('learner.workers').value = '<b>';"
        "form.requestSubmit()"
    )
    browser.until("document.querySelectorAll('.wrong').length === 2")
    assert "2 mistakes" in browser.text
    assert "expected an integer > 0, found '<b>'" in browser.text
    assert browser.run("document.getElementById('learner.workers').value") == "<b>"
    browser.complaints.clear()  # of the status 422


@pytest.fixture(scope="module")
def texts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A form that trains the tiny model for a long time."""
    folder = tmp_path_factory.mktemp("form")
    rows = [{"question": f"Say {n}.", "answer": "Yes."} for n in range(64)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "stage": "sft",
        "epochs": "100000",
        "examples_per_step": "4",
        "model.path": str(tiny_model),
        "model.dtype": "float32",
        "data.train": f"- path: {folder}/train.jsonl",
        "data.max_tokens": "64",
        "learner.max_tokens_per_microbatch": "128",
        "cluster.cpus": "2",
    }


def followed(http: httpx.Client, location: str) -> tuple[str, int]:
    """The whole log of a process, and how it ended."""
    text, status = "", None
    with http.stream("GET", f"{location}/events") as answer:
        for event in events(answer.iter_lines()):
            text += event.get("text", "")
            status = event.get("status", status)
    assert status is not None
    return text, status


def begun(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["location"])


def test_from_the_form_to_a_run_that_is_stopped(
    address: str, runs: Path, texts: dict[str, Any]
) -> None:
    with client(address) as http:
        wrong = http.post("/train/check", json=texts | {"epochs": "-1"})
        assert wrong.status_code == 422
        assert "output_dir</a>: missing" in wrong.text
        assert not list((runs / ".board").iterdir())
        dry = begun(http.post("/train/check", json=texts | {"output_dir": str(runs / "formed")}))
        assert http.post(f"{dry}/train").status_code == 409  # not before it has ended
        log, status = followed(http, dry)
        assert status == 0, log
        assert "a new one begins at step 1" in log
        assert "Start the training" in http.get(dry).text
        run = begun(http.post(f"{dry}/train"))
        assert "still at work" in http.post(f"{dry}/train").json()["told"]
        _wait_for_step(http)
        assert "Curves of formed" in http.get(run).text
        assert "asked to stop" in http.post(f"{run}/stop").json()["told"]
        log, status = followed(http, run)
        assert status == 130, log
        assert http.post(f"{run}/stop").status_code == 409
        assert "stage: sft" in (runs / "formed" / "config.source.yaml").read_text()
        assert http.get("/train/form?run=formed").text.count(texts["model.path"]) == 1


def _wait_for_step(http: httpx.Client) -> None:
    deadline = time.monotonic() + SECONDS
    while (page := http.get("/run/live?run=formed")).status_code != 200 or "<svg" not in page.text:
        assert time.monotonic() < deadline, page.text
        time.sleep(0.5)


def test_a_dry_run_that_is_refused_starts_nothing(
    address: str, runs: Path, texts: dict[str, Any]
) -> None:
    with client(address) as http:
        bad = texts | {"output_dir": str(runs / "bad"), "model.path": "/no/such/model"}
        dry = begun(http.post("/train/check", json=bad))
        log, status = followed(http, dry)
        assert status == 2
        assert "/no/such/model" in log
        assert http.post(f"{dry}/train").status_code == 409
        assert not (runs / "bad").exists()
