"""One run of TRL's SFTTrainer or DPOTrainer for `benchmarks.sft` and `benchmarks.dpo`, timed.

python -m benchmarks.trl_supervised sft|dpo FOLDER DATA SHAPE_JSON
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.sft import MODEL
from medgpt_ray.config.supervised import Source, SupervisedData
from medgpt_ray.data.formats import for_stage, parse
from medgpt_ray.data.render import Dropped, Renderer
from medgpt_ray.data.segments import read
from medgpt_ray.data.sources import open_source
from medgpt_ray.models.load import load_tokenizer, resolve_model


def rows(stage: str, data: str, max_tokens: int) -> list[dict[str, Any]]:
    """The rows that this system trains on, as TRL takes them."""
    source = Source(path=data)
    renderer = Renderer(
        load_tokenizer(MODEL), SupervisedData(train=[source], max_tokens=max_tokens)
    )
    found = []
    for segment, format in open_source(source, stage).segments:
        for record in read(segment):
            (row,) = for_stage(parse(record.value, format), stage)
            if stage == "sft":
                if not isinstance(renderer.render(row), Dropped):
                    *prompt, answer = row.messages
                    found.append({"prompt": prompt, "completion": [answer]})
            elif not isinstance(renderer.render(row), Dropped):
                found.append(
                    {
                        "prompt": list(row.prompt),
                        "chosen": list(row.chosen),
                        "rejected": list(row.rejected),
                    }
                )
    return found


def main(stage: str, folder: Path, data: str, shape: dict[str, Any]) -> None:
    torch.set_num_threads(shape["threads"])
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    options = dict(shape["options"])
    lora, dtype = options.pop("lora", None), options.pop("dtype", "float32")
    options.setdefault("bf16", False)
    config, trainer_class = {"sft": (SFTConfig, SFTTrainer), "dpo": (DPOConfig, DPOTrainer)}[stage]
    arguments = config(
        output_dir=str(folder / "trl"),
        max_steps=shape["steps"],
        per_device_train_batch_size=shape["rows"],
        max_length=2 * shape["max_tokens"],
        learning_rate=2e-5,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        **options,
    )
    records: list[dict[str, float]] = []
    counted = {"tokens": 0.0}

    class Counting(trainer_class):  # type: ignore[valid-type, misc]
        def compute_loss(self, model: Any, inputs: Any, *more: Any, **others: Any) -> Any:
            for name in ("attention_mask", "completion_attention_mask"):
                if name in inputs:
                    counted["tokens"] += float(inputs[name].sum())
            return super().compute_loss(model, inputs, *more, **others)

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = time.perf_counter() - self.began
            records.append({"seconds": seconds, "tokens": counted["tokens"]})
            counted["tokens"] = 0.0

        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                records[-1]["loss"] = float(logs["loss"])

    targets = {
        "target_modules": "all-linear",
        "r": lora,
        "lora_alpha": 32,
        "task_type": "CAUSAL_LM",
    }
    trainer = Counting(
        model=AutoModelForCausalLM.from_pretrained(
            resolve_model(MODEL), dtype=getattr(torch, dtype)
        ),
        processing_class=load_tokenizer(MODEL),
        args=arguments,
        train_dataset=Dataset.from_list(rows(stage, data, shape["max_tokens"])),
        callbacks=[Clock()],
        peft_config=LoraConfig(**targets) if lora else None,
    )
    trainer.train()
    (folder / "trl.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
