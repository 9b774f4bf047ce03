"""A row of several sequences is computed as each of them alone, whatever the model's family."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from medgpt_ray.models.attention import PACKED, spans_of
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.packing import Sequence, micro_batches
from medgpt_ray.models.policy import Policy, score

SYSTEM = tuple(range(10, 34))
BATCH = [
    Sequence((*SYSTEM, 41, 42, 43), (44, 45, 46, 47)),
    Sequence((*SYSTEM, 51, 52), (53,)),
    Sequence((*SYSTEM, 51, 52), (54, 55)),
    Sequence((61, 62), tuple(range(63, 90))),
]
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "mistral": {**SHAPE, "sliding_window": 8},
    "qwen2": SHAPE,
    "qwen3": {**SHAPE, "head_dim": 8},
    "gemma": {**SHAPE, "head_dim": 8},
    "gemma3_text": {**SHAPE, "head_dim": 8, "sliding_window": 8},
    "phi": SHAPE,
    "phi3": {**SHAPE, "sliding_window": 8},
    "glm": {**SHAPE, "head_dim": 8},
    "gpt2": GPT2,
    "gpt_neox": SHAPE,
    "olmo2": SHAPE,
    "granite": SHAPE,
    "smollm3": SHAPE,
}
"""Windows of 8 tokens end inside of what is shared and reach over the ends of runs."""


def network(family: str, attention: str) -> Any:
    config = AutoConfig.for_model(family, **FAMILIES.get(family, SHAPE))
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return made


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_computed_as_its_sequences_alone(family: str) -> None:
    found = score(Policy(network(family, PACKED), 1.0), micro_batches(BATCH, 1000, 1000))
    plain = network(family, "eager")
    for index, sequence in enumerate(BATCH):
        row = torch.tensor([sequence.prompt_ids + sequence.completion_ids])
        logits = plain(row).logits[0, len(sequence.prompt_ids) - 1 : -1].log_softmax(-1)
        expected = logits.gather(-1, torch.tensor(sequence.completion_ids)[:, None])[:, 0]
        np.testing.assert_allclose(found[index], expected, atol=5e-5)


def test_layers_that_drop_the_runs_are_refused() -> None:
    """Those of StableLM: they would attend to all of the row, and the loss would still fall."""
    (micro,) = micro_batches(BATCH, 1000, 1000)
    with pytest.raises(ModelError, match="stablelm"):
        Policy(network("stablelm", PACKED), 1.0)(micro)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_answers_of_one_prompt_are_attended_from_together(family: str) -> None:
    """As many as have the prompt's tokens: four of 5 to one of 24, and the fifth by itself."""
    batch = [Sequence(SYSTEM, (40 + n, 41, 42, 43, 44 + n)) for n in range(5)]
    (micro,) = micro_batches(batch, 1000, 1000)
    spans = spans_of(micro.runs)
    assert [span.lengths for span in spans] == [[24], [5] * 4, [5]]
    policy = Policy(network(family, PACKED), 1.0)
    together = score(policy, [micro])
    for index, sequence in enumerate(batch):
        alone = score(policy, micro_batches([sequence], 1000, 1000))[0]
        np.testing.assert_allclose(together[index], alone, atol=1e-5)
