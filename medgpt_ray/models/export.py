"""The policy as an HF model directory: safetensors, tokenizer, chat template, adapters merged."""

from pathlib import Path

import torch
from transformers import AutoConfig, GenerationConfig

from medgpt_ray.config import schema
from medgpt_ray.models.load import load_tokenizer, resolve_model
from medgpt_ray.models.policy import Policy
from medgpt_ray.models.weights import iterate


def save_model(policy: Policy, model: schema.Model, directory: Path, write: bool) -> None:
    """Every rank calls it (ZeRO-3 gathers); the one with `write` writes what transformers opens."""
    dtype = getattr(torch, model.dtype)
    weights = {}
    for name, tensor in iterate(policy, dtype):
        if write:
            weights[name] = tensor.cpu()
    if not write:
        return
    from safetensors.torch import save_file

    source = resolve_model(model.path)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config = AutoConfig.from_pretrained(source)
    config.dtype = dtype
    config.save_pretrained(directory)
    load_tokenizer(model.path).save_pretrained(directory)
    if (source / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(source).save_pretrained(directory)
