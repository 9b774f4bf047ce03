"""NEFTune: noise on the embeddings while a model is fine-tuned (arXiv 2310.05914).

Uniform in +-alpha / sqrt(T d) for a sequence of T tokens of d dimensions. The T of the paper is the
length of a padded batch; rows here hold sequences of different lengths, and each gets its own.
"""

from typing import Any

import torch
from torch import Tensor, nn

from medgpt_ray.models.packing import MicroBatch
from medgpt_ray.models.weights import base_network


def add_noise(embeddings: Tensor, lengths: Tensor, alpha: float) -> Tensor:
    """Embeddings [1, L, d] with noise; `lengths` [L] is that of the sequence of each token."""
    scale = alpha / (lengths * embeddings.shape[-1]).float().sqrt()
    noise = torch.empty_like(embeddings, dtype=torch.float32).uniform_(-1, 1)
    return embeddings + (noise * scale[:, None]).to(embeddings.dtype)


def sequence_lengths(micro: MicroBatch) -> Tensor:
    """[L] tokens of the sequence, prompt included, that each token of the row belongs to; those of
    a prompt that several share count as of the longest.
    """
    segments, of_token, counts = micro.segments.unique(
        dim=0, return_inverse=True, return_counts=True
    )
    lengths = torch.empty_like(counts)
    for stretch in segments[:, 0].unique():
        mine = segments[:, 0] == stretch
        prompt = mine & (segments[:, 1] == 0)
        lengths[mine] = counts[mine] + counts[prompt]
        lengths[prompt] = lengths[mine & ~prompt].max()
    return lengths[of_token]


def install(module: nn.Module, alpha: float) -> None:
    """Have a `Policy` or `RewardModel` add noise to its embeddings in training mode."""
    row: dict[str, MicroBatch] = {}

    def remember(_: nn.Module, arguments: tuple[MicroBatch]) -> None:
        row["micro"] = arguments[0]

    def disturb(_: nn.Module, arguments: Any, embeddings: Tensor) -> Tensor:
        if not module.training:
            return embeddings
        return add_noise(embeddings, sequence_lengths(row["micro"]), alpha)

    module.register_forward_pre_hook(remember)
    base_network(module.network).get_input_embeddings().register_forward_hook(disturb)
