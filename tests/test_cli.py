"""The command: quick to start, exact about what it refuses, no traceback for a user's mistake."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from supervised_runs import conversations, write_supervised
from typer.testing import CliRunner

from medgpt_ray.cli import app
from medgpt_ray.config.loader import load
from medgpt_ray.preflight import data_sha256, nothing_left
from medgpt_ray.tracking.checkpoints import Checkpoints
from medgpt_ray.tracking.rundir import RunDirectory

RUN = """\
stage: grpo
output_dir: OUT
steps: 2
model: {path: MODEL, dtype: float32}
data: {train: TRAIN}
rewards: [{function: "medgpt_ray.rewards.text:token_f1"}]
"""


@pytest.fixture
def file(tiny_model: Path, tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text('{"question": "Which dose?", "answer": "500 mg"}\n')
    text = RUN.replace("OUT", str(tmp_path / "run")).replace("MODEL", str(tiny_model))
    (tmp_path / "run.yaml").write_text(text.replace("TRAIN", str(tmp_path / "train.jsonl")))
    return tmp_path / "run.yaml"


def medgpt(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command run in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_help_takes_less_than_a_second() -> None:
    times = []
    for _ in range(5):  # the best of five: other work on the machine only ever adds time
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "medgpt_ray.cli", "--help"],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        times.append(time.perf_counter() - start)
        if times[-1] < 1:
            break
    assert all(command in done.stdout for command in ("train", "presets", "schema", "env", "data"))
    assert min(times) < 1


def test_mistakes_in_a_configuration_are_told_on_stderr(tmp_path: Path, file: Path) -> None:
    file.write_text(file.read_text() + "algorithm:\n  clip_ration: 0.2\n")
    done = subprocess.run(
        [sys.executable, "-m", "medgpt_ray.cli", "train", str(file), "steps=0", "sync.bucket=1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{file}:8: algorithm.clip_ration: unknown field, did you mean 'clip_low'?",
        "command line: steps: expected an integer > 0, found 0",
        "command line: sync.bucket: unknown field, did you mean 'bucket_mib'?",
    ]


def test_what_the_machine_cannot_do_is_told_on_stderr(file: Path, tmp_path: Path) -> None:
    status, output, errors = medgpt(
        "train", file, "cluster.cpus=1", f"data.heldout={tmp_path / 'no.jsonl'}"
    )
    assert (status, output) == (2, "")
    assert [line.partition(": ")[0] for line in errors.splitlines()] == [
        str(tmp_path / "no.jsonl"),
        "cpus",
    ]


def test_a_path_that_cannot_be_one_is_told_in_one_line(file: Path, tmp_path: Path) -> None:
    name = "x" * 300
    rows = str(tmp_path / "train.jsonl")
    for arguments, path in (
        (("train", name), name),
        (("train", file, f"output_dir={name}", "--dry-run"), f"{name}/config.yaml"),
        (("train", file, f"model.path={name}"), f"{name}/lineage.json"),
        (("data", "convert", rows, "--to", "alpaca", "--output", f"{name}.json"), f"{name}.json"),
    ):
        status, _, errors = medgpt(*arguments)
        assert (status, errors) == (
            1 if "convert" in arguments else 2,
            f"{path}: cannot be opened: File name too long\n",
        )


def test_a_dry_run_shows_and_starts_nothing(file: Path, tmp_path: Path) -> None:
    status, output, errors = medgpt("train", file, "--dry-run", "cluster.cpus=2", "seed=7")
    assert (status, errors) == (0, "")
    assert "seed: 7 # from command line" in output
    for title in ("Configuration", "Batch", "Sample rows", "Placement", "Resume"):
        assert f"\n{title}\n" in output
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_what_cannot_start_shows_it_and_says_why(file: Path) -> None:
    status, output, errors = medgpt("train", file, "--dry-run", "cluster.cpus=1")
    assert status == 2
    assert "Placement" in output
    assert errors.startswith("cpus: the run needs 2 CPUs")
    status, _, errors = medgpt("train", file, "--dry-run", "cluster.cpus=2", "model.path=nowhere")
    assert status == 2
    assert errors.startswith("command line: model.path: nowhere: no such model directory")


def test_a_supervised_dry_run_starts_nothing(tiny_model: Path, tmp_path: Path) -> None:
    file = write_supervised(tmp_path, tiny_model, "sft", rows=conversations(4))
    status, output, errors = medgpt("train", file, "--dry-run")
    assert (status, errors) == (0, "")
    for title in ("Configuration", "Batch", "Sample rows", "Placement", "Resume"):
        assert f"\n{title}\n" in output
    assert not (tmp_path / "run").exists()


def test_resume_needs_a_run(file: Path) -> None:
    status, _, errors = medgpt("train", file, "--resume", "cluster.cpus=2")
    assert status == 2
    assert "holds no run to resume" in errors


def test_a_finished_run_is_not_started_again(file: Path, tmp_path: Path) -> None:
    loaded = load(file)
    hashes = data_sha256(loaded.config)
    run = RunDirectory.create(tmp_path / "run", loaded.config, loaded.source, hashes, {})
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.begin(2)
    checkpoints.commit(2, {"step": 2})
    run.model.mkdir()
    assert not nothing_left(loaded.config)
    run.report.write_text("")
    status, output, _ = medgpt("train", file, "--resume", "cluster.cpus=2")
    assert (status, output) == (0, f"{run.path} is finished: more `steps` would continue it\n")
    assert not nothing_left(load(file, ["steps=3"]).config)


def test_a_finished_run_of_epochs_is_not_started_again(tiny_model: Path, tmp_path: Path) -> None:
    loaded = load(write_supervised(tmp_path, tiny_model, "sft"))
    run = RunDirectory.create(tmp_path / "run", loaded.config, loaded.source, {}, {})
    assert not nothing_left(loaded.config)
    run.model.mkdir()
    run.report.write_text("")
    assert nothing_left(loaded.config)
    assert not nothing_left(load(tmp_path / "run.yaml", ["steps=3"]).config)


def test_presets_are_listed_and_accepted_as_config() -> None:
    status, output, _ = medgpt("presets")
    assert status == 0
    assert "tiny/grpo" in output
    assert "GRPO on a two-layer random model" in output
    status, _, errors = medgpt("train", "tiny/grpo", "steps=x")
    assert status == 2
    assert errors == "command line: steps: expected an integer > 0, found 'x'\n"
    status, _, errors = medgpt("train", "tiny/grop")
    assert status == 2
    assert "did you mean 'tiny/grpo'?" in errors


def test_schema_prints_every_key() -> None:
    status, output, _ = medgpt("schema")
    assert status == 0
    assert "default 2.0, when stage: grpo or ppo, kind: truncate\n" in output
    status, output, _ = medgpt("schema", "grpo")
    assert status == 0
    assert output.startswith("stage: grpo, required\n")
    assert "learner.workers: an integer > 0, default 1\n    Data-parallel ranks.\n" in output
    assert "steps: an integer > 0, required\n" in output
    assert "default 2.0, when kind: truncate\n" in output
    status, output, _ = medgpt("schema", "--json")
    assert "grpo" in json.loads(output)["discriminator"]["mapping"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"question": "Which dose?", "answer": "500 mg"}\n')
    return tmp_path / "rows.jsonl"


def test_data_validate_tells_by_its_status(rows: Path, tmp_path: Path) -> None:
    status, output, errors = medgpt("data", "validate", rows, "--stage", "sft")
    assert (status, errors) == (0, "")
    assert output.splitlines()[1].split() == [str(rows), "qa", "1", "0", "0", "0", "17"]
    rows.write_text(rows.read_text() + '{"question": "Why?", "answer": true}\n')
    status, output, errors = medgpt("data", "validate", rows)
    assert (status, errors) == (1, "")
    assert output.startswith(f"{rows}:2: answer: is a boolean, expected a string\n")
    assert medgpt("data", "validate", rows, tmp_path / "none.jsonl")[0] == 2
    assert medgpt("data", "validate", rows, "--format", "alpaca")[0] == 1
    rows.write_text('{"Q": "Which dose?", "A": "500 mg"}\n')
    assert medgpt("data", "validate", rows, "--columns", "question=Q,answer=A")[0] == 0
    status, _, errors = medgpt("data", "validate", rows, "--columns", "qestion=Q")
    assert status == 2
    assert errors.startswith("--columns: 'qestion' is none of text, ")
    assert "question has no name" in medgpt("data", "validate", rows, "--columns", "question")[2]


def test_data_convert_writes_all_or_nothing(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "made.jsonl"
    command = ("data", "convert", rows, "--to", "messages", "--output", output)
    assert medgpt(*command) == (0, f"1 rows written to {output}, format messages\n", "")
    status, _, errors = medgpt(*command)
    assert (status, errors) == (1, f"{output}: is there already, replace it with --force\n")
    rows.write_text(rows.read_text() + '{"question": "Why?", "answer": ""}\n{\n')
    before = output.read_bytes()
    status, shown, errors = medgpt(*command, "--force")
    assert (status, shown) == (1, "")
    assert [line.partition(": ")[0] for line in errors.splitlines()] == [f"{rows}:2", f"{rows}:3"]
    assert output.read_bytes() == before


def test_data_preview_and_stats_take_the_options_of_a_run(rows: Path, tiny_model: Path) -> None:
    model = ("--model", tiny_model)
    status, output, errors = medgpt(
        *("data", "preview", rows, *model, "--rows", "1", "--system-prompt", "Be brief.")
    )
    assert (status, errors) == (0, "")
    assert "NOT TRAINED |<|system|>Be brief.<|end|><|user|>Which dose?<|end|>" in output
    _, output, _ = medgpt("data", "preview", rows, *model, "--template", "vicuna")
    assert "USER: Which dose?" in output
    _, output, _ = medgpt("data", "preview", rows, *model, "--train-on-inputs")
    assert "TRAINED     |Which dose?<|end|><|assistant|>500 mg<|end|>|" in output
    _, output, _ = medgpt("data", "preview", rows, *model, "--max-tokens", "4")
    assert "dropped: the first exchange is longer than data.max_tokens (4)" in output
    status, output, _ = medgpt("data", "stats", rows, *model, "--max-tokens", "4")
    assert status == 0
    assert output.splitlines()[1].split()[1:4] == ["1", "0", "1"]
    _, output, _ = medgpt("data", "stats", rows, *model, "--train-on-inputs")
    tokens, trained = output.splitlines()[1].split()[5:7]
    assert int(trained) == int(tokens) - 1
    _, output, _ = medgpt("data", "stats", rows, *model, "--stage", "dpo")
    assert "1 bad, the first is" in output


def test_data_commands_refuse_in_one_line(rows: Path, tmp_path: Path) -> None:
    for arguments, start in (
        (("validate", rows, "--format", "alpacca"), "--format: 'alpacca' is none of auto, "),
        (("validate", rows, "--stage", "sfd"), "--stage: 'sfd' is none of pt, sft, "),
        (("convert", rows, "--to", "x", "--output", "y"), "--to: 'x' is none of sharegpt, "),
        (("preview", rows, "--model", tmp_path), f"the tokenizer cannot be loaded: {tmp_path}: "),
        (("stats", rows, "--model", "nowhere"), "the tokenizer cannot be loaded: nowhere: no "),
    ):
        status, output, errors = medgpt("data", *arguments)
        assert (status, output) == (2, "")
        assert errors.startswith(start)
        assert errors.count("\n") == 1


def test_env_names_versions_and_the_machine() -> None:
    import ray
    import torch

    status, output, _ = medgpt("env")
    assert status == 0
    lines = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert lines["torch"].startswith(torch.__version__)
    assert lines["ray"].startswith(ray.__version__)
    assert {"python", "vllm", "CPUs", "memory", "GPUs", "compiler", "/dev/shm"} <= set(lines)


def test_env_imports_none_of_what_it_lists() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from medgpt_ray.cli import app\n"
        "CliRunner().invoke(app, ['env'])\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    heavy = {"torch", "vllm", "ray", "transformers", "peft", "deepspeed", "bitsandbytes"}
    assert not heavy & set(done.stdout.split())


def test_a_run_that_patience_ended_is_not_trained_on(file: Path, tmp_path: Path) -> None:
    loaded = load(file, ["steps=9"])
    run = RunDirectory.create(tmp_path / "run", loaded.config, loaded.source, {}, {})
    Checkpoints(run.checkpoints).begin(2)
    Checkpoints(run.checkpoints).commit(2, {"step": 2})
    run.model.mkdir()
    run.report.write_text("")
    assert nothing_left(loaded.config)
    assert not nothing_left(load(file, ["steps=10"]).config)
