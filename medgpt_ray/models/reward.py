"""A reward model: a language model with one number read off the last token of each sequence.

It is transformers' sequence classifier with one label, so what is exported opens with
`AutoModelForSequenceClassification`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from medgpt_ray.config.schema import Model
from medgpt_ray.models.adapters import holds_head
from medgpt_ray.models.attention import arguments
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.load import (
    is_reward_model,
    load_network,
    open_tokenizer,
    starting_config,
    trainable,
)
from medgpt_ray.models.packing import MicroBatch
from medgpt_ray.models.weights import base_network


class RewardModel(nn.Module):
    """Wraps an HF sequence classifier (or a PEFT model of one) for DeepSpeed and for scoring."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, micro: MicroBatch) -> tuple[Tensor]:
        """Scores [S] float32, in the order of `micro.index`."""
        classifier = base_network(self.network)
        hidden = classifier.get_decoder()(
            input_ids=micro.input_ids,
            position_ids=micro.position_ids,
            use_cache=False,
            **arguments(self.network, micro),
        ).last_hidden_state[0]
        return (classifier.score(hidden[micro.ends])[:, 0].float(),)


def load_reward_model(model: Model, seed: int, *, empty: bool = False) -> Any:
    """The network of a reward model ready to train, see `reward_network`."""
    return trainable(reward_network(model, seed, empty=empty), model, seed, task="SEQ_CLS")


def reward_network(model: Model, seed: int, *, empty: bool = False) -> Any:
    """A reward model that was trained before, or a language model with the head of `model.adapter`
    or a new one drawn from `seed`; not yet adapted.
    """
    config = starting_config(model)
    fresh = not is_reward_model(config)
    if fresh:
        config.num_labels = 1
        config.pad_token_id = padding_token_id(open_tokenizer(model.path))
    elif config.num_labels != 1:
        raise ModelError(
            f"{model.path}: is a classifier with {config.num_labels} labels, a reward model has one"
        )
    network = load_network(
        AutoModelForSequenceClassification,
        model,
        config,
        fresh=("score.weight",) if fresh else (),
        empty=empty,
    )
    if fresh and not (model.adapter and holds_head(Path(model.adapter))):
        # As small as the value heads of RLHF are: scores start near zero.
        generator = torch.Generator().manual_seed(seed)
        spread = 1 / (config.hidden_size + 1)
        nn.init.normal_(network.score.weight, std=spread, generator=generator)
    return network


def load_scorer(model: Model, *, empty: bool = False) -> Any:
    """The network of a trained reward model, frozen; a language model is refused."""
    config = starting_config(model)
    refuse_language_model(model.path, config)
    network = load_network(
        AutoModelForSequenceClassification, model, config, frozen=True, empty=empty
    )
    return network.requires_grad_(False).eval()


def refuse_language_model(path: str, config: Any) -> None:
    """`ModelError` unless `config` is that of a sequence classifier with one label."""
    if not is_reward_model(config) or config.num_labels != 1:
        raise ModelError(
            f"{path}: is no reward model (a sequence classifier with one label): train one with "
            "stage: rm"
        )


def padding_token_id(tokenizer: Any) -> int:
    """The id that pads batches of sequences to score.

    transformers reads the score off the last token that is not padding, so the token that ends
    sequences cannot be it, though many tokenizers say so.
    """
    added = tokenizer.added_tokens_decoder
    special = [id for id, token in sorted(added.items()) if token.special]
    taken = (tokenizer.eos_token_id, tokenizer.bos_token_id)
    for id in (tokenizer.pad_token_id, tokenizer.unk_token_id, *special):
        if id is not None and id not in taken:
            return int(id)
    raise ModelError(
        "model.path: the tokenizer has no special token beside the one that ends sequences, so "
        "batches cannot be padded: give it a pad_token and a row of the embeddings for it"
    )
