"""New tokens: known to the tokenizer, and starting from the mean of the pieces they replace."""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any

import torch

from medgpt_ray.models.errors import ModelError

Pieces = Mapping[int, Seq[int]]
"""Id of a new token -> ids of what the tokenizer split its text into before it was added."""


def add_tokens(tokenizer: Any, tokens: Seq[str]) -> dict[int, tuple[int, ...]]:
    """Add `tokens` in their order, so that their ids are the same wherever this is called.

    They are matched wherever their text stands, also inside words, and count as plain text when
    special tokens are skipped. Returns the `Pieces`.
    """
    known = tokenizer.get_vocab()
    for number, token in enumerate(tokens):
        if token in known:
            raise ModelError(
                f"model.new_tokens: {token!r} is already in the vocabulary: leave it out"
            )
        if not token.strip() or token in tokens[:number]:
            raise ModelError(f"model.new_tokens: {token!r} is empty or given twice: leave it out")
    pieces = [tuple(tokenizer(token, add_special_tokens=False)["input_ids"]) for token in tokens]
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    return dict(zip(ids, pieces, strict=True))


@torch.no_grad()
def extend(network: Any, pieces: Pieces) -> None:
    """Give an HF model rows for new tokens, in the embeddings and in a head of its own alike.

    A vocabulary that is padded beyond the tokenizer's has the rows already; they start anew.
    """
    if not pieces:
        return
    rows = max(pieces) + 1
    if rows > network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(rows, mean_resizing=False)
    weights = [network.get_input_embeddings().weight]
    head = network.get_output_embeddings()
    if head is not None and head.weight is not weights[0]:
        weights.append(head.weight)
    for weight in weights:
        means = [weight[list(parts)].float().mean(0) for parts in pieces.values()]
        weight[list(pieces)] = torch.stack(means).to(weight.dtype)
