"""What a user names as a model, with its adapter where it has one, and the two made one.

A run directory with LoRA keeps the adapter beside the model in its checkpoints; a PEFT adapter
directory names its base. The merged model is written, opened again and asked: its logits must be
those of the base with the adapter.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from medgpt_ray.config.schema import Model
from medgpt_ray.config.supervised import SupervisedModel
from medgpt_ray.models.adapters import base_of, open_adapter, read_adapter_config
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.export import save_model
from medgpt_ray.models.load import (
    causal_config,
    hf_config,
    is_reward_model,
    load_network,
    open_tokenizer,
    resolve_model,
)
from medgpt_ray.models.policy import Policy
from medgpt_ray.models.reward import RewardModel, reward_network
from medgpt_ray.tracking.checkpoints import published
from medgpt_ray.tracking.rundir import RunDirectory, parent_run

PROBE = 2, 64
"""Sequences and tokens that both models are asked about."""
TOLERANCE = 1e-4
"""Of the largest logit: float32 sums in another order differ by a tenth of it."""


@dataclass(frozen=True)
class Source:
    """What is exported: a model as a run or a directory has it, or a base with an adapter."""

    path: str
    """As the user named it."""
    run: RunDirectory | None
    model: Model
    """The base where there is an adapter, in float32 and adapted as the run had it."""
    adapter: Path | None
    reward: bool

    @property
    def kind(self) -> Any:
        return AutoModelForSequenceClassification if self.reward else AutoModelForCausalLM


def find_source(path: str) -> Source:
    """Reads no weights; raises `ModelError` for what is no model."""
    named = Path(path)
    if (named / "adapter_config.json").is_file():
        parent = parent_run(path)
        return _adapted(path, RunDirectory(parent) if parent else None, named)
    directory = resolve_model(path)  # refuses what is no model, and a run that has none yet
    if (named / "lineage.json").is_file():
        run = RunDirectory.open(named)
        checkpoint = published(run)
        if checkpoint is not None and (checkpoint / "adapter").is_dir():
            return _adapted(path, run, checkpoint / "adapter")
    else:
        parent = parent_run(path)
        run = RunDirectory(parent) if parent else None
    reward = is_reward_model(hf_config(path))
    return Source(path, run, SupervisedModel(path=str(directory), dtype="float32"), None, reward)


def _adapted(path: str, run: RunDirectory | None, adapter: Path) -> Source:
    settings = read_adapter_config(adapter)
    base, before = base_of(adapter)
    if not base or not Path(base).is_dir():
        raise ModelError(
            f"{adapter}/adapter_config.json: base_model_name_or_path: {base} is no directory here: "
            "put the path of the base model there"
        )
    model = run.read_config().model if run else SupervisedModel(path=base)
    # The run may have named its base relative to where it was started; the adapter has it whole.
    # An adapter that was written before it named the one that it goes on has it from the run.
    first = str(before) if before else model.adapter
    made_of = {"path": base, "adapter": first, "dtype": "float32"}
    model = model.model_copy(update=made_of)
    return Source(path, run, model, adapter, settings.get("task_type") == "SEQ_CLS")


def starting_model(path: str) -> Model:
    """What a LoRA run began with: the base that its adapter goes on."""
    source = find_source(path)
    if source.run is None or source.adapter is None:
        raise ModelError(f"{path}: is no run that keeps an adapter, so there is none to switch off")
    return source.model


def open_tokenizer_of(source: Source) -> Any:
    """With the tokens and the chat template of the run."""
    if source.adapter is not None and (source.adapter / "tokenizer_config.json").is_file():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(source.adapter)
    return open_tokenizer(source.model.path)


def open_adapted(source: Source, tokenizer: Any) -> Any:
    """The base with the adapter on it, in evaluation mode."""
    assert source.adapter is not None
    if source.reward:
        network = reward_network(source.model, seed=0)  # the head comes with the adapter
    else:
        network = load_network(AutoModelForCausalLM, source.model, causal_config(source.model))
    if len(tokenizer) > network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return open_adapter(network, source.adapter).eval()


def write_merged(adapted: Any, source: Source, tokenizer: Any, directory: Path) -> float:
    """Write the merged model in float32 and compare it with what it was merged from.

    Returns the largest difference of a logit; raises `ModelError` where it is beyond rounding.
    """
    wrapped = RewardModel(adapted) if source.reward else Policy(adapted, 1.0)
    save_model(wrapped, source.model, directory, write=True, tokenizer=tokenizer)
    merged = source.kind.from_pretrained(directory, dtype=torch.float32).eval()
    return compare(logits(adapted), logits(merged), f"{source.path}: the merged model")


def compare(expected: Tensor, found: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """The largest difference of two sets of logits, `ModelError` where it is beyond rounding."""
    difference = (found - expected).abs().max().item()
    allowed = tolerance * expected.abs().max().item()
    if not difference <= allowed:  # NaN is beyond too
        raise ModelError(
            f"{what} does not answer as what it was made from: logits differ by up to "
            f"{difference:.3g}, rounding explains {allowed:.3g}; nothing was written"
        )
    return difference


@torch.no_grad()
def logits(network: Any) -> Tensor:
    """float32 answers to a fixed random probe, drawn from the whole vocabulary."""
    rows, length = PROBE
    vocabulary = network.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
    pad = getattr(network.config, "pad_token_id", None)
    if pad is not None:  # a classifier reads its score off the last token that is not padding
        ids[ids == pad] = (pad + 1) % vocabulary
    return network(input_ids=ids.to(network.device)).logits.float().cpu()
