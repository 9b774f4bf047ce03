"""An optional cross-encoder: reads question and passage together, and orders the candidates."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from medgpt_ray.retrieval.errors import RetrievalError

_LONGEST = 512


class CrossEncoder:
    """From a directory with one output, such as bge-reranker or ms-marco-MiniLM."""

    def __init__(self, path: str) -> None:
        if not (Path(path) / "model.safetensors").is_file():
            raise RetrievalError([f"{path}: no cross-encoder with model.safetensors in it"])
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            path, use_safetensors=True, dtype=torch.float32
        ).eval()
        if self._model.config.num_labels != 1:
            labels = self._model.config.num_labels
            raise RetrievalError([f"{path}: {labels} outputs, a cross-encoder for ranking has one"])

    @torch.inference_mode()
    def scores(self, question: str, passages: Sequence[str]) -> list[float]:
        """A larger one is better."""
        batch = self._tokenizer(
            [question] * len(passages),
            list(passages),
            padding=True,
            truncation="only_second",
            max_length=min(self._tokenizer.model_max_length, _LONGEST),
            return_tensors="pt",
        )
        return [float(score) for score in self._model(**batch).logits[:, 0]]
