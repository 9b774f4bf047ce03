"""Stretched positions change the forward pass as their formulas say, and are saved."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medgpt_ray.config.schema import Full, LoRA
from medgpt_ray.config.supervised import RopeScaling, SupervisedModel
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.export import save_model
from medgpt_ray.models.load import load_policy
from medgpt_ray.models.policy import Policy

LIMIT = 64


@pytest.fixture(scope="module")
def short_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a limit of 64 positions, attentive to them."""
    path = tmp_path_factory.mktemp("short") / "model"
    shutil.copytree(tiny_model, path)
    model = AutoModelForCausalLM.from_pretrained(path)
    model.config.max_position_embeddings = LIMIT
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 20
            layer.self_attn.k_proj.weight *= 20
    model.save_pretrained(path)
    return path


def stretched(path: Path, kind: Any, adaptation: Any = Full()) -> SupervisedModel:  # noqa: B008
    return SupervisedModel(
        path=str(path),
        dtype="float32",
        adaptation=adaptation,
        rope_scaling=RopeScaling(kind=kind, factor=4.0),
    )


@torch.no_grad()
def logits(network: Any, length: int, **arguments: Any) -> torch.Tensor:
    ids = (torch.arange(length) * 7 % 250 + 5)[None]
    return network.eval()(ids, **arguments).logits


def test_linear_divides_positions(short_model: Path) -> None:
    original = AutoModelForCausalLM.from_pretrained(short_model)
    network = load_policy(stretched(short_model, "linear"), 0)
    quarter = (torch.arange(200) / 4)[None]
    expected = logits(original, 200, position_ids=quarter)
    torch.testing.assert_close(logits(network, 200), expected, atol=1e-4, rtol=0)
    assert (logits(original, 200) - expected).abs().max() > 0.1


def test_yarn_keeps_high_frequencies_and_stretches_low_ones(short_model: Path) -> None:
    original = AutoModelForCausalLM.from_pretrained(short_model).model.rotary_emb
    rotary = load_policy(stretched(short_model, "yarn"), 0).model.rotary_emb
    ratio = original.inv_freq / rotary.inv_freq
    assert ratio[0] == pytest.approx(1)
    assert ratio[-1] == pytest.approx(4)
    assert rotary.attention_scaling == pytest.approx(0.1 * torch.tensor(4.0).log().item() + 1)


def test_dynamic_changes_nothing_up_to_the_limit(short_model: Path) -> None:
    original = AutoModelForCausalLM.from_pretrained(short_model)
    network = load_policy(stretched(short_model, "dynamic"), 0)
    torch.testing.assert_close(logits(network, LIMIT), logits(original, LIMIT))
    assert (logits(network, 200) - logits(original, 200)).abs().max() > 0.1


def test_dynamic_forgets_longer_rows(short_model: Path) -> None:
    network = load_policy(stretched(short_model, "dynamic"), 0)
    before = logits(network, 100), logits(network, LIMIT)
    logits(network, 200)
    torch.testing.assert_close(logits(network, 100), before[0], atol=0, rtol=0)
    torch.testing.assert_close(logits(network, LIMIT), before[1], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("kind", "positions", "reach"),
    [("linear", LIMIT, 4 * LIMIT), ("dynamic", LIMIT, LIMIT), ("yarn", 4 * LIMIT, 4 * LIMIT)],
)
@pytest.mark.parametrize("adaptation", [Full(), LoRA(rank=4)])
def test_the_export_is_stretched_alike(
    short_model: Path, tmp_path: Path, kind: str, positions: int, reach: int, adaptation: Any
) -> None:
    section = stretched(short_model, kind, adaptation)
    network = load_policy(section, 0)
    save_model(Policy(network, 1.0), section, tmp_path, write=True)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(opened, 200), logits(network, 200), atol=1e-5, rtol=0)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["max_position_embeddings"] == positions
    assert saved["rope_parameters"]["rope_type"] == kind
    original = saved["rope_parameters"].get("original_max_position_embeddings")
    assert original == (LIMIT if kind == "yarn" else None)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == reach
    with pytest.raises(ModelError, match="scaled already"):
        load_policy(section.model_copy(update={"path": str(tmp_path)}), 0)
