"""Vectors of the shipped model and of directories in sentence-transformers format."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from medgpt_ray.retrieval.embedding import EMBEDDED, Embedder, locate
from medgpt_ray.retrieval.errors import RetrievalError

TEXTS = ["Gout is treated with colchicine.", "a", "fever in children " * 60]


def test_the_mean_of_the_tokens_at_length_one_whatever_the_batch(embedder: Embedder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(locate(EMBEDDED))
    model = AutoModel.from_pretrained(locate(EMBEDDED)).eval()
    for text, vector in zip(TEXTS, embedder.embed_documents(TEXTS), strict=True):
        one = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**one).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_similar_texts_are_near(embedder: Embedder) -> None:
    heart, attack, fish = embedder.embed_documents(
        ["myocardial infarction", "heart attack", "how to cook fish"]
    )
    assert heart @ attack > heart @ fish + 0.3


def test_minilm_reads_english_but_hardly_chinese(embedder: Embedder) -> None:
    assert embedder.coverage("What is the dose of colchicine?") == 1.0
    assert embedder.coverage("秋水仙碱第一次吃多少?") < 0.5


def test_first_token_pooling_and_instructions_are_read(other_model: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(other_model, directory)
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    plain, instructed = Embedder(str(other_model)), Embedder(str(directory))
    (expected,) = plain.embed_documents(["passage: gout"])
    (vector,) = instructed.embed_documents(["gout"])
    np.testing.assert_allclose(vector, expected, atol=1e-6)
    np.testing.assert_allclose(
        instructed.embed_question("gout"), plain.embed_question("query: gout"), atol=1e-6
    )
    tokenizer = AutoTokenizer.from_pretrained(other_model)
    model = AutoModel.from_pretrained(other_model).eval()
    with torch.inference_mode():
        first = model(**tokenizer("passage: gout", return_tensors="pt")).last_hidden_state[0, 0]
    np.testing.assert_allclose(expected, (first / first.norm()).numpy(), atol=1e-5)


def test_a_pooling_that_is_not_known_is_refused(other_model: Path, tmp_path: Path) -> None:
    shutil.copytree(other_model, tmp_path / "model")
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode": "weightedmean"}'
    )
    with pytest.raises(RetrievalError, match="weightedmean is none of mean, cls, last"):
        Embedder(str(tmp_path / "model"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(RetrievalError, match=r"no model\.safetensors in it, give embedded:"):
        Embedder(str(tmp_path))
