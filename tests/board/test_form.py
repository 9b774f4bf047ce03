"""The form knows every key of the schema, and the loader judges what it holds, all at once."""

from pathlib import Path

import pytest

from medgpt_ray.board import form
from medgpt_ray.config import keys
from medgpt_ray.config.document import Document
from medgpt_ray.config.loader import load
from medgpt_ray.config.presets import presets

PRESETS = {preset.name: preset.path for preset in presets()}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    texts = form.opened(PRESETS[name])
    tree, problems = form.tree_of(texts)
    document = Document(name, PRESETS[name].read_text(encoding="utf-8"))
    assert (tree, problems) == (document.values, [])
    assert form.check(texts, tmp_path / "form.yaml") == []
    assert load(tmp_path / "form.yaml").config == load(PRESETS[name]).config


@pytest.mark.parametrize("stage", keys.stages())
def test_every_key_of_a_stage_has_a_field(stage: str) -> None:
    """But for those inside lists, which are one field, and those of other variants."""
    found = {field.name for field in form.fields({"stage": stage})}
    for key in keys.every_key(stage):
        section = key.type.startswith(("a section", "section or"))
        if ".N." not in key.name and not key.when and not section:
            assert key.name in found, key


def test_a_choice_brings_its_fields() -> None:
    lora = {"stage": "sft", "model": {"adaptation": {"kind": "lora"}}}
    names = {field.name for field in form.fields(lora)}
    assert {"model.adaptation.kind", "model.adaptation.rank"} <= names
    assert "model.adaptation.bits" not in names
    lora["model"]["adaptation"]["kind"] = "qlora"  # type: ignore[index]
    assert "model.adaptation.bits" in {field.name for field in form.fields(lora)}
    full = {field.name for field in form.fields({"stage": "sft"})}
    assert "model.adaptation.rank" not in full


def test_all_mistakes_at_once_each_with_its_field(tmp_path: Path) -> None:
    texts = {
        "stage": "grpo",
        "steps": "-1",
        "model.dtype": "float23",
        "rewards": "- function: 3\n  wait: 2",
        "learner.workers": "{",
        "algorithm.name": "rlo",
        "learner.gpu": "1",
    }
    found = form.check(texts, tmp_path / "form.yaml")
    told = dict(found)
    assert set(told) == {
        "output_dir",
        "steps",
        "model.path",
        "model.dtype",
        "data.train",
        "rewards",
        "learner.workers",
        "algorithm.name",
        "learner.gpu",
    }
    assert told["steps"] == "expected an integer > 0, found -1"
    assert told["learner.workers"].startswith("malformed YAML")
    assert "did you mean" in told["learner.gpu"]
    assert [problem for name, problem in found if name == "rewards"] == [
        "rewards.0.function: expected text, found 3",
        "rewards.0.wait: unknown field, did you mean 'weight'?",
    ]


@pytest.mark.parametrize("text", ["12", "no", "a: b", "[x", "# y", "'", "null", "été 🩺", "1e-3"])
def test_text_needs_no_quotes(tmp_path: Path, text: str) -> None:
    texts = form.opened(PRESETS["tiny/grpo"]) | {"data.system_prompt": text}
    assert form.check(texts, tmp_path / "form.yaml") == []
    assert load(tmp_path / "form.yaml").config.data.system_prompt == text


def test_an_emptied_field_is_the_default(tmp_path: Path) -> None:
    texts = form.opened(PRESETS["tiny/sft"]) | {"learner.learning_rate": "  "}
    assert form.check(texts, tmp_path / "form.yaml") == []
    assert load(tmp_path / "form.yaml").config.learner.learning_rate == 2e-5
