"""A dry run tells what would happen, part by part, and starts nothing."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from medgpt_ray.config.loader import load
from medgpt_ray.dry_run import arithmetic, describe, resume_plan
from medgpt_ray.tracking.checkpoints import Checkpoints

TEXT = """\
stage: grpo
output_dir: OUT
steps: 10
model: {path: MODEL, dtype: float32}
data:
  train: TRAIN
  system_prompt: Be brief.
algorithm:
  prompts_per_step: 4
  completions_per_prompt: 8
  minibatches_per_step: 2
  kl: {coefficient: 0.1}
rewards:
  - function: medgpt_ray.rewards.text:token_f1
rollout: {max_completion_tokens: 64}
"""


@pytest.fixture
def file(tiny_model: Path, tmp_path: Path) -> Path:
    rows = [{"question": f"Which dose of {name}?", "answer": "500 mg"} for name in "abcdefgh"]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    text = TEXT.replace("OUT", str(tmp_path / "run")).replace("MODEL", str(tiny_model))
    (tmp_path / "run.yaml").write_text(text.replace("TRAIN", str(tmp_path / "train.jsonl")))
    return tmp_path / "run.yaml"


def shown(file: Path, *overrides: str) -> str:
    output = io.StringIO()
    describe(load(file, overrides), False, Console(file=output, width=120))
    return output.getvalue()


def test_it_shows_origins_rows_and_placement(file: Path, tmp_path: Path) -> None:
    text = shown(file, "learner.workers=2")
    assert f"steps: 10 # from {file}:3\n" in text
    assert "  workers: 2 # from command line\n" in text
    assert "  threads: 1\n" in text
    assert "train.jsonl:1, " in text
    assert "answer: 500 mg" in text
    prompt = "<|system|>Be brief.<|end|><|user|>Which dose of a?<|end|><|assistant|>"
    assert f"NOT TRAINED |{prompt}|\nTRAINED     |completion: 1 to 64" in text
    assert "Which dose of b?" in text
    assert "Which dose of c?" not in text
    row = next(line for line in text.splitlines() if "workers" in line and "│" in line)
    assert row.split() == ["│", "workers", "│", "2", "│", "2", "│", "1", "│"]
    assert "policy" in text
    assert "reference" in text
    assert "rollout" in text
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(file: Path) -> None:
    text = shown(file, "model.path=nowhere")
    assert text.count("cannot be shown: ") == 2
    assert "nowhere: no such model directory" in text
    assert "4 prompts x 8 completions" in text
    text = shown(file, "data.train=nowhere.jsonl")
    assert "cannot be shown: nowhere.jsonl: no such file" in text
    assert "Model: 106,816 parameters" in text


def test_the_batch_in_numbers(file: Path) -> None:
    text = "\n".join(arithmetic(load(file).config, prompts=8))
    assert "4 prompts x 8 completions = 32 samples, 2 updates of 16 samples each" in text
    assert "at most 32 x 64 = 2,048 tokens on 1 rollout worker." in text
    assert "10 steps x 2 = 20 updates, 40 prompts drawn, 320 samples, at most 20,480" in text
    assert "40 / 8 prompts = 5.00 passes" in text
    assert "Strictly on-policy" in text
    late = load(file, ["algorithm.max_staleness=2"]).config
    assert "at most 2 policy versions old" in "\n".join(arithmetic(late, prompts=8))


def test_what_resume_would_do(tmp_path: Path) -> None:
    assert "a new one begins at step 1" in resume_plan(tmp_path, resume=False)
    assert "nothing to resume" in resume_plan(tmp_path, resume=True)
    (tmp_path / "config.yaml").write_text("")
    assert "begins again at step 1" in resume_plan(tmp_path, resume=True)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (2, 10):
        checkpoints.begin(step)
        checkpoints.commit(step, {"step": step})
    (tmp_path / "checkpoints" / "step_12").mkdir()
    text = resume_plan(tmp_path, resume=True)
    assert "continues at step 11, from" in text
    assert "Not complete, and left alone: step_12" in text
    assert "Without --resume the run is refused" in resume_plan(tmp_path, resume=False)
