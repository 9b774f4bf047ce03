"""NEFTune: noise on the embeddings while a model is fine-tuned (arXiv 2310.05914).

Uniform in +-alpha / sqrt(T d) for a sequence of T tokens of d dimensions. The T of the paper is the
length of a padded batch; rows here hold sequences of different lengths, and each gets its own, but
for what several share, which gets that of the longest.
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
    """[L] tokens of the sequence, prompt included, that each token of the row belongs to; of the
    longest where several share it.
    """
    lengths = [0] * len(micro.runs)
    for number, run in enumerate(micro.runs):
        so_far = sum(len(micro.runs[each]) for each in (*run.before, number))
        for each in (*run.before, number):
            lengths[each] = max(lengths[each], so_far)
    repeats = torch.tensor([len(run) for run in micro.runs])
    return torch.tensor(lengths).repeat_interleave(repeats).to(micro.input_ids.device)


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
