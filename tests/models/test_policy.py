"""A policy's gradients against plain logits of the same network, whatever of it is trained."""

from pathlib import Path

import pytest
import torch
from ranks import make_batch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medgpt_ray.config.schema import Full, LoRA
from medgpt_ray.config.supervised import SupervisedModel
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.load import load_policy
from medgpt_ray.models.packing import micro_batches
from medgpt_ray.models.policy import Policy

TEMPERATURE = 0.5
TRAINED = {
    "all": {"adaptation": Full()},
    "lora": {"adaptation": LoRA(rank=4)},
    "lora, head": {"adaptation": LoRA(rank=4, modules_to_save=["lm_head"])},
    "lora, lora of the head": {"adaptation": LoRA(rank=4, target_modules=["q_proj", "lm_head"])},
    "lora, new tokens": {"adaptation": LoRA(rank=4), "new_tokens": ["<|dose|>"]},
}


@pytest.fixture(params=["tied", "untied"], scope="module")
def model(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model whose output head is the embeddings' weight, or one of its own."""
    path = tmp_path_factory.mktemp(request.param)
    tied = request.param == "tied"
    network = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=tied)
    if not tied:
        torch.nn.init.normal_(network.lm_head.weight, std=0.1)
    network.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(path)
    return path


@pytest.mark.parametrize("trained", TRAINED)
def test_gradients_are_those_of_plain_logits(model: Path, trained: str) -> None:
    section = SupervisedModel(path=str(model), dtype="float32", **TRAINED[trained])
    if trained == "lora, lora of the head" and model.name.startswith("tied"):
        with pytest.raises(ModelError, match="shares its weight with the embeddings"):
            load_policy(section, 0)
        return
    torch.manual_seed(0)
    network = load_policy(section, 0)
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for parameter in parameters.values():  # LoRA's B begins with zeros, which stop gradients
        parameter.data.add_(0.05 * torch.randn_like(parameter))

    def gradients() -> dict[str, torch.Tensor]:
        found = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        network.zero_grad()
        return found

    batch = make_batch()
    plain = torch.zeros(())
    for one in batch:
        ids = torch.tensor([one.prompt_ids + one.completion_ids])
        logits = network(ids).logits[0, len(one.prompt_ids) - 1 : -1] / TEMPERATURE
        chosen = logits.log_softmax(-1).gather(-1, torch.tensor(one.completion_ids)[:, None])[:, 0]
        plain = plain + (chosen * torch.from_numpy(one.fields["weight"])).sum()
    plain.backward()
    expected = gradients()

    packed = torch.zeros(())
    for micro in micro_batches(batch, max_tokens=40, chunk_tokens=5):
        log_probs, _ = Policy(network, TEMPERATURE)(micro)
        packed = packed + (log_probs * micro.fields["weight"]).sum()
    packed.backward()

    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(), expected, rtol=1e-4, atol=1e-4)
    assert any("lora_A" in name for name in expected) == ("lora" in trained)
