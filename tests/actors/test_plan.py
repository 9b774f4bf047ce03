"""Sizes are those of the real model; roles and ZeRO stages divide them as they should."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from medgpt_ray.actors.plan import GIB, MIB, ModelFacts, Plan, PlanError, Role, plan
from medgpt_ray.config.schema import GrpoRun, LoRA
from medgpt_ray.models.load import resolve_dtype


def run(model: dict[str, Any] | None = None, **sections: Any) -> GrpoRun:
    return GrpoRun.model_validate(
        {
            "stage": "grpo",
            "output_dir": "runs/x",
            "steps": 1,
            "model": {"path": "m", "dtype": "float32"} | (model or {}),
            "data": {"train": "t.jsonl"},
            "rewards": [{"function": "a:b"}],
        }
        | sections
    )


def role(planned: Plan, name: str) -> Role:
    return next(role for role in planned.roles if role.name == name)


@pytest.fixture(scope="module")
def facts(tiny_model: Path) -> ModelFacts:
    return ModelFacts.from_directory(tiny_model)


def test_facts_are_those_of_the_loaded_model(tiny_model: Path, facts: ModelFacts) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert facts.parameters == model.num_parameters()
    assert facts.largest_tensor == max(p.numel() for p in model.parameters())
    assert set(facts.linear) == {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    assert (facts.hidden, facts.layers, facts.heads, facts.kv_heads) == (64, 2, 2, 1)
    assert (facts.head_size, facts.vocabulary) == (32, model.config.vocab_size)
    assert facts.kv_numbers_per_token == 2 * 2 * 1 * 32


def test_colocated_engines_share_the_bundles_of_the_policy(facts: ModelFacts) -> None:
    planned = plan(
        run(
            learner={"workers": 2, "cpus": 2, "gpus": 1},
            rollout={"workers": 2, "cpus": 3, "gpus": 1, "colocated": True},
            algorithm={"kl": {"coefficient": 0.1}},
        ),
        facts,
    )
    policy, reference, rollout = (
        role(planned, name) for name in ("policy", "reference", "rollout")
    )
    assert planned.bundles() == [{"CPU": 3, "GPU": 1}] * 2 + [{"CPU": 2, "GPU": 1}] * 2
    assert (planned.cpus, planned.gpus) == (10, 4)
    assert [planned.bundle(policy, n) for n in range(2)] == [0, 1]
    assert [planned.bundle(rollout, n) for n in range(2)] == [0, 1]
    assert [planned.bundle(reference, n) for n in range(2)] == [2, 3]
    assert planned.reserved(policy) == planned.reserved(rollout) == (1.5, 0.5)
    assert planned.reserved(reference) == (2, 1)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_adapters_are_as_large_as_those_of_peft(
    tiny_model: Path, facts: ModelFacts, targets: Any
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    expected = adapted.get_nb_trainable_parameters()[0]
    assert facts.adapter_parameters(LoRA(rank=4, target_modules=targets)) == expected


def test_modules_that_are_trained_whole_count(tiny_model: Path, facts: ModelFacts) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    peft = LoraConfig(r=4, task_type="CAUSAL_LM", **settings)
    expected = get_peft_model(model, peft).get_nb_trainable_parameters()[0]
    assert facts.adapter_parameters(LoRA(rank=4, **settings)) == expected


def test_a_target_that_the_model_lacks_is_named(facts: ModelFacts) -> None:
    with pytest.raises(PlanError, match=r"'query' names no linear layer .* q_proj"):
        facts.adapter_parameters(LoRA(target_modules=["q_proj", "query"]))


def test_full_training_takes_what_adam_really_takes(tiny_model: Path, facts: ModelFacts) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimizer.step()
    weights = sum(p.nbytes for p in model.parameters())
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if value.numel() > 1
    )
    memory = role(plan(run(), facts), "policy").memory
    assert (memory.weights, memory.gradients, memory.optimizer) == (weights, gradients, moments)
    small = role(plan(run(learner={"optimizer": "adamw_8bit"}), facts), "policy").memory
    assert small.optimizer == moments / 4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_about_what_autograd_keeps(
    tiny_model: Path, facts: ModelFacts, checkpointing: bool
) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=torch.float32, attn_implementation="sdpa"
    )
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = 768
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.get_decoder()(
            input_ids=torch.zeros((1, tokens), dtype=torch.long), use_cache=False
        ).last_hidden_state
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    measured = sum(size for pointer, size in kept.items() if pointer not in weights)
    assert hidden.requires_grad
    config = run(
        {"gradient_checkpointing": checkpointing},
        learner={"max_tokens_per_microbatch": tokens, "projection_chunk_tokens": 1},
    )
    estimate = role(plan(config, facts), "policy").memory.activations - tokens**2
    if checkpointing:  # the layer that is recomputed is not kept in the forward pass
        plain = role(plan(run(learner=config.learner.model_dump()), facts), "policy").memory
        estimate -= (plain.activations - tokens**2) // facts.layers
    assert 0.5 * measured < estimate < 2 * measured


def test_zero_divides_optimizer_then_gradients_then_weights(facts: ModelFacts) -> None:
    def memory(stage: int) -> tuple[int, int, int]:
        config = run(learner={"workers": 4, "zero_stage": stage})
        found = role(plan(config, facts), "policy").memory
        return found.weights, found.gradients, found.optimizer

    weights, gradients, optimizer = memory(0)
    assert memory(1) == (weights, gradients, optimizer // 4)
    assert memory(2) == (weights, gradients // 4, optimizer // 4)
    assert memory(3) == (weights // 4, gradients // 4, optimizer // 4)


def test_bfloat16_halves_weights_and_adds_master_weights(facts: ModelFacts) -> None:
    memory = role(plan(run({"dtype": "bfloat16"}), facts), "policy").memory
    assert memory.weights == 2 * facts.parameters
    assert memory.optimizer == 12 * facts.parameters


def test_auto_is_what_the_learner_will_take(facts: ModelFacts) -> None:
    chosen = 2 if resolve_dtype("auto", gpus=0) == "bfloat16" else 4
    for gpus, size in ((0, chosen), (1, 2)):
        planned = plan(
            run({"dtype": "auto"}, learner={"gpus": gpus}, rollout={"gpus": gpus}), facts
        )
        assert role(planned, "policy").memory.weights == size * facts.parameters
        assert role(planned, "rollout").memory.weights == size * facts.parameters


def test_adapters_train_alone_and_quantised_weights_shrink(facts: ModelFacts) -> None:
    lora = LoRA(rank=2)
    trained = facts.adapter_parameters(lora)
    memory = role(plan(run({"adaptation": {"kind": "lora", "rank": 2}}), facts), "policy").memory
    assert memory.weights == 4 * (facts.parameters + trained)
    assert (memory.gradients, memory.optimizer) == (4 * trained, 8 * trained)
    config = run({"adaptation": {"kind": "qlora", "rank": 2}})
    quantised = role(plan(config, facts), "policy").memory.weights
    linear = sum(outputs * inputs for outputs, inputs in facts.linear.values())
    assert memory.weights - quantised == pytest.approx(linear * (4 - 0.516), rel=0.01)
    config = run({"adaptation": {"kind": "qlora", "rank": 2, "bits": 8}})
    assert role(plan(config, facts), "policy").memory.weights - quantised == linear // 2


def test_a_reference_exists_only_for_a_penalty_on_full_training(facts: ModelFacts) -> None:
    kl = {"algorithm": {"kl": {"coefficient": 0.1}}}
    full = plan(run(learner={"workers": 2}, **kl), facts)
    assert [role.name for role in full.roles] == ["policy", "reference", "rollout"]
    reference = role(full, "reference")
    assert reference.workers == 2
    assert reference.memory.weights == 4 * facts.parameters
    assert reference.memory.optimizer == reference.memory.gradients == 0
    adapted = plan(run({"adaptation": {"kind": "lora"}}, **kl), facts)
    assert [role.name for role in adapted.roles] == ["policy", "rollout"]
    assert [role.name for role in plan(run(), facts).roles] == ["policy", "rollout"]


def test_rollout_holds_its_cache_and_buckets_hold_the_largest_tensor(facts: ModelFacts) -> None:
    config = run(rollout={"kv_cache_gib": 0.5, "dtype": "bfloat16"}, sync={"bucket_mib": 3})
    memory = role(plan(config, facts), "rollout").memory
    assert memory.kv_cache == GIB // 2
    assert memory.weights == 2 * facts.parameters
    assert memory.sync_buffer == 2 * 3 * MIB
    assert memory.total == sum(vars(memory).values())
    wide = ModelFacts(**vars(facts) | {"largest_tensor": 10 * MIB})
    assert role(plan(config, wide), "rollout").memory.sync_buffer == 2 * 10 * MIB * 2


def test_bundles_are_one_for_each_worker(facts: ModelFacts) -> None:
    planned = plan(
        run(
            learner={"workers": 2, "cpus": 4, "gpus": 1},
            rollout={"workers": 3, "cpus": 0.5},
        ),
        facts,
    )
    assert planned.bundles() == [{"CPU": 4, "GPU": 1}] * 2 + [{"CPU": 0.5}] * 3
    assert (planned.cpus, planned.gpus) == (9.5, 2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "cannot be read"),
        (lambda d: (d / "config.json").write_text("{"), "cannot be read"),
        (lambda d: (d / "config.json").write_text("[]"), "holds no JSON object"),
        (lambda d: (d / "config.json").write_text(json.dumps({"n_head": 2})), "hidden_size: exp"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\0" * 99), "broken weights file"),
        (lambda d: (d / "model.safetensors").unlink(), "holds no"),
    ],
)
def test_a_damaged_directory_is_named(
    tiny_model: Path, tmp_path: Path, damage: Any, message: str
) -> None:
    directory = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    damage(directory)
    with pytest.raises(PlanError, match=message):
        ModelFacts.from_directory(directory)
