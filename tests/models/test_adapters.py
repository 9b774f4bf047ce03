"""LoRA whose product is added in place is PEFT's own: outputs, gradients, adapters switched off."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from medgpt_ray.config.schema import LoRA
from medgpt_ray.models.adapters import adapt, add_in_place

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {"llama": LlamaConfig(**SHAPE), "qwen2, whose layers have biases": Qwen2Config(**SHAPE)}
ADAPTATIONS = {
    "plain": LoRA(rank=4, alpha=24),
    "dropout": LoRA(rank=4, dropout=0.3),
    "rslora": LoRA(rank=4, rslora=True),
    "dora": LoRA(rank=4, dora=True),
}


def passed(config: Any, adaptation: LoRA, in_place: bool, dtype: torch.dtype, rows: int) -> Any:
    """(logits, logits with the adapters off, gradients by name)"""
    torch.manual_seed(0)
    network = adapt(AutoModelForCausalLM.from_config(config), adaptation, seed=1).to(dtype)
    torch.manual_seed(2)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    if in_place:
        add_in_place(network)
    ids = torch.randint(0, 97, (rows, 20))
    logits = network(ids).logits
    logits.float().log_softmax(-1)[..., 3].sum().backward()
    with torch.no_grad(), network.disable_adapter():
        off = network(ids).logits
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    return logits.detach(), off, gradients


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("kind", ADAPTATIONS)
@pytest.mark.parametrize("rows", [1, 3])
def test_in_place_is_the_same(family: str, kind: str, rows: int) -> None:
    settings = CONFIGS[family], ADAPTATIONS[kind]
    logits, off, gradients = passed(*settings, True, torch.float32, rows)
    expected, expected_off, expected_gradients = passed(*settings, False, torch.float32, rows)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(logits, expected, **close)
    torch.testing.assert_close(off, expected_off, atol=0, rtol=0)
    assert not torch.allclose(logits, off, **close)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        difference = (gradients[name] - gradient).abs().max()
        assert difference <= 1e-5 * gradient.abs().max(), name


@pytest.mark.parametrize("family", CONFIGS)
def test_in_place_in_bfloat16_is_no_less_exact(family: str) -> None:
    settings = CONFIGS[family], ADAPTATIONS["plain"]
    _, _, exact = passed(*settings, True, torch.float32, 1)

    def error(in_place: bool) -> float:
        _, _, gradients = passed(*settings, in_place, torch.bfloat16, 1)
        return sum(float((gradients[name] - exact[name]).square().sum()) for name in exact)

    assert error(True) <= 1.5 * error(False)


def test_in_place_nothing_is_scaled_or_added_that_is_as_large_as_the_output() -> None:
    """What it is for: PEFT's own goes through [tokens, out] twice more for every layer."""

    def passes(in_place: bool) -> int:
        with torch.profiler.profile(record_shapes=True) as profile:
            passed(CONFIGS["llama"], ADAPTATIONS["plain"], in_place, torch.float32, 1)
        sizes = [[1, 20, 48], [1, 20, 32], [1, 20, 16]]
        return sum(
            event.name in ("aten::mul", "aten::add") and event.input_shapes[0] in sizes
            for event in profile.events()
        )

    layers = 2 * 7
    assert passes(False) - passes(True) >= 3 * layers  # one product and one sum, one product back
