"""Likelihoods against plain transformers, however the rows are packed."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from medgpt_ray.config.schema import Model
from medgpt_ray.models.likelihood import likelihoods
from medgpt_ray.models.load import load_frozen
from medgpt_ray.models.packing import Sequence


def rows() -> list[Sequence]:
    """Of unlike lengths, with gaps in what counts; two share their prompt."""
    random = np.random.default_rng(1)
    shared = tuple(random.integers(5, 300, size=9).tolist())
    made = []
    for length in (3, 40, 17, 1, 25, 60):
        prompt = shared if length in (40, 17) else tuple(random.integers(5, 300, size=4).tolist())
        trained = (random.random(length) < 0.7).astype(np.float32)
        trained[0] = 1.0
        ids = tuple(random.integers(5, 300, size=length).tolist())
        made.append(Sequence(prompt, ids, {"trained": trained}))
    return made


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> list[tuple[float, int, int]]:
    """Each row alone through the HF model in double precision."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    found = []
    for row in rows():
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(row.prompt_ids) - 1 : -1]
        targets = torch.tensor(row.completion_ids)
        counts = torch.from_numpy(row.fields["trained"]) > 0
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")[counts]
        hits = (logits.argmax(-1) == targets)[counts]
        found.append((float(loss.sum()), int(hits.sum()), int(counts.sum())))
    return found


@pytest.mark.parametrize("max_tokens", [1, 70, 4096], ids=["alone", "some", "packed"])
def test_equals_each_row_alone(
    tiny_model: Path, reference: list[tuple[float, int, int]], max_tokens: int
) -> None:
    network = load_frozen(Model(path=str(tiny_model), dtype="float32"))
    found = likelihoods(network, rows(), max_tokens)
    for one, (nll, hits, tokens) in zip(found, reference, strict=True):
        assert one.nll == pytest.approx(nll, rel=1e-5)
        assert (one.hits, one.tokens) == (hits, tokens)
    perplexity = math.exp(sum(one.nll for one in found) / sum(one.tokens for one in found))
    expected = math.exp(sum(nll for nll, *_ in reference) / sum(n for *_, n in reference))
    assert perplexity == pytest.approx(expected, rel=1e-5)
