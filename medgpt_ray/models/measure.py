"""Three numbers of a language model for a before-and-after table: size, speed, perplexity."""

import math
import time
from pathlib import Path
from typing import Any

import torch

WINDOW = 512
SPEED_TOKENS = 64


def size_bytes(directory: Path) -> int:
    """Of the weights on the disk."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


@torch.no_grad()
def perplexity(network: Any, ids: list[int]) -> float:
    """exp of the mean negative log-likelihood over all tokens, read in windows of 512 that know
    nothing of each other; the first token of each is not counted.
    """
    total, counted = 0.0, 0
    for start in range(0, len(ids), WINDOW):
        window = torch.tensor([ids[start : start + WINDOW]], device=network.device)
        if window.shape[1] < 2:
            continue
        logits = network(input_ids=window).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum")
        total, counted = total + loss.item(), counted + window.shape[1] - 1
    return math.exp(total / counted)


@torch.no_grad()
def tokens_per_second(network: Any, ids: list[int]) -> float:
    """Of greedy generation for one user, after a first call that is not timed."""
    prompt = torch.tensor([ids[:SPEED_TOKENS]], device=network.device)

    def generate(tokens: int) -> None:
        network.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
        )

    generate(2)
    started = time.perf_counter()
    generate(SPEED_TOKENS)
    return SPEED_TOKENS / (time.perf_counter() - started)
