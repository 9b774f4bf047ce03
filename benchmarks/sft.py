"""SFT, this system against TRL's SFTTrainer: same model, rows, lengths, batch and threads.

    python -m benchmarks.sft [--rounds 2] [--steps 4] [--data FILE]

Non-padding tokens/s of the steps after the first two. TRL is not a dependency: pip install
--no-deps trl==1.16.0
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import machine
from benchmarks.compare import Result, alternate, table, today

MODEL = "embedded:smollm2-135m-instruct"
PARAMETERS = 134_515_008
OUTPUT = Path("benchmarks/results/sft.md")
ROWS, MAX_TOKENS, THREADS, SECONDS, WARM_UP = 8, 512, 2, 1800, 2
LORA = "model.adaptation={kind: lora, rank: 16}"


def ours(folder: Path, data: str, steps: int, overrides: list[str]) -> Result:
    config = {
        "stage": "sft",
        "output_dir": f"{folder}/run",
        "steps": steps,
        "examples_per_step": ROWS,
        "model": {"path": MODEL},
        "data": {"train": [{"path": data}], "max_tokens": MAX_TOKENS},
        "learner": {"threads": THREADS, "max_tokens_per_microbatch": 1024},
        "checkpoint": {"every_steps": 1000},
    }
    (folder / "run.yaml").write_text(json.dumps(config))
    medgpt = str(Path(sys.executable).with_name("medgpt"))
    command = [medgpt, "train", str(folder / "run.yaml"), *overrides]
    subprocess.run(command, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines][WARM_UP:]
    seconds = sum(r["time/step"] for r in records)
    return {
        "tokens/s": sum(r["tokens/learned"] for r in records) / seconds,
        "waiting for data": sum(r["time/data"] for r in records) / seconds,
        "loss": mean(r["loss"] for r in records),
    }


def trl(folder: Path, data: str, steps: int, options: dict[str, Any]) -> Result:
    """`options`: fields of SFTConfig, and `lora`, `dtype` of the weights."""
    shape = {"rows": ROWS, "max_tokens": MAX_TOKENS, "threads": THREADS, "steps": steps}
    command = [sys.executable, "-m", "benchmarks.trl_supervised", "sft", str(folder), data]
    command.append(json.dumps({**shape, "options": options}))
    subprocess.run(command, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
    records = json.loads((folder / "trl.json").read_text())[WARM_UP:]
    return {
        "tokens/s": sum(r["tokens"] for r in records) / sum(r["seconds"] for r in records),
        "waiting for data": 0.0,
        "loss": mean(r["loss"] for r in records),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--data", default="configs/demo/data/notes_train.jsonl")
    options = parser.parse_args()
    mine = partial(ours, data=options.data, steps=options.steps)
    theirs = partial(trl, data=options.data, steps=options.steps)
    bf16, fp32 = "model.dtype=bfloat16", "model.dtype=float32"
    contenders = {
        "medgpt, full, bfloat16": partial(mine, overrides=[bf16]),
        "TRL, full, bfloat16": partial(theirs, options={"dtype": "bfloat16"}),
        "medgpt, full, float32": partial(mine, overrides=[fp32]),
        "TRL, full, float32": partial(theirs, options={}),
        "medgpt, LoRA, float32": partial(mine, overrides=[fp32, LORA]),
        "TRL, LoRA, float32": partial(theirs, options={"lora": 16}),
    }
    pairs = [
        ("medgpt, full, bfloat16", "TRL, full, bfloat16"),
        ("medgpt, full, float32", "TRL, full, float32"),
        ("medgpt, LoRA, float32", "TRL, LoRA, float32"),
    ]
    about = machine.describe(THREADS)
    ceiling = machine.learning_ceiling(PARAMETERS, THREADS)

    def tell(results: dict[str, list[Result]]) -> None:
        OUTPUT.write_text(
            f"# SFT: this system and TRL 1.16\n\n{today()}, `python -m benchmarks.sft --rounds "
            f"{options.rounds} --steps {options.steps} --data {Path(options.data).name}`. {about}. "
            f"Ceiling by float32 matmuls alone, without sharing: {ceiling:.0f} tokens/s.\n\n"
            f"SmolLM2-135M-Instruct, {ROWS} rows of at most {MAX_TOKENS} tokens an update, "
            f"{THREADS} threads; non-padding tokens/s of the steps after the first {WARM_UP}, "
            "mean over rounds (range). What the prompts of an update begin with in common (here "
            "the system prompt of the template) this system computes once, and counts for every "
            "row.\n\n" + table(results, "tokens/s", pairs)
        )

    alternate(contenders, options.rounds, tell)


if __name__ == "__main__":
    main()
