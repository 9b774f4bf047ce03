"""`medgpt eval` on real parts: vLLM's server, lm-eval, the supervised data path, a run."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from runs import SECONDS
from supervised_runs import conversations

from medgpt_ray.config.loader import ConfigError
from medgpt_ray.config.run import RunConfig
from medgpt_ray.config.supervised import SftRun
from medgpt_ray.data.rows import DataError
from medgpt_ray.evaluate import Options, check
from medgpt_ray.evaluation import harness, subject
from medgpt_ray.evaluation.files import open_task
from medgpt_ray.evaluation.server import MODEL_NAME, ServerFailed, serve
from medgpt_ray.evaluation.subject import base_of
from medgpt_ray.evaluation.texts import measure_texts, open_texts
from medgpt_ray.models.tiny import write_tiny_model
from medgpt_ray.tracking.rundir import RunDirectory, file_sha256

pytestmark = pytest.mark.usefixtures("warm")

QUESTIONS = [
    {"question": f"Bed {n}: which?", "options": ["iron", "zinc", "opium"], "answer": "ABC"[n % 3]}
    for n in range(6)
]


Served = tuple[str, str]
"""Address and key."""


def endpoint_of(served: Served, tokenizer: Path | None) -> harness.Endpoint:
    return harness.Endpoint(served[0], MODEL_NAME, tokenizer, served[1])


def cli(*arguments: str, key: str = "") -> tuple[int, str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEDGPT_API_KEY": key}
    done = subprocess.run(
        [sys.executable, "-m", "medgpt_ray.cli", "eval", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def refused(target: str, **changes: Any) -> list[str]:
    """What is wrong with these options."""
    nothing = dict.fromkeys(field.name for field in fields(Options))
    options = nothing | {"tasks": [], "stage": "sft", "max_tokens": 1024} | changes
    with pytest.raises((ConfigError, DataError)) as caught:
        check(Options(**options | {"target": target}))
    return caught.value.problems


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small multiple-choice task of the user's own."""
    folder = tmp_path_factory.mktemp("task")
    write_rows(folder / "drugs.jsonl", QUESTIONS)
    file = folder / "drugs.yaml"
    file.write_text(
        "format: choice\ndata: drugs.jsonl\nscoring: likelihood\nprompt: '{question} {options}'\n"
    )
    return file


@pytest.fixture(scope="module")
def written(task: Path) -> Path:
    """The same questions, answered in words."""
    file = task.with_name("written.yaml")
    text = task.read_text().replace("likelihood", "generation")
    file.write_text(f"{text}max_completion_tokens: 12\n")
    return file


