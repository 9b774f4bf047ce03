"""GRPO, this system against TRL's GRPOTrainer: same model, prompts, group size, lengths, threads.

    python -m benchmarks.grpo [--rounds 2] [--steps 3] [--output benchmarks/results/grpo.md]

Every round runs each contender once, one after the other, in a process of its own. The first step
of a run warms up and is not counted. TRL is not a dependency: pip install --no-deps trl==1.16.0
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks import machine
from benchmarks.compare import Peak, cell

MODEL = "embedded:smollm2-135m-instruct"
DATA = "configs/demo/data/notes_train.jsonl"
SYSTEM = "Copy the answer from the note, in one to five words, or write: not stated"
PARAMETERS = 134_515_008
SECONDS = 3000


@dataclass(frozen=True)
class Shape:
    prompts: int = 8
    completions: int = 4
    tokens: int = 64
    threads: int = 2


def ours(shape: Shape, steps: int, folder: Path, overrides: list[str]) -> dict[str, float]:
    """`medgpt train` on the demo's configuration."""
    command = [
        str(Path(sys.executable).with_name("medgpt")),
        "train",
        "configs/demo/grpo.yaml",
        f"output_dir={folder}/run",
        f"steps={steps}",
        "data.heldout=null",
        f"algorithm.prompts_per_step={shape.prompts}",
        f"algorithm.completions_per_prompt={shape.completions}",
        f"rollout.max_completion_tokens={shape.tokens}",
        "rollout.temperature=1.0",
        f"rollout.threads={shape.threads}",
        f"learner.threads={shape.threads}",
        "checkpoint.every_steps=1000",
        *overrides,
    ]
    with Peak() as peak:
        subprocess.run(command, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines][1:]
    step = mean(r["time/step"] for r in records)
    busy = mean(r["time/generate"] + r["time/learn"] for r in records)
    return {
        "samples/s": shape.prompts * shape.completions / step,
        "generate s": mean(r["time/generate"] for r in records),
        "learn s": mean(r["time/learn"] for r in records),
        "other share": 1 - busy / step,
        "generated tokens": mean(r["tokens/generated"] for r in records),
        "peak GiB": peak.gib,
    }


def trl(shape: Shape, steps: int, folder: Path, options: list[str]) -> dict[str, float]:
    """`GRPOTrainer` in a process of its own; `options` are fields of GRPOConfig."""
    command = [sys.executable, "-m", "benchmarks.trl_grpo", str(folder), str(steps), *options]
    shaped = {"prompts": shape.prompts, "completions": shape.completions, "tokens": shape.tokens}
    command.append(json.dumps({**shaped, "threads": shape.threads}))
    with Peak() as peak:
        subprocess.run(command, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
    records = json.loads((folder / "trl.json").read_text())[1:]
    step = mean(r["step"] for r in records)
    return {
        "samples/s": shape.prompts * shape.completions / step,
        "generate s": mean(r["generate"] for r in records),
        "learn s": mean(r["learn"] for r in records),
        "other share": 1 - mean(r["generate"] + r["learn"] for r in records) / step,
        "generated tokens": mean(r["tokens"] for r in records),
        "peak GiB": peak.gib,
    }


CONTENDERS = {
    "medgpt, defaults (bfloat16)": (ours, []),
    "TRL, defaults (bfloat16 autocast)": (trl, []),
    "medgpt, float32": (ours, ["model.dtype=float32", "rollout.dtype=float32"]),
    "TRL, float32": (trl, ["bf16=false", "gradient_checkpointing=false"]),
    "TRL, continuous batching": (trl, ["use_transformers_continuous_batching=true"]),
}
RATIOS = {
    "medgpt, defaults (bfloat16)": "TRL, defaults (bfloat16 autocast)",
    "medgpt, float32": "TRL, float32",
}
"""Which of TRL's contenders each of ours is told against."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=Shape.prompts)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/grpo.md"))
    options = parser.parse_args()
    shape = Shape(prompts=options.prompts)
    ceiling = machine.learning_ceiling(PARAMETERS, shape.threads)
    about = (
        f"{machine.describe(shape.threads)}. Ceiling of learning, by matmuls alone: {ceiling:.0f} "
        "tokens/s"
    )
    results: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
    for number in range(options.rounds):
        for name in options.only:
            run, extra = CONTENDERS[name]
            with tempfile.TemporaryDirectory() as folder:
                result = run(shape, options.steps, Path(folder), extra)
            results[name].append(result)
            print(f"round {number + 1}  {name}: {result}", flush=True)
            options.output.write_text(table(results, about, shape, options))


def table(results: dict, about: str, shape: Shape, options: argparse.Namespace) -> str:
    columns = ["samples/s", "generate s", "learn s", "other share", "generated tokens", "peak GiB"]
    lines = [
        "# GRPO: this system and TRL 1.16",
        "",
        f"{time.strftime('%Y-%m-%d')}, `python -m benchmarks.grpo --rounds {options.rounds} "
        f"--steps {options.steps} --prompts {shape.prompts}`. {about}.",
        "",
        f"SmolLM2-135M-Instruct, {shape.prompts} prompts x {shape.completions} completions of at "
        f"most {shape.tokens} tokens a step, {shape.threads} threads; mean of the steps after the "
        "first, mean over rounds (range over rounds).",
        "",
        "| contender | " + " | ".join(columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for name, runs in results.items():
        if runs:
            cells = [cell([run[column] for run in runs]) for column in columns]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    remark = (
        "In float32 neither recomputes activations, which TRL does by default. TRL's learn time is "
        "its whole step without generation, so its other share reads 0. "
        "Lengths are sampled, so generated tokens differ between contenders: compare tokens as "
        "well as samples."
    )
    return "\n".join([*lines, "", *_ratios(results), "", remark, ""])


def _ratios(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Ratios of samples/s, round by round."""
    lines = []
    for name, base in RATIOS.items():
        both = zip(results.get(name, []), results.get(base, []), strict=False)
        ratios = [a["samples/s"] / b["samples/s"] for a, b in both]
        if ratios:
            rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            lines.append(f"- {name}: {mean(ratios):.2f} times {base} (rounds: {rounds})")
    return lines


if __name__ == "__main__":
    main()
