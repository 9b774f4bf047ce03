"""A dry run tells what would happen, part by part, and starts nothing."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from supervised_runs import conversations, documents, pairs, write_supervised

from medgpt_ray import dry_run_rl, dry_run_supervised
from medgpt_ray.config.loader import load
from medgpt_ray.dry_run import resume_plan
from medgpt_ray.dry_run_rl import arithmetic
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
    loaded = load(file, overrides)
    stage = dry_run_rl if loaded.config.stage in ("grpo", "ppo") else dry_run_supervised
    stage.describe(loaded, False, Console(file=output, width=120))
    return output.getvalue()


def sections(text: str) -> dict[str, str]:
    """Title -> what is under it."""
    titles = ("Configuration", "Batch", "Sample rows", "Placement", "Resume")
    found, title = dict.fromkeys(titles, ""), ""
    for line in text.splitlines():
        title = line if line in titles else title
        if title and line != title:
            found[title] += f"{line}\n"
    return found


def supervised(
    folder: Path, tiny: Path, stage: str, *overrides: str, **config: Any
) -> dict[str, str]:
    return sections(shown(write_supervised(folder, tiny, stage, **config), *overrides))


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


def test_a_supervised_run_in_sections(tiny_model: Path, tmp_path: Path) -> None:
    overrides = ("data.validation.share=0.25", "data.validation.every_steps=3")
    found = supervised(tmp_path, tiny_model, "sft", *overrides, "learner.workers=2")
    assert "share: 0.25 # from command line\n" in found["Configuration"]
    assert found["Batch"].splitlines()[:4] == [
        f"{tmp_path}/train.jsonl: 48 rows in 1 file, format sharegpt",
        "Validation: 25% of the rows, chosen by their content, at most 500, measured before the "
        "first update, every 3 updates and after the last.",
        "An update: 8 examples on 2 workers, in micro-batches of at most 384 tokens.",
        "The run: 2 x 36 = 72 examples, about 9 updates.",
    ]
    first = "NOT TRAINED |<|user|>Bed 0: dose of iron?<|end|><|assistant|>|\n"
    assert f"{first}TRAINED     |5 mg per day.<|end|>|" in found["Sample rows"]
    assert "Bed 1: " in found["Sample rows"]
    assert "Bed 2: " not in found["Sample rows"]
    rows = [line.split("│")[1:-1] for line in found["Placement"].splitlines() if "│" in line]
    table = {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}
    assert table["workers"] == ["2", "1"]
    assert table["computes in"] == ["float32", "-"]
    assert table["weights"] == ["0.41 MiB", "-"]
    assert "kv cache" not in table
    assert "106,816 parameters. In all: 3 CPUs" in found["Placement"]
    assert "a new one begins at step 1" in found["Resume"]
    assert not (tmp_path / "run").exists()


def test_a_mixture_shows_a_row_of_each_source(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text('{"question": "Why?", "answer": "So."}\n' * 10)
    train = [
        {"path": str(tmp_path / "train.jsonl"), "weight": 0.5},
        {"path": str(tmp_path / "more.jsonl"), "weight": 2},
    ]
    config = write_supervised(tmp_path, tiny_model, "sft", data={"train": train})
    found = sections(shown(config))
    assert "48 rows in 1 file, format sharegpt, weight 0.5\n" in found["Batch"]
    assert "10 rows in 1 file, format qa, weight 2\n" in found["Batch"]
    assert "The run: 2 x 44 = 88 examples, about 11 updates." in found["Batch"]
    assert "train.jsonl:1, " in found["Sample rows"]
    assert "more.jsonl:1, " in found["Sample rows"]
    assert "jsonl:2, " not in found["Sample rows"]
    found = sections(shown(config, "steps=4", "epochs=9"))
    assert "The run: 4 updates of 8 = 32 examples, about 0.73 passes" in found["Batch"]


def test_each_stage_counts_what_it_learns_from(tiny_model: Path, tmp_path: Path) -> None:
    found = supervised(tmp_path / "dpo", tiny_model, "dpo", rows=pairs(12))
    assert "An update: 8 pairs on 1 worker" in found["Batch"]
    assert "The run: 2 x 12 = 24 pairs, about 3 updates." in found["Batch"]
    assert ", chosen, " in found["Sample rows"]
    assert "TRAINED     |No idea about iron, ask somebody.<|end|>|" in found["Sample rows"]
    found = supervised(tmp_path / "kto", tiny_model, "kto", rows=pairs(12))
    assert "The run: 2 x 24 = 48 examples, about 6 updates." in found["Batch"]
    assert ", good answer, " in found["Sample rows"]
    found = supervised(tmp_path / "pt", tiny_model, "pt", rows=documents(12))
    assert "A document of more than 96 tokens is several examples" in found["Batch"]
    assert "TRAINED     |Bed 0: the nurse" not in found["Sample rows"]
    assert "TRAINED     |ed 0: the nurse" in found["Sample rows"]


def test_problems_of_a_supervised_run_stay_in_their_sections(
    tiny_model: Path, tmp_path: Path
) -> None:
    file = write_supervised(tmp_path, tiny_model, "sft", rows=conversations(2))
    found = sections(shown(file, "data.train.0.path=nowhere.jsonl"))
    assert found["Batch"].startswith("cannot be shown: nowhere.jsonl: no such file")
    assert "An update: 8 examples" in found["Batch"]
    assert found["Sample rows"].startswith("cannot be shown: ")
    assert "106,816 parameters" in found["Placement"]
    found = sections(shown(file, "model.path=nowhere"))
    assert "2 rows in 1 file" in found["Batch"]
    assert "tokenizer cannot be loaded: nowhere: no such model" in found["Sample rows"]
    assert found["Placement"].startswith("cannot be shown: nowhere: no such model")
    found = sections(shown(file, "data.template=chatml"))
    assert "ends a turn with <|im_end|>, which is no token" in found["Sample rows"]
    found = sections(shown(file, "data.template=chatml", "model.new_tokens=['<|im_end|>']"))
    assert "TRAINED     |5 mg per day.<|im_end|>|" in found["Sample rows"]
    found = sections(shown(file, "data.template=chatmll"))
    assert "unknown chat template 'chatmll'" in found["Sample rows"]
    train = tmp_path / "train.jsonl"
    train.write_text('{"question": "Why?", "answer": ""}\n' + train.read_text())
    found = sections(shown(file, "data.train.0.format=qa"))
    assert f"{train}:1: answer: empty" in found["Sample rows"]
    assert f"{train}:2: question: missing" in found["Sample rows"]


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
    (tmp_path / "model").mkdir()
    assert "finished at step 10: --resume only does" in resume_plan(tmp_path, resume=True)
