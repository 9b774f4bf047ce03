"""Small supervised runs for the end-to-end tests: made-up rows of each kind, and configurations."""

import json
from pathlib import Path
from typing import Any

from runs import merged

DRUGS = ("iron", "zinc", "codeine", "insulin", "aspirin", "morphine", "heparin", "digoxin")


def conversations(count: int) -> list[dict[str, Any]]:
    return [
        {
            "conversations": [
                {"from": "human", "value": f"Bed {number}: dose of {DRUGS[number % 8]}?"},
                {"from": "gpt", "value": f"{5 + 5 * (number % 8)} mg per day."},
            ]
        }
        for number in range(count)
    ]


def documents(count: int) -> list[dict[str, Any]]:
    text = "Bed {0}: the nurse gives {1} at night and writes {2} mg on the chart."
    return [{"text": text.format(n, DRUGS[n % 8], 5 * (n % 8))} for n in range(count)]


def pairs(count: int) -> list[dict[str, Any]]:
    """The chosen answer gives a dose, the rejected one does not."""
    return [
        {
            "prompt": f"Bed {number}: dose of {DRUGS[number % 8]}?",
            "chosen": f"{5 + 5 * (number % 8)} mg per day.",
            "rejected": f"No idea about {DRUGS[number % 8]}, ask somebody.",
        }
        for number in range(count)
    ]


ROWS = {
    "pt": documents,
    "sft": conversations,
    "rm": pairs,
    "dpo": pairs,
    "orpo": pairs,
    "kto": pairs,
}


def write_supervised(folder: Path, tiny: Path, stage: str, **overrides: Any) -> Path:
    """A configuration with its data; returns the YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = overrides.pop("rows", None) or ROWS[stage](48)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "stage": stage,
        "output_dir": str(folder / "run"),
        "epochs": 2,
        "examples_per_step": 8,
        "model": {"path": str(tiny), "dtype": "float32"},
        "data": {
            "train": [{"path": str(folder / "train.jsonl")}],
            "max_tokens": 96,
            "shuffle_rows": 32,
        },
        "learner": {"learning_rate": 0.003, "max_tokens_per_microbatch": 384},
        "checkpoint": {"every_steps": 4},
        "cluster": {"cpus": 4},
    }
    (folder / "run.yaml").write_text(json.dumps(merged(config, overrides), indent=1))
    return folder / "run.yaml"
