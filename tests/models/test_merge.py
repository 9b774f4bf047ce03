"""Merged models answer as base and adapter do together, whatever the adapter and the base are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from taught import copy
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from medgpt_ray.config.schema import LoRA, QLoRA
from medgpt_ray.config.supervised import RmRun, SftRun, SupervisedModel
from medgpt_ray.models.adapters import base_of
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.export import save_adapter, save_model
from medgpt_ray.models.load import load_policy
from medgpt_ray.models.merge import (
    compare,
    find_source,
    logits,
    open_adapted,
    open_tokenizer_of,
    starting_model,
    write_merged,
)
from medgpt_ray.models.policy import Policy
from medgpt_ray.models.reward import RewardModel, load_reward_model
from medgpt_ray.tracking.checkpoints import Checkpoints
from medgpt_ray.tracking.rundir import RunDirectory

ADAPTERS = [
    LoRA(rank=4),
    LoRA(rank=4, dora=True, modules_to_save=("embed_tokens",)),
    QLoRA(rank=4),
    QLoRA(rank=4, bits=8),
]


def write_run(base: Path, folder: Path, adaptation: Any, *, reward: bool) -> tuple[Path, Any]:
    """A run directory with an adapter whose every weight has moved, and the trained network."""
    new = [] if adaptation.modules_to_save else ["HbA1c"]
    model = SupervisedModel(path=str(base), dtype="float32", adaptation=adaptation, new_tokens=new)
    kind, stage = (RmRun, "rm") if reward else (SftRun, "sft")
    config = kind(
        stage=stage, output_dir=str(folder), model=model, data={"train": [{"path": "x.jsonl"}]}
    )
    run = RunDirectory.create(folder, config, "", {}, {})
    network = load_reward_model(model, 0) if reward else load_policy(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    wrapped = RewardModel(network) if reward else Policy(network, 1.0)
    checkpoints = Checkpoints(run.checkpoints)
    scratch = checkpoints.begin(3)
    save_model(wrapped, model, scratch / "model", write=True)
    save_adapter(wrapped, model, scratch / "adapter", write=True)
    run.publish_model(checkpoints.commit(3, {}))
    return folder, network.eval()


@pytest.mark.parametrize("reward", [False, True])
@pytest.mark.parametrize("adaptation", ADAPTERS)
def test_the_merged_model_of_a_run_answers_as_its_learner(
    tiny_model: Path, tmp_path: Path, adaptation: Any, reward: bool
) -> None:
    run, learner = write_run(tiny_model, tmp_path / "run", adaptation, reward=reward)
    source = find_source(str(run))
    assert source.reward is reward
    tokenizer = open_tokenizer_of(source)
    adapted = open_adapted(source, tokenizer)
    difference = write_merged(adapted, source, tokenizer, tmp_path / "merged")
    assert 0 <= difference < 1e-5
    kind = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    merged = kind.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    expected, base = logits(learner), logits(kind.from_pretrained(run / "model"))
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(base, expected, atol=1e-5, rtol=0)
    with learner.disable_adapter():
        assert (logits(learner) - expected).abs().max() > 1e-3  # the adapter does something
    written = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert written.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    assert ("HbA1c" in written.get_vocab()) is not bool(adaptation.modules_to_save)


def test_an_adapter_directory_finds_its_base_and_its_run(lora_run: Path, tmp_path: Path) -> None:
    adapter = lora_run / "checkpoints" / "step_1" / "adapter"
    inside, outside = find_source(str(adapter)), find_source(str(copy(adapter, tmp_path / "a")))
    assert inside.run is not None
    assert inside.run.path == lora_run
    assert outside.run is None
    answers = [
        logits(open_adapted(source, open_tokenizer_of(source))) for source in (inside, outside)
    ]
    # Rows of new tokens begin elsewhere and are trained whole, so both hold the adapter's.
    torch.testing.assert_close(answers[0], answers[1], atol=1e-5, rtol=0)


def test_an_adapter_on_an_adapter_brings_it_along(tiny_model: Path, tmp_path: Path) -> None:
    adaptation = LoRA(rank=4, modules_to_save=("embed_tokens",))
    first, _ = write_run(tiny_model, tmp_path / "sft", adaptation, reward=False)
    second = SupervisedModel(
        path=str(tiny_model),
        adapter=str(first / "checkpoints" / "step_3" / "adapter"),
        dtype="float32",
        adaptation=LoRA(rank=2),
    )
    network = load_policy(second, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.02
    save_adapter(Policy(network, 1.0), second, tmp_path / "dpo", write=True)
    expected = logits(network.eval())
    base, before = base_of(tmp_path / "dpo")
    assert (base, before) == (str(tiny_model), first / "checkpoints" / "step_3" / "adapter")
    alone = find_source(str(tmp_path / "dpo"))
    compare(expected, logits(open_adapted(alone, open_tokenizer_of(alone))), "alone")
    third = second.model_copy(update={"adapter": str(tmp_path / "dpo")})
    compare(expected, logits(load_policy(third, 1)), "as the start of another stage")
    without = open_adapted(replace(alone, model=third.model_copy(update={"adapter": None})), [])
    with pytest.raises(ModelError):
        compare(expected, logits(without), "without the first")
    elsewhere = second.model_copy(
        update={"adapter": str(tmp_path / "dpo"), "path": str(copy(tiny_model, tmp_path / "b"))}
    )
    with pytest.raises(ModelError, match=f"was trained on the adapter .* on {tiny_model}"):
        load_policy(elsewhere, 0)


@pytest.mark.parametrize(
    "odd",
    [{"temperature": 0.9, "top_p": 0.6}, {"temperature": 0.0}, {"do_sample": False, "top_k": 3}],
)
def test_generation_settings_that_are_not_to_be_written_are_kept(
    tiny_model: Path, tmp_path: Path, odd: dict[str, Any]
) -> None:
    base = copy(tiny_model, tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, **odd}))
    model = SupervisedModel(path=str(base), dtype="float32")
    save_model(Policy(load_policy(model, 0), 1.0), model, tmp_path / "saved", write=True)
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert {name: saved.get(name, False) for name in odd} == odd
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").can_generate()


def test_an_adapter_without_its_base_is_refused(lora_run: Path, tmp_path: Path) -> None:
    adapter = copy(lora_run / "checkpoints" / "step_1" / "adapter", tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    file.write_text(file.read_text().replace(starting_model(str(lora_run)).path, "/nowhere"))
    with pytest.raises(ModelError, match="base_model_name_or_path: /nowhere is no directory here"):
        find_source(str(adapter))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read as JSON: Expecting property name"),
        ("\xe9", "cannot be read as JSON: 'utf-8' codec"),
        ("[]", "is no object of JSON"),
        ("{}", "peft_type: is missing"),
        ('{"peft_type": "LORA"}', "r: is missing"),
        ('{"peft_type": "LORA", "r": 8}', "target_modules: is missing"),
        ('{"peft_type": "LORA", "r": "8"}', "r: cannot be '8'"),
        ('{"peft_type": "IA3", "base_model_name_or_path": 5}', "base_model.*: cannot be 5"),
    ],
)
def test_a_broken_adapter_config_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(text, encoding="latin-1")
    for reader in (lambda path: base_of(Path(path)), find_source):
        with pytest.raises(ModelError, match=f"^{file}: {told}.*: copy it whole, or write it anew"):
            reader(str(tmp_path))


@pytest.mark.parametrize("others", [0, 1])
def test_adapters_that_name_each_other_as_base_are_refused(tmp_path: Path, others: int) -> None:
    ring = [tmp_path / f"adapter-{number}" for number in range(others + 1)]
    for adapter, base in zip(ring, [*ring[1:], ring[0]], strict=True):
        adapter.mkdir()
        config = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}
        config["base_model_name_or_path"] = str(base)
        (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"{ring[-1]}.*{ring[0]} leads back to this adapter"):
        base_of(ring[0])


def test_a_model_without_adapter_is_its_own_source(taught_model: Path) -> None:
    source = find_source(str(taught_model))
    assert (source.adapter, source.run, source.reward) == (None, None, False)
    with pytest.raises(ModelError, match="no run that keeps an adapter"):
        starting_model(str(taught_model))


def test_a_difference_beyond_rounding_is_an_error(taught_model: Path, tmp_path: Path) -> None:
    """One weight of 100,000 is off by a thousandth of the largest."""
    directory = copy(taught_model, tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][3, 4] += 0.5
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    before = AutoModelForCausalLM.from_pretrained(taught_model)
    after = AutoModelForCausalLM.from_pretrained(directory)
    assert compare(logits(before), logits(before), "it") == 0
    largest = (logits(after) - logits(before)).abs().max().item()
    with pytest.raises(ModelError, match=f"differ by up to {largest:.3g}, rounding explains"):
        compare(logits(before), logits(after), "it")
    with pytest.raises(ModelError, match="differ by up to nan"):
        compare(logits(before), logits(after) * torch.nan, "it")
