"""examples/grpo_in_one_file.py gives the platform's numbers on the platform's samples."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import SECONDS, steps, train, write_run

from medgpt_ray.tracking.samples import read_samples

pytestmark = pytest.mark.usefixtures("warm")

EXAMPLE = Path(__file__).parent.parent / "examples" / "grpo_in_one_file.py"


def load_example():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("grpo_in_one_file", EXAMPLE)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_same_losses_and_gradients_as_a_platform_run(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    example = load_example()
    train(write_run(tmp_path, tiny_model, steps=4))
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    settings = example.Settings(learning_rate=0.003)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.0)
    for step, expected in steps(tmp_path / "run").items():
        samples = [
            example.Sample(
                s.prompt.id, list(s.prompt.token_ids), list(s.completion.token_ids), s.reward
            )
            for s in read_samples(tmp_path / "run" / "samples" / f"step_{step}.parquet")
        ]
        ours = example.update(model, optimizer, samples, settings)
        assert ours["loss"] == pytest.approx(expected["loss"], abs=2e-5)
        assert ours["grad_norm"] == pytest.approx(expected["grad_norm"], rel=2e-3)


def test_it_runs_and_is_short(tiny_model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"question": f"Say {n}.", "answer": str(n)} for n in range(8)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tiny_model), str(prompts)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert done.stdout.count("reward") == 20
    assert len(EXAMPLE.read_text().splitlines()) < 250
