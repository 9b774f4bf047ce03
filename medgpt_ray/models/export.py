"""A trained model as an HF directory: safetensors, configuration, tokenizer, adapters merged."""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from medgpt_ray.config import schema
from medgpt_ray.config.supervised import SupervisedModel
from medgpt_ray.models import rope
from medgpt_ray.models.load import generation_config, open_tokenizer, resolve_model, turn_ends
from medgpt_ray.models.reward import RewardModel
from medgpt_ray.models.weights import adapter_weights, base_network, iterate


def save_model(
    policy: Any, model: schema.Model, directory: Path, write: bool, tokenizer: Any = None
) -> None:
    """What transformers and vLLM open, of a `Policy` or a `RewardModel`.

    Every rank calls it (ZeRO-3 gathers); the one with `write` writes. `tokenizer` is the one that
    rendered the training data, where its chat template is not the model's own.
    """
    dtype = getattr(torch, model.dtype)
    weights = {}
    for name, tensor in iterate(policy, dtype):
        if write:
            weights[name] = tensor.cpu()
    if not write:
        return
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    network = base_network(policy.network)
    config = copy.deepcopy(network.config)
    config.dtype = dtype
    config.architectures = [type(network).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are written whole
    config.save_pretrained(directory)
    open_to_others(directory)
    tokenizer = _tokenizer(policy, model, tokenizer)
    tokenizer.save_pretrained(directory)
    if network.can_generate():
        save_generation_config(resolve_model(model.path), tokenizer, directory)


def save_adapter(
    policy: Any, model: schema.Model, directory: Path, write: bool, tokenizer: Any = None
) -> None:
    """The adapter alone, as PEFT opens it on the model that the run started from: with
    `new_tokens`, after `resize_token_embeddings` to the tokenizer's length; with `rope_scaling`,
    with the configuration of the exported model; with `model.adapter` on that model with that
    adapter merged, which it names as its base. Every rank calls it.
    """
    from peft import get_peft_model_state_dict

    weights = {}
    for name, tensor in adapter_weights(policy.network):
        if write:
            weights[name] = tensor.cpu().clone()  # a shared one has to be written twice
    if not write:
        return
    directory.mkdir(parents=True, exist_ok=True)
    named = get_peft_model_state_dict(policy.network, weights, save_embedding_layers=False)
    save_file(named, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(policy.network.peft_config["default"])
    config.inference_mode = True
    # What it goes on: with `model.adapter` that one, merged into its own base (`merge_adapter`).
    base = Path(model.adapter).resolve() if model.adapter else resolve_model(model.path)
    config.base_model_name_or_path = str(base)
    config.save_pretrained(directory)
    open_to_others(directory)
    _tokenizer(policy, model, tokenizer).save_pretrained(directory)


def save_generation_config(source: Path, tokenizer: Any, directory: Path) -> None:
    """That of the model in `source`, and the ends of turns of `tokenizer`: engines stop where it
    says, and a template of the run's may end turns in its own way.

    What transformers opens with a warning and refuses to write (a temperature without `do_sample`,
    as Vicuna has it) is kept as it is.
    """
    generation = generation_config(source)
    generation.eos_token_id = turn_ends(tokenizer, generation)
    generation.to_json_file(directory / "generation_config.json", keys_to_pop=["compile_config"])


def open_to_others(directory: Path) -> None:
    """Safetensors writes files that nobody else may read: they get the rights of the others."""
    other = next(directory.glob("*config.json"))
    for file in directory.glob("*.safetensors"):
        shutil.copymode(other, file)


def _tokenizer(policy: Any, model: schema.Model, tokenizer: Any) -> Any:
    if tokenizer is None:
        new_tokens = model.new_tokens if isinstance(model, SupervisedModel) else ()
        tokenizer = open_tokenizer(model.path, new_tokens)
    tokenizer = copy.deepcopy(tokenizer)
    config = base_network(policy.network).config
    if isinstance(model, SupervisedModel) and model.rope_scaling is not None:
        tokenizer.model_max_length = rope.reach(config)  # vLLM's limit where it is the least
    if isinstance(policy, RewardModel):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    return tokenizer