@pytest.fixture(scope="module")
def chatty(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a header that ends in text: it repeats the last token that it reads, and
    special tokens would be left out of its replies."""
    copy = shutil.copytree(tiny_model, tmp_path_factory.mktemp("chatty") / "model")
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|assistant|>'", "<|assistant|>dose'"))
    return copy


@pytest.fixture(scope="module")
def served(chatty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with serve(chatty, 600, tmp_path_factory.mktemp("server") / "log") as address:
            yield address


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run that began from the tiny model and whose model has other weights."""
    folder = tmp_path_factory.mktemp("run")
    data = write_rows(folder / "train.jsonl", conversations(8))
    config: RunConfig = TypeAdapter(RunConfig).validate_python(
        {
            "stage": "sft",
            "output_dir": str(folder / "run"),
            "model": {"path": str(tiny_model)},
            "data": {"train": [{"path": str(data)}]},
        }
    )
    made = RunDirectory.create(
        folder / "run", config, "stage: sft\n", {"train": {str(data): file_sha256(data)}}, {}
    )
    write_tiny_model(made.model, seed=1)
    return made


def hf(model: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return network, AutoTokenizer.from_pretrained(model)


def test_the_likeliest_letter_is_that_of_the_model(chatty: Path, served: Served) -> None:
    asked = open_task("medical_en", None)
    endpoint = endpoint_of(served, chatty)
    replies = harness.ask(endpoint, [asked], 600)["medical_en"]
    network, tokenizer = hf(chatty)
    for question, prompt, reply in zip(asked.questions, asked.prompts, replies, strict=True):
        rendered = harness.render(tokenizer, prompt)
        ids = tokenizer(rendered, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = network(ids).logits[0, -1]
        letters = list(question.options)
        (best,) = torch.stack(
            [logits[tokenizer.convert_tokens_to_ids(letter)] for letter in letters]
        ).argmax(0, keepdim=True)
        assert reply.prompt == rendered
        assert reply.text == letters[best]
        assert reply.score == float(reply.text == question.answer)


def test_replies_by_chat_and_by_rendered_prompts_are_the_same(
    chatty: Path, served: Served, written: Path
) -> None:
    asked = [open_task(str(written), 4)]
    rendered, chat = (
        harness.ask(endpoint_of(served, tokenizer), asked, 600)["written"]
        for tokenizer in (chatty, None)
    )
    assert [reply.text for reply in rendered] == [reply.text for reply in chat]
    assert any(reply.text for reply in chat)
    assert json.loads(chat[0].prompt)[0]["content"] == asked[0].prompts[0]
    assert harness.prompt_hash(rendered) != harness.prompt_hash(chat)


def test_a_served_model_against_a_local_one(
    chatty: Path, tiny_model: Path, served: Served, task: Path, tmp_path: Path
) -> None:
    """The other one gets a server of its own; their templates differ, so do their prompts."""
    url, key = served
    options = ["--task", str(task), "--tokenizer", str(chatty), "--base", str(tiny_model)]
    named = ["--output", str(tmp_path), "--name", "url", "--limit", "5"]
    status, out, error = cli(url, *options, *named, key=key)
    assert status == 0, error
    result = json.loads((tmp_path / "url.json").read_text())
    assert (result["model"], result["base"]) == (f"{MODEL_NAME} at {url}", str(tiny_model))
    (found,) = result["metrics"]
    assert (found["task"], found["metric"], found["n"]) == ("drugs", "accuracy", 5)
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["change"]["value"] == pytest.approx(found["value"] - found["base"]["value"])
    assert found["template"].startswith("sha256:")
    assert found["template"] != found["base"]["template"]
    assert found["prompt_sha256"] != found["base"]["prompt_sha256"]
    assert (tmp_path / "url.md").read_text() in out
    samples = [json.loads(line) for line in (tmp_path / "url.samples.jsonl").open()]
    assert [sample["by"] for sample in samples] == ["model"] * 5 + ["base"] * 5
    assert found["value"] == sum(sample["score"] for sample in samples[:5]) / 5
    assert samples[0]["place"].endswith("drugs.jsonl:1")


def test_served_and_own_likelihoods_agree(chatty: Path, served: Served, tmp_path: Path) -> None:
    """With gaps in what counts: two answers in a row's conversation."""
    turns = [turn for row in conversations(2) for turn in row["conversations"]]
    file = write_rows(tmp_path / "rows.jsonl", [{"conversations": turns}, *conversations(3)])
    texts = open_texts(str(file), "sft", 300, chatty, None)
    own, by_server = (
        measure_texts(texts, model)
        for model in (
            subject.open_model(str(chatty)),
            replace(subject.open_model(str(chatty)), endpoint=endpoint_of(served, chatty)),
        )
    )
    assert by_server[0].weights == own[0].weights
    assert by_server[0].values == pytest.approx(own[0].values, rel=1e-4)
    assert by_server[1].values == own[1].values


def test_what_a_url_cannot_do_is_refused(
    served: Served, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, key = served
    monkeypatch.setenv("MEDGPT_API_KEY", key)
    (problem,) = refused(url, tasks=[str(task)])
    assert problem.startswith("--task drugs: needs the served model's tokenizer")
    (problem,) = refused(url, tasks=["medical_open"], data="rows.jsonl")
    assert problem.startswith("--data rows.jsonl: needs the served model's tokenizer")
    assert refused(url, tasks=["medical_open"], served_model="other") == [
        f"{url}: serves {MODEL_NAME}: name one by --model"
    ]
    monkeypatch.setenv("MEDGPT_API_KEY", "wrong")
    (problem,) = refused(url, tasks=["medical_open"])
    assert problem.endswith("status 401: is MEDGPT_API_KEY set to its key?")
    (problem,) = refused("http://127.0.0.1:9", tasks=["medical_open"])
    assert "no OpenAI API answers there" in problem


def test_a_request_that_is_refused_ends_the_evaluation(
    chatty: Path, served: Served, written: Path
) -> None:
    endpoint = replace(endpoint_of(served, chatty), model="nobody")
    with pytest.raises(harness.EvaluationFailed, match="404"):
        harness.ask(endpoint, [open_task(str(written), 1)], 600)


def test_a_run_against_what_it_was_trained_from(run: RunDirectory, tiny_model: Path) -> None:
    data = run.path.parent / "train.jsonl"
    arguments = [str(run.path), "--data", str(data), "--name", "after"]
    status, _, error = cli(*arguments)
    assert status == 0, error
    result = json.loads((run.evaluation / "after.json").read_text())
    assert (result["model"], result["base"]) == (str(run.path), str(tiny_model))
    perplexity, accuracy = result["metrics"]
    assert (perplexity["n"], accuracy["metric"]) == (8, "token accuracy")
    assert perplexity["value"] == pytest.approx(reference_perplexity(run.model), rel=1e-4)
    assert perplexity["base"]["value"] == pytest.approx(reference_perplexity(tiny_model), rel=1e-4)
    assert perplexity["change"]["value"] == pytest.approx(
        perplexity["value"] / perplexity["base"]["value"]
    )
    assert perplexity["base"]["prompt_sha256"] == perplexity["prompt_sha256"]
    report = run.report.read_text()
    assert "Evaluations" in report
    assert str(tiny_model) in report
    status, _, error = cli(*arguments)
    assert (status, "after.json exists, choose another" in error) == (2, True)


def reference_perplexity(model: Path) -> float:
    """Every conversation alone through transformers, the answer's tokens and its end counted."""
    network, tokenizer = hf(model)
    loss, tokens = 0.0, 0
    for row in conversations(8):
        question, answer = (turn["value"] for turn in row["conversations"])
        prompt = f"<|user|>{question}<|end|><|assistant|>"
        head = tokenizer(prompt, add_special_tokens=False).input_ids
        tail = tokenizer(f"{answer}<|end|>", add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = network(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(tail), reduction="sum")
        loss, tokens = loss + float(losses), tokens + len(tail)
    return math.exp(loss / tokens)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tasks": ["medical"]}, "no such task"),
        ({"tasks": ["medical_en", "medical_en"]}, "--task medical_en: given twice"),
        ({"data": "none.jsonl"}, "none.jsonl: no such file"),
        ({"base": "none.d"}, "none.d: no such model directory"),
    ],
)
def test_bad_input_is_refused(tiny_model: Path, changes: dict[str, Any], problem: str) -> None:
    assert problem in refused(str(tiny_model), **changes)[0]


def test_a_base_that_had_an_adapter_must_be_named(run: RunDirectory, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("adapter:", "adapter: some/adapter"))
    assert "name it with --base" in refused(str(copy))[0]


def test_what_is_too_long_is_named(tiny_model: Path, tmp_path: Path) -> None:
    row = QUESTIONS[0] | {"question": "Which drug? " * 400}
    file = write_rows(tmp_path / "long.jsonl", [QUESTIONS[0], row])
    (problem,) = refused(str(tiny_model), tasks=[f"medical_en={file}"])
    assert problem.startswith(f"{file}:2: the prompt and its reply take ")
    turns = [{"from": "human", "value": "dose? " * 600}, {"from": "gpt", "value": "5 mg"}]
    rows = write_rows(tmp_path / "rows.jsonl", [{"conversations": turns}])
    (problem,) = refused(str(tiny_model), data=str(rows), max_tokens=100)
    assert problem == f"{rows}: no row fits into 100 tokens: raise --max-tokens"
    (problem,) = refused(str(tiny_model), data=str(rows), max_tokens=4000)
    assert "has a context of 1024: lower --max-tokens" in problem


def test_the_command_refuses_with_status_2(tiny_model: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "exam.jsonl", [QUESTIONS[0] | {"answer": "D"}])
    status, out, error = cli(str(tiny_model), "--task", f"medical_en={file}")
    assert (status, out) == (2, "")
    assert error == f"{file}:1: answer: 'D' is outside the options, which are A, B, C\n"
    status, _, error = cli(str(tiny_model), "--stage", "dpo")
    assert (status, error) == (2, "--stage: 'dpo' is none of sft, pt\n")


def test_a_server_that_does_not_come_up_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with (
        pytest.raises(ServerFailed, match="ended with status"),
        serve(tmp_path, 100, tmp_path / "log"),
    ):
        pass
    assert (tmp_path / "log").read_text()


def test_the_base_of_a_run_is_what_it_was_trained_from(tiny_model: Path, tmp_path: Path) -> None:
    """Of a run that began from another's checkpoint that checkpoint, not the other's end."""
    parent = tmp_path / "pt"
    checkpoint = parent / "checkpoints" / "step_1"
    for model in (parent / "model", checkpoint / "model"):
        shutil.copytree(tiny_model, model)
    (parent / "lineage.json").write_text("{}")
    for model, base in (
        (parent, parent),
        (parent / "model", parent),
        (checkpoint / "model", checkpoint / "model"),
        (tiny_model, tiny_model),
    ):
        config = SftRun.model_validate(
            {
                "stage": "sft",
                "output_dir": str(tmp_path / f"{model.name}-{model.parent.name}"),
                "model": {"path": str(model)},
                "data": {"train": [{"path": "x"}]},
            }
        )
        run = RunDirectory.create(config.output_dir, config, "", {}, {})
        assert base_of(run) == str(base)
