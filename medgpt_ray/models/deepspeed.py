"""What DeepSpeed is told: settings from the learner's section, and a JSON file laid over them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medgpt_ray.config import schema
from medgpt_ray.config.supervised import SupervisedModel

OWNED = {
    "train_batch_size": "the stage's own key for the examples of one update",
    "train_micro_batch_size_per_gpu": "learner.max_tokens_per_microbatch",
    "gradient_accumulation_steps": "learner.max_tokens_per_microbatch",
    "gradient_clipping": "learner.max_grad_norm",
    "optimizer": "learner.optimizer, learning_rate, adam_betas and weight_decay",
    "scheduler": "learner.schedule and its warm-up",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
}
"""What a file may not say -> the keys of the configuration that do."""
FREE = (
    "zero_optimization",
    "communication_data_type",
    "aio",
    "checkpoint",
    "comms_logger",
    "flops_profiler",
    "memory_breakdown",
    "steps_per_print",
    "wall_clock_breakdown",
)
"""What a file may say. DeepSpeed itself would ignore a misspelt key."""


class DeepSpeedError(ValueError):
    """Settings that DeepSpeed cannot be given; all of them, a line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def deepspeed_config(model: schema.Model, config: schema.Learner) -> dict[str, Any]:
    """The configuration for `deepspeed.initialize`."""
    if problems := list(impossible(model, config.zero_stage)):
        raise DeepSpeedError([f"learner.zero_stage: {problem}" for problem in problems])
    stage = running_stage(model, config)
    plain = stage == 0
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        # Micro-batch counts vary from step to step: step() is the boundary, not a fixed count.
        "managed_gradient_accumulation": False,
        "bf16": {"enabled": model.dtype == "bfloat16"},
        **({} if plain else {"data_types": {"grad_accum_dtype": "fp32"}}),
        "zero_optimization": {"stage": stage, "overlap_comm": False},
        "gradient_clipping": 0.0 if plain else config.max_grad_norm,
        **_optimizer_settings(config),
        "steps_per_print": 10**9,
    }
    return _laid_over(settings, read_settings(config)) if config.deepspeed else settings


def join_group(gpus: float) -> None:
    """Join the ranks that this process's environment names, by NCCL or gloo; take note of a group
    that it is in already."""
    import deepspeed

    # DeepSpeed would compile a shared-memory collective at first use; gloo does its work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(backend(gpus), verbose=False)


def backend(gpus: float) -> str:
    """Name of the collective library of ranks with that many GPUs each."""
    return "nccl" if gpus else "gloo"


def running_stage(model: schema.Model, config: schema.Learner) -> int:
    """The ZeRO stage that is used. Among one rank there is nothing to share out: of float32 weights
    stages 1 and 2 would only hold and copy everything twice."""
    alone = config.workers == 1 and model.dtype == "float32" and config.deepspeed is None
    return 0 if alone and config.zero_stage < 3 else config.zero_stage


def impossible(model: schema.Model, stage: int) -> Iterator[str]:
    """What the ZeRO stage cannot do with the model, whose dtype is decided.

    ZeRO-3 gathers what a layer calls; DoRA and rows of new tokens read weights without that.
    """
    if stage == 0 and model.dtype == "bfloat16":
        yield (
            "0 keeps no float32 masters of bfloat16 weights: use 1, which works with one worker "
            "too, or model.dtype float32"
        )
    if stage != 3 or not isinstance(model.adaptation, schema.LoRA):
        return
    if model.adaptation.dora:
        yield "3 cannot shard adapters with dora: use 2"
    if isinstance(model, SupervisedModel) and model.new_tokens:
        yield "3 cannot shard adapters with new_tokens: use 2"


def make_optimizer(config: schema.Learner) -> Callable[[list[Any]], Any] | None:
    """Trainable parameters -> optimiser, where DeepSpeed does not know the kind; else None."""
    if config.optimizer == "adamw":
        return None
    import bitsandbytes

    kinds = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    return lambda parameters: kinds[config.optimizer](
        parameters,
        lr=config.learning_rate,
        betas=config.adam_betas,
        weight_decay=config.weight_decay,
    )


def _optimizer_settings(config: schema.Learner) -> dict[str, Any]:
    if config.optimizer != "adamw":
        return {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return {
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": config.learning_rate,
                "betas": list(config.adam_betas),
                "weight_decay": config.weight_decay,
                "torch_adam": True,  # DeepSpeed's own is compiled at first use
                "fused": True,
            },
        }
    }


def read_settings(config: schema.Learner) -> dict[str, Any]:
    """The file `config.deepspeed`, checked; DeepSpeedError with all that is wrong with it."""
    path = Path(str(config.deepspeed))
    if not path.is_file():
        raise DeepSpeedError([f"learner.deepspeed: {path}: no such file"])
    try:
        text = path.read_text("utf-8")
        settings = json.loads(text)
    except UnicodeDecodeError:
        raise DeepSpeedError([f"{path}: is not UTF-8, save it as UTF-8"]) from None
    except json.JSONDecodeError as error:
        raise DeepSpeedError([f"{path}:{error.lineno}: malformed JSON: {error.msg}"]) from None
    if not isinstance(settings, dict):
        raise DeepSpeedError([f"{path}: must be a section of DeepSpeed settings"])
    problems = [
        f"{path}:{_line(text, key)}: {key}: {problem}"
        for key, problem in _problems(settings, config.zero_stage)
    ]
    if problems:
        raise DeepSpeedError(problems)
    return settings


def _problems(settings: dict[str, Any], stage: int) -> Iterator[tuple[str, str]]:
    for key in settings:
        if key in OWNED:
            yield key, f"is set from {OWNED[key]}: take it out of this file"
        elif key not in FREE:
            yield key, f"is not supported here: take it out (supported: {', '.join(FREE)})"
    zero = settings.get("zero_optimization", {})
    if not isinstance(zero, dict):
        yield "zero_optimization", "must be a section"
        return
    if zero and stage == 0:
        yield "zero_optimization", "has no effect with learner.zero_stage 0: use 1, 2 or 3"
    elif zero.get("stage", stage) != stage:
        yield "stage", f"is {zero['stage']}, but learner.zero_stage is {stage}: make them the same"
    if "offload_param" in zero and stage != 3:
        yield "offload_param", "needs learner.zero_stage 3"
    for key, value in _leaves({k: v for k, v in settings.items() if k in FREE}):
        if value == "auto":
            yield key, 'is "auto", which only Hugging Face\'s Trainer fills in: give a value'


def _leaves(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        yield from _leaves(value) if isinstance(value, dict) else [(key, value)]


def _line(text: str, key: str) -> int:
    return text[: text.index(f'"{key}"')].count("\n") + 1


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged
