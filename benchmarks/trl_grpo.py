"""One run of TRL's GRPOTrainer for `benchmarks.grpo`, with its phases timed.

python -m benchmarks.trl_grpo FOLDER STEPS [key=value ...] SHAPE_JSON
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.grpo import DATA, MODEL, SYSTEM
from medgpt_ray.models.load import resolve_model
from medgpt_ray.rewards.text import token_f1


def reward(prompts: list[Any], completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    texts = [completion[0]["content"] for completion in completions]
    return [token_f1("", t, {"answer": a}) for t, a in zip(texts, answer, strict=True)]


def main(folder: Path, steps: int, options: list[str], shape: dict[str, int]) -> None:
    torch.set_num_threads(shape["threads"])
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    rows = [json.loads(line) for line in Path(DATA).read_text().splitlines()]
    data = Dataset.from_list(
        [
            {
                "prompt": [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": row["question"]},
                ],
                "answer": row["answer"],
            }
            for row in rows
        ]
    )
    extra = {key: json.loads(value) for key, value in (o.split("=", 1) for o in options)}
    batch = shape["prompts"] * shape["completions"]
    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=batch // 8,
        num_generations=shape["completions"],
        max_completion_length=shape["tokens"],
        learning_rate=1e-6,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        **extra,
    )
    records: list[dict[str, float]] = []

    class Timed(GRPOTrainer):
        generating, tokens = 0.0, 0.0

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            started = time.perf_counter()
            output = super()._generate_and_score_completions(inputs)
            self.generating += time.perf_counter() - started
            self.tokens += float(output["completion_mask"].sum())
            return output

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            whole = time.perf_counter() - self.began
            records.append(
                {
                    "step": whole,
                    "generate": trainer.generating,
                    "learn": whole - trainer.generating,
                    "tokens": trainer.tokens,
                }
            )
            trainer.generating = trainer.tokens = 0.0

    trainer = Timed(
        model=str(resolve_model(MODEL)),
        reward_funcs=reward,
        args=config,
        train_dataset=data,
        callbacks=[Clock()],
    )
    trainer.train()
    (folder / "trl.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:-1], json.loads(sys.argv[-1]))
