"""What is exported computes what the learner computes, for every kind of adapter.

Adapter weights are randomised first: an untrained adapter changes nothing, so it would prove
nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import make_batch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from medgpt_ray.config.schema import Full, LoRA, QLoRA
from medgpt_ray.config.supervised import SupervisedModel
from medgpt_ray.models.adapters import open_adapter
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.export import save_adapter, save_model
from medgpt_ray.models.load import causal_config, load_network, load_policy
from medgpt_ray.models.packing import Sequence, micro_batches
from medgpt_ray.models.policy import Policy, score
from medgpt_ray.models.quantised import dequantised

ADAPTERS = {
    "lora": LoRA(rank=4),
    "rslora": LoRA(rank=4, rslora=True),
    "dora": LoRA(rank=4, dora=True),
    "listed targets": LoRA(rank=4, target_modules=["q_proj", "down_proj"]),
    "whole embeddings": LoRA(rank=4, modules_to_save=("embed_tokens", "model.norm")),
    "whole head": LoRA(rank=4, modules_to_save=("lm_head",)),
    "qlora 4": QLoRA(rank=4),
    "qlora 4 dora": QLoRA(rank=4, dora=True),
    "qlora 8": QLoRA(rank=4, bits=8),
    "qlora 8 dora": QLoRA(rank=4, bits=8, dora=True),
    "qlora 8 whole head": QLoRA(rank=4, bits=8, modules_to_save=("lm_head",)),
}
NEW_TOKENS = ("<think>", "myocarditis")


@pytest.fixture(scope="session")
def untied_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an output head of its own."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=False)
    torch.manual_seed(3)
    torch.nn.init.normal_(model.lm_head.weight, std=0.05)
    path = tmp_path_factory.mktemp("untied") / "model"
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(path)
    return path


@pytest.fixture(params=["tied", "untied"])
def model(request: pytest.FixtureRequest, tiny_model: Path, untied_model: Path) -> Path:
    return tiny_model if request.param == "tied" else untied_model


def trained(section: SupervisedModel) -> Policy:
    """A policy whose every trainable weight has moved."""
    policy = Policy(load_policy(section, 0), 1.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return policy.eval()


def log_probs(policy: Policy, new_ids: tuple[int, ...] = ()) -> np.ndarray:
    batch = [Sequence(s.prompt_ids, s.completion_ids) for s in make_batch()]
    batch.append(Sequence((7, *new_ids, 9), (5, *new_ids, 6, *new_ids)))
    scored = score(policy, micro_batches(batch, max_tokens=1000, chunk_tokens=20))
    return np.concatenate([scored[index] for index in range(len(batch))])


def opened(directory: Path) -> Policy:
    network, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return Policy(network.eval(), 1.0)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_merged_export_computes_what_the_adapted_model_does(
    model: Path, tmp_path: Path, name: str
) -> None:
    section = SupervisedModel(path=str(model), dtype="float32", adaptation=ADAPTERS[name])
    policy = trained(section)
    before = log_probs(policy)
    save_model(policy, section, tmp_path, write=True)
    np.testing.assert_allclose(log_probs(opened(tmp_path)), before, atol=1e-4)
    np.testing.assert_array_equal(log_probs(policy), before)  # the learner was not touched
    assert np.abs(log_probs(opened(model)) - before).max() > 0.05


@pytest.mark.parametrize("name", ["lora", "whole embeddings", "whole head", "qlora 8 whole head"])
def test_tied_embeddings_stay_one_matrix(tiny_model: Path, tmp_path: Path, name: str) -> None:
    """An engine reads the embeddings for the head, whatever else the file holds."""
    section = SupervisedModel(path=str(tiny_model), dtype="float32", adaptation=ADAPTERS[name])
    policy = trained(section)
    save_model(policy, section, tmp_path, write=True)
    written = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in written
    original = load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(written["model.embed_tokens.weight"], original) == (name == "lora")


@pytest.mark.parametrize("adaptation", [Full(), LoRA(rank=4), QLoRA(rank=4), QLoRA(bits=8)])
def test_new_tokens_are_in_the_merged_export(model: Path, tmp_path: Path, adaptation: Any) -> None:
    section = SupervisedModel(
        path=str(model), dtype="float32", adaptation=adaptation, new_tokens=NEW_TOKENS
    )
    policy = trained(section)
    save_model(policy, section, tmp_path, write=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tuple(tokenizer.convert_tokens_to_ids(NEW_TOKENS))
    assert ids == (512, 513)
    assert tokenizer("a<think>b", add_special_tokens=False)["input_ids"][1] == 512
    exported = opened(tmp_path)
    assert exported.network.config.vocab_size == 514
    np.testing.assert_allclose(log_probs(exported, ids), log_probs(policy, ids), atol=1e-4)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_written_adapter_opens_on_the_base(model: Path, tmp_path: Path, name: str) -> None:
    section = SupervisedModel(path=str(model), dtype="float32", adaptation=ADAPTERS[name])
    policy = trained(section)
    save_adapter(policy, section, tmp_path, write=True)
    base = load_network(AutoModelForCausalLM, section, causal_config(section))
    again = Policy(open_adapter(base, tmp_path).eval(), 1.0)
    np.testing.assert_allclose(log_probs(again), log_probs(policy), atol=1e-5)


def test_a_run_starts_from_a_base_with_an_adapter_merged_into_it(
    model: Path, tmp_path: Path
) -> None:
    section = SupervisedModel(path=str(model), dtype="float32", adaptation=LoRA(rank=4))
    policy = trained(section)
    save_adapter(policy, section, tmp_path, write=True)
    merged = SupervisedModel(path=str(model), dtype="float32", adapter=str(tmp_path))
    again = Policy(load_policy(merged, 0).eval(), 1.0)
    assert not hasattr(again.network, "peft_config")
    np.testing.assert_allclose(log_probs(again), log_probs(policy), atol=1e-4)
    with pytest.raises(ValueError, match="cannot be merged into quantised"):
        SupervisedModel(path=str(model), adaptation=QLoRA(), adapter=str(tmp_path))


def test_a_written_adapter_brings_its_new_tokens(model: Path, tmp_path: Path) -> None:
    section = SupervisedModel(
        path=str(model), dtype="float32", adaptation=LoRA(rank=4), new_tokens=NEW_TOKENS
    )
    policy = trained(section)
    save_adapter(policy, section, tmp_path, write=True)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with pytest.raises(ModelError, match="does not fit the base: it has tokens"):
        open_adapter(base, tmp_path)
    base.resize_token_embeddings(len(AutoTokenizer.from_pretrained(tmp_path)))
    again = Policy(open_adapter(base, tmp_path).eval(), 1.0)
    ids = (512, 513)
    np.testing.assert_allclose(log_probs(again, ids), log_probs(policy, ids), atol=1e-4)


@pytest.mark.parametrize("change", [{"hidden_size": 96}, {"num_hidden_layers": 1}])
def test_an_adapter_of_another_model_is_refused(
    tiny_model: Path, tmp_path: Path, change: dict[str, int]
) -> None:
    from transformers import AutoConfig

    section = SupervisedModel(path=str(tiny_model), dtype="float32", adaptation=LoRA(rank=4))
    save_adapter(trained(section), section, tmp_path, write=True)
    other = AutoConfig.from_pretrained(tiny_model, **change)
    with pytest.raises(ModelError, match="an adapter that does not fit the base: it holds"):
        open_adapter(AutoModelForCausalLM.from_config(other), tmp_path)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_read_back_as_the_layer_uses_them(tiny_model: Path, bits: Any) -> None:
    section = SupervisedModel(
        path=str(tiny_model), dtype="float32", adaptation=QLoRA(rank=4, bits=bits)
    )
    layer = load_policy(section, 0).get_base_model().model.layers[0].mlp.up_proj.base_layer
    inputs = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        expected = inputs @ dequantised(layer).T
        with torch.no_grad():
            computed = layer.train(training)(inputs)
        torch.testing.assert_close(computed, expected, atol=1e-5, rtol=0)


def test_an_exported_configuration_says_how_the_weights_are_stored(
    tiny_model: Path, tmp_path: Path
) -> None:
    section = SupervisedModel(path=str(tiny_model), dtype="bfloat16", adaptation=QLoRA(rank=4))
    save_model(trained(section), section, tmp_path, write=True)
    network = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert network.dtype == torch.bfloat16
    assert not hasattr(network.config, "quantization_config")
    assert network.config.use_cache
