"""New tokens start as the mean of the pieces that they replace, and only they are trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medgpt_ray.config.schema import Full, LoRA
from medgpt_ray.config.supervised import SupervisedModel
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.export import save_model
from medgpt_ray.models.load import load_policy, load_tokenizer
from medgpt_ray.models.policy import Policy
from medgpt_ray.models.vocabulary import add_tokens, extend

TOKENS = ("<think>", "myocarditis", "心肌炎")


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def test_ids_follow_the_order_and_pieces_are_those_of_the_old_tokenizer(tokenizer: Any) -> None:
    old = {token: tokenizer(token, add_special_tokens=False)["input_ids"] for token in TOKENS}
    pieces = add_tokens(tokenizer, TOKENS)
    assert tokenizer.convert_tokens_to_ids(list(TOKENS)) == [512, 513, 514]
    assert {i: list(parts) for i, parts in pieces.items()} == {
        512: old["<think>"],
        513: old["myocarditis"],
        514: old["心肌炎"],
    }
    text = "Yes, myocarditis <think>心肌炎"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [i for i in ids if i >= 512] == [513, 512, 514]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("tied", [True, False])
def test_rows_start_as_means(tiny_model: Path, tokenizer: Any, tied: bool) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=tied)
    old = network.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        if not tied:
            network.lm_head.weight.normal_()
    old_head = network.lm_head.weight.detach().clone()
    pieces = add_tokens(tokenizer, TOKENS)
    extend(network, pieces)
    assert network.config.vocab_size == 515
    for weight, before in (
        (network.model.embed_tokens.weight, old),
        (network.lm_head.weight, old_head),
    ):
        assert weight.shape[0] == 515
        torch.testing.assert_close(weight[:512], before)
        for id, parts in pieces.items():
            torch.testing.assert_close(weight[id], before[list(parts)].mean(0))
    assert (network.lm_head.weight is network.model.embed_tokens.weight) == tied


def test_rows_of_a_padded_vocabulary_are_used(tiny_model: Path, tokenizer: Any) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_model)
    network.resize_token_embeddings(576)
    pieces = add_tokens(tokenizer, TOKENS)
    extend(network, pieces)
    weight = network.get_input_embeddings().weight
    assert weight.shape[0] == 576
    torch.testing.assert_close(weight[513], weight[list(pieces[513])].mean(0))


@pytest.mark.parametrize("token", ["<|end|>", " ", "<think>"])
def test_a_token_that_cannot_be_new_is_refused(tokenizer: Any, token: str) -> None:
    with pytest.raises(ModelError, match=r"model.new_tokens: .* leave it out"):
        add_tokens(tokenizer, ("<think>", token))


@pytest.mark.parametrize("adaptation", [LoRA(rank=4), Full()])
def test_the_next_stage_opens_the_longer_vocabulary(
    tiny_model: Path, tmp_path: Path, adaptation: Any
) -> None:
    first = SupervisedModel(
        path=str(tiny_model), dtype="float32", adaptation=adaptation, new_tokens=TOKENS
    )
    save_model(Policy(load_policy(first, 0), 1.0), first, tmp_path, write=True)
    second = SupervisedModel(path=str(tmp_path), dtype="float32", adaptation=adaptation)
    assert load_policy(second, 0).get_input_embeddings().weight.shape[0] == 515
    assert load_tokenizer(str(tmp_path)).convert_tokens_to_ids("myocarditis") == 513
    with pytest.raises(ModelError, match="already in the vocabulary"):
        load_policy(first.model_copy(update={"path": str(tmp_path)}), 0)


def test_adapters_train_the_rows_of_new_tokens_and_no_others(tiny_model: Path) -> None:
    from medgpt_ray.models.weights import iterate

    section = SupervisedModel(
        path=str(tiny_model), dtype="float32", adaptation=LoRA(rank=4), new_tokens=TOKENS
    )
    policy = Policy(load_policy(section, 0), 1.0)
    before = dict(iterate(policy, torch.float32))["model.embed_tokens.weight"].clone()
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.5)
    ids = torch.tensor([[7, 512, 9, 513, 514, 5, 8]])
    policy.network(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    after = dict(iterate(policy, torch.float32))["model.embed_tokens.weight"]
    changed = (after != before).any(-1).nonzero()[:, 0].tolist()
    assert changed == [512, 513, 514]
