"""Models that cannot be used are refused in words; what is asked for is what is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from medgpt_ray.config.schema import Full, GrpoRun, LoRA, Model, PpoRun, QLoRA
from medgpt_ray.config.supervised import DpoRun, SupervisedModel
from medgpt_ray.models import load
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.load import (
    attention_in_use,
    critic_model,
    load_frozen,
    load_policy,
    on_this_machine,
)
from medgpt_ray.models.packing import Sequence, micro_batches
from medgpt_ray.models.policy import Policy


def section(path: Path, **settings: Any) -> SupervisedModel:
    return SupervisedModel(path=str(path), dtype="float32", **settings)


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_an_adapter_is_no_model(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is a PEFT adapter"):
        load_policy(section(copy), 0)


def test_a_reward_model_is_no_policy(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="is a reward model"):
        load_policy(section(copy), 0)


def test_weights_that_lack_a_tensor_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load_policy(section(copy), 0)


@pytest.mark.parametrize(
    ("adaptation", "message"),
    [
        (
            LoRA(target_modules=["q_proj", "w_pack"]),
            r"target_modules: llama has no module 'w_pack'",
        ),
        (LoRA(target_modules=["embed_tokens"]), "embed_tokens is no linear layer"),
        (LoRA(target_modules=["q_proj", "lm_head"]), "shares its weight with the embeddings"),
        (LoRA(modules_to_save=("value_head",)), "modules_to_save: llama has no module"),
        (QLoRA(modules_to_save=("down_proj",)), "down_proj is quantised"),
        (QLoRA(bits=8, modules_to_save=("down_proj",)), "down_proj is quantised"),
    ],
)
def test_adapters_that_fit_nothing_are_refused(
    tiny_model: Path, adaptation: LoRA, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_policy(section(tiny_model, adaptation=adaptation), 0)


@pytest.mark.parametrize(
    ("adaptation", "trained"),
    [
        (LoRA(target_modules=["q_proj"]), {"lora_A", "lora_B"}),
        (LoRA(dora=True), {"lora_A", "lora_B", "lora_magnitude_vector"}),
        (LoRA(modules_to_save=("lm_head",)), {"lora_A", "lora_B", "modules_to_save"}),
    ],
)
def test_only_what_is_configured_is_trained(
    tiny_model: Path, adaptation: LoRA, trained: set[str]
) -> None:
    network = load_policy(section(tiny_model, adaptation=adaptation), 0)
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    assert {word for name in names for word in name.split(".") if word in trained} == trained
    assert all(any(word in name for word in trained) for name in names)
    targets = {name.split(".lora_")[0].rpartition(".")[2] for name in names if "lora_A" in name}
    everything = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert targets == ({"q_proj"} if adaptation.target_modules == ["q_proj"] else everything)


def test_adapters_scale_and_drop_as_configured(tiny_model: Path) -> None:
    settings = LoRA(rank=4, alpha=8, dropout=0.25)
    for adaptation, scale in ((settings, 2.0), (settings.model_copy(update={"rslora": True}), 4.0)):
        network = load_policy(section(tiny_model, adaptation=adaptation), 0)
        layer = network.get_base_model().model.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == scale
        assert layer.lora_dropout["default"].p == 0.25


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_smaller_and_close(tiny_model: Path, bits: Any) -> None:
    network = load_policy(section(tiny_model, adaptation=QLoRA(bits=bits)), 0)
    layer = network.get_base_model().model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.numel() * layer.weight.element_size() == 128 * 64 * bits // 8
    ids = torch.arange(5, 60)[None]
    whole = load_frozen(section(tiny_model))
    with torch.no_grad():
        error = (network.eval()(ids).logits - whole(ids).logits).abs().max().item()
    assert 0 < error < {4: 0.2, 8: 0.01}[bits]


@pytest.mark.parametrize("adaptation", [Full(), LoRA(rank=4), QLoRA(rank=4)])
def test_checkpointing_computes_again_in_the_backward_pass(
    tiny_model: Path, adaptation: Any
) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        network = load_policy(
            section(tiny_model, adaptation=adaptation, gradient_checkpointing=checkpointing), 0
        )
        layers = network.get_decoder().layers
        passes: list[Any] = []
        layers[0].mlp.act_fn.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        ids = torch.arange(5, 25)[None]
        network.train()(input_ids=ids, labels=ids).loss.backward()
        gradients.append([p.grad for p in network.parameters() if p.requires_grad])
        calls.append(len(passes))
    assert calls == [1, 2]
    torch.testing.assert_close(*gradients)


def test_sdpa_is_the_attention_in_use(tiny_model: Path) -> None:
    assert attention_in_use(load_policy(section(tiny_model), 0)) == "packed_sdpa"


@pytest.mark.parametrize(
    ("family", "told"),
    [("falcon", "falcon models have an attention"), ("bloom", "BloomForCausalLM")],
)
def test_a_family_that_cannot_read_rows_is_refused(copy: Path, family: str, told: str) -> None:
    shape = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 1, "n_layer": 1}
    heads = {"num_attention_heads": 4, "n_head": 4}
    AutoConfig.for_model(family, **shape, **heads).save_pretrained(copy)
    with pytest.raises(ModelError, match=f"^{copy}: .*{told}"):
        load_policy(section(copy), 0)


@pytest.mark.parametrize(
    ("family", "settings", "told"),
    [
        (
            "qwen3_next",
            {
                "num_experts": 2,
                "num_experts_per_tok": 1,
                "layer_types": ["linear_attention", "full_attention"],
            },
            "layers of linear_attention",
        ),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "layers of conv"),
        ("jamba", {"num_experts": 1, "attn_layer_period": 2, "attn_layer_offset": 1}, "layers "),
        ("gemma3_text", {"use_bidirectional_attention": True}, "attention in both directions"),
    ],
)
def test_layers_that_reach_over_the_end_of_a_sequence_are_refused(
    copy: Path, family: str, settings: dict[str, Any], told: str
) -> None:
    shape = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model(family, **shape, **settings)
    network = AutoModelForCausalLM.from_config(config)
    network.save_pretrained(copy)
    for empty in (False, True):
        with pytest.raises(ModelError, match=f"{family} models have {told}"):
            load_policy(section(copy), 0, empty=empty)
    (micro,) = micro_batches([Sequence((5, 6), (7,))], 100, 100)
    frozen = load_frozen(section(copy))  # one sequence at a time, as for a chat, it can be asked
    assert frozen(torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, 512)
    with pytest.raises(ModelError, match=f"{family} models have {told}"):
        Policy(frozen, 1.0)(micro)


def test_flash_attention_is_refused_where_it_cannot_run(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash = section(tiny_model, attention="flash_attention_2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="needs a GPU"):
        load_policy(flash, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the package flash-attn"):
        load_policy(flash, 0)
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ModelError, match="bfloat16 only"):
        load_policy(flash, 0)


def test_a_directory_without_an_adapter_is_named(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"^{tmp_path}: holds no adapter_config.json, so it is"):
        load_policy(section(tiny_model, adapter=str(tmp_path)), 0)


def test_the_reference_of_a_run_has_its_new_tokens(tiny_model: Path) -> None:
    settings = section(tiny_model, new_tokens=("<think>",))
    policy, reference = load_policy(settings, 0), load_frozen(settings)
    ids = torch.tensor([[5, 512, 9]])
    with torch.no_grad():
        torch.testing.assert_close(policy(ids).logits, reference(ids).logits)


def test_a_run_goes_to_its_actors_with_absolute_paths(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    config = GrpoRun.model_validate(
        {
            "stage": "grpo",
            "output_dir": "run",
            "steps": 1,
            "model": {"path": tiny_model.name},
            "data": {"train": "prompts.jsonl"},
            "rewards": [{"function": "a:b"}],
            "learner": {"deepspeed": "zero1.json"},
        }
    )
    resolved = on_this_machine(config)
    assert resolved.model.path == str(tiny_model)
    assert resolved.learner.deepspeed == str(tiny_model.parent / "zero1.json")
    assert resolved.model.dtype in ("float32", "bfloat16")
    assert isinstance(resolved.model, Model)


def test_the_reference_goes_to_its_workers_with_an_absolute_path(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    config = DpoRun.model_validate(
        {
            "stage": "dpo",
            "output_dir": "run",
            "model": {"path": tiny_model.name},
            "data": {"train": [{"path": "pairs.jsonl"}]},
            "reference": {"path": tiny_model.name},
        }
    )
    assert on_this_machine(config).reference.path == str(tiny_model)


def test_a_name_of_the_hub_is_read_from_its_cache(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    stored = tmp_path / "models--ward--tiny" / "snapshots" / ("a" * 40)
    shutil.copytree(tiny_model, stored)
    (tmp_path / "models--ward--tiny" / "refs").mkdir()
    (tmp_path / "models--ward--tiny" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load.resolve_model("ward/tiny") == stored
    assert load.resolve_model(f"ward/tiny@{'a' * 40}") == stored
    with pytest.raises(
        ModelError, match=r"ward/other: no such model directory \(.*\), and not to be had"
    ):
        load.resolve_model("ward/other")


def test_the_critic_starts_where_the_policy_does(tiny_model: Path, copy: Path) -> None:
    """With its adapter, and without it where it starts from another model."""
    run = {
        "stage": "ppo",
        "output_dir": "run",
        "steps": 1,
        "model": {"path": str(tiny_model), "adapter": "sft"},
        "data": {"train": "train.jsonl"},
        "rewards": [{"function": "a:b"}],
    }
    assert critic_model(PpoRun.model_validate(run)).adapter == "sft"
    other = PpoRun.model_validate(run | {"critic": {"path": str(copy)}})
    assert critic_model(other).adapter is None
