"""DPO, this system against TRL's DPOTrainer: same model, pairs, lengths, batch and threads.

    python -m benchmarks.dpo [--rounds 2] [--steps 4] --data FILE

Two passes over the pairs of so many steps, drawn from FILE: pairs/s of the second, which holds the
same pairs for both whatever their order. TRL is not a dependency: pip install --no-deps trl==1.16.0
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import machine
from benchmarks.compare import Result, alternate, table, today
from benchmarks.sft import MODEL, SECONDS, THREADS
from benchmarks.trl_supervised import rows

OUTPUT = Path("benchmarks/results/dpo.md")
PAIRS, MAX_TOKENS = 4, 512
LORA = "model.adaptation={kind: lora, rank: 16}"


def draw(data: str, steps: int, path: Path) -> None:
    """Write the pairs of `steps` steps to `path`, out of those of `data` that fit."""
    pairs = random.Random(0).sample(rows("dpo", data, MAX_TOKENS), PAIRS * steps)
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def ours(folder: Path, data: str, steps: int, overrides: list[str]) -> Result:
    config = {
        "stage": "dpo",
        "output_dir": f"{folder}/run",
        "steps": 2 * steps,
        "examples_per_step": PAIRS,
        "model": {"path": MODEL},
        "data": {"train": [{"path": data}], "max_tokens": MAX_TOKENS},
        "learner": {
            "threads": THREADS,
            "max_tokens_per_microbatch": 1024,
            "learning_rate": 2e-5,  # of both: the losses can be compared
        },
        "checkpoint": {"every_steps": 1000},
    }
    (folder / "run.yaml").write_text(json.dumps(config))
    medgpt = str(Path(sys.executable).with_name("medgpt"))
    command = [medgpt, "train", str(folder / "run.yaml"), *overrides]
    subprocess.run(command, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines][steps:]
    seconds = sum(r["time/step"] for r in records)
    return {
        "pairs/s": PAIRS * len(records) / seconds,
        "tokens a pair": mean(r["tokens/learned"] / PAIRS for r in records),
        "loss": mean(r["loss"] for r in records),
    }


def trl(folder: Path, data: str, steps: int, options: dict[str, Any]) -> Result:
    """`options`: fields of DPOConfig, and `lora`, `dtype` of the weights."""
    shape = {"rows": PAIRS, "max_tokens": MAX_TOKENS, "threads": THREADS, "steps": 2 * steps}
    command = [sys.executable, "-m", "benchmarks.trl_supervised", "dpo", str(folder), data]
    command.append(json.dumps({**shape, "options": options}))
    subprocess.run(command, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
    records = json.loads((folder / "trl.json").read_text())[steps:]
    return {
        "pairs/s": PAIRS * len(records) / sum(r["seconds"] for r in records),
        "tokens a pair": mean(r["tokens"] / PAIRS for r in records),
        "loss": mean(r["loss"] for r in records),
    }


def main(drawn: Path) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    mine = partial(ours, data=str(drawn), steps=options.steps)
    theirs = partial(trl, data=str(drawn), steps=options.steps)
    bf16, fp32 = "model.dtype=bfloat16", "model.dtype=float32"
    contenders = {
        "medgpt, LoRA, float32": partial(mine, overrides=[fp32, LORA]),
        "TRL, LoRA, float32": partial(theirs, options={"lora": 16}),
        "medgpt, full, bfloat16": partial(mine, overrides=[bf16]),
        "TRL, full, bfloat16": partial(theirs, options={"dtype": "bfloat16"}),
    }
    pairs = [
        ("medgpt, LoRA, float32", "TRL, LoRA, float32"),
        ("medgpt, full, bfloat16", "TRL, full, bfloat16"),
    ]
    about = machine.describe(THREADS)

    def tell(results: dict[str, list[Result]]) -> None:
        OUTPUT.write_text(
            f"# DPO: this system and TRL 1.16\n\n{today()}, `python -m benchmarks.dpo --rounds "
            f"{options.rounds} --steps {options.steps} --data {Path(options.data).name}`. {about}."
            f"\n\nSmolLM2-135M-Instruct, {PAIRS} pairs of at most {MAX_TOKENS} tokens an answer "
            f"with its prompt, {THREADS} threads; the second of two passes over "
            f"{PAIRS * options.steps} pairs, mean over rounds (range).\n\n"
            + table(results, "pairs/s", pairs)
        )

    draw(options.data, options.steps, drawn)
    alternate(contenders, options.rounds, tell)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder) / "pairs.jsonl")
