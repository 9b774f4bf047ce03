"""The list of keys is the schema's own: what it says is what a file may say."""

import json

from pydantic import TypeAdapter

from medgpt_ray.config import keys
from medgpt_ray.config.run import RunConfig

BY_NAME = {key.name: key for key in keys.every_key("grpo")}


def test_every_key_has_its_type_default_and_text() -> None:
    assert BY_NAME["learner.workers"] == keys.Key(
        "learner.workers", "an integer > 0", "1", "Data-parallel ranks.", ""
    )
    assert BY_NAME["steps"].default is None
    assert BY_NAME["data.heldout"].default == "null"
    assert BY_NAME["learner.adam_betas"].default == "[0.9, 0.999]"
    assert BY_NAME["rewards.N.timeout_s"].default == "10.0"
    assert BY_NAME["sync.backend"].type == "one of shm, gloo, nccl, ipc"
    assert BY_NAME["algorithm.rollout_correction.cap"].when == "kind: truncate"
    assert BY_NAME["model.adaptation.rank"].when == "kind: lora or qlora"


def test_defaults_of_all_leaves_are_those_of_a_loaded_config() -> None:
    config = TypeAdapter(RunConfig).validate_python(
        {
            "stage": "grpo",
            "output_dir": "o",
            "steps": 1,
            "model": {"path": "m"},
            "data": {"train": "t"},
            "rewards": [{"function": "a:b"}],
        }
    )
    compared = 0
    for key in keys.every_key("grpo"):
        if key.default in (None, "") or key.when or key.name == "rewards":
            continue
        value = config.model_dump(mode="json")
        for part in key.name.split("."):
            value = value[0] if part == "N" else value[part]
        assert key.default == (value if isinstance(value, str) else json.dumps(value)), key.name
        compared += 1
    assert compared > 40


def test_of_all_stages_a_key_says_where_it_exists() -> None:
    found = {(key.name, key.default): key.when for key in keys.every_key()}
    assert found["output_dir", None] == ""
    assert found["algorithm.rollout_correction.cap", "2.0"] == "stage: grpo or ppo, kind: truncate"
    assert found["objective.margin", "1.0"] == "stage: dpo, kind: simpo"
    assert found["learner.learning_rate", "1e-06"] == "stage: grpo or ppo"
    assert found["learner.learning_rate", "5e-07"] == "stage: dpo or kto"


def test_tags_of_unions_are_no_part_of_a_key() -> None:
    assert keys.dotted(("grpo", "model", "adaptation", "lora", "rank")) == (
        "model",
        "adaptation",
        "rank",
    )
    assert keys.dotted(
        ("sft", "model", "adaptation", "lora", "target_modules", "list[str]", 0)
    ) == (
        "model",
        "adaptation",
        "target_modules",
    )
    assert keys.dotted(("grpo", "rewards", 1, "weigth")) == ("rewards", 1, "weigth")
