"""Settings from a file reach DeepSpeed, what the platform decides is refused, and every shipped
file trains.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from ranks import exported_weights, make_batch, run_ranks, step, weighted

from medgpt_ray.config.loader import SHIPPED
from medgpt_ray.config.schema import Learner, LoRA, Model
from medgpt_ray.config.supervised import SupervisedModel
from medgpt_ray.models.deepspeed import DeepSpeedError, deepspeed_config

FILES = sorted((SHIPPED / "deepspeed").glob("*.json"))
FLOAT = Model(path="somewhere", dtype="float32")


def stage_of(file: Path) -> int:
    return int(file.stem.removeprefix("zero")[0])


def written(path: Path, text: str) -> str:
    (path / "settings.json").write_text(text)
    return str(path / "settings.json")


def problems(file: str, stage: int) -> list[str]:
    with pytest.raises(DeepSpeedError) as caught:
        deepspeed_config(FLOAT, Learner(zero_stage=stage, deepspeed=file))
    return [problem.removeprefix(file) for problem in caught.value.problems]


def test_the_shipped_files() -> None:
    names = {"zero1", "zero2", "zero2-offload", "zero3", "zero3-offload"}
    assert {file.stem for file in FILES} == names


def test_a_file_is_laid_over_the_settings_of_the_section(tmp_path: Path) -> None:
    file = written(tmp_path, '{"zero_optimization": {"reduce_bucket_size": 77}, "aio": {"a": 1}}')
    made = deepspeed_config(FLOAT, Learner(zero_stage=2, deepspeed=file, max_grad_norm=0.5))
    zero = {"stage": 2, "overlap_comm": False, "reduce_bucket_size": 77}
    assert made["zero_optimization"] == zero
    assert made["aio"] == {"a": 1}
    assert made["gradient_clipping"] == 0.5


@pytest.mark.parametrize(
    ("dtype", "workers", "stage", "running"),
    [
        ("float32", 1, 1, 0),
        ("float32", 1, 2, 0),
        ("float32", 1, 3, 3),
        ("float32", 2, 1, 1),
        ("bfloat16", 1, 2, 2),
    ],
)
def test_one_float32_rank_shares_nothing_out(
    dtype: str, workers: int, stage: int, running: int
) -> None:
    model = Model.model_validate({"path": "somewhere", "dtype": dtype})
    made = deepspeed_config(
        model, Learner.model_validate({"workers": workers, "zero_stage": stage})
    )
    assert made["zero_optimization"]["stage"] == running
    assert made["gradient_clipping"] == (1.0 if running else 0.0)


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        ("train_batch_size", 32, "examples of one update"),
        ("train_micro_batch_size_per_gpu", 1, "learner.max_tokens_per_microbatch"),
        ("gradient_accumulation_steps", 8, "learner.max_tokens_per_microbatch"),
        ("gradient_clipping", 1.0, "learner.max_grad_norm"),
        ("optimizer", {"type": "Adam"}, "learner.optimizer"),
        ("scheduler", {"type": "WarmupLR"}, "learner.schedule"),
        ("bf16", {"enabled": True}, "model.dtype"),
        ("fp16", {"enabled": "auto"}, "model.dtype"),
    ],
)
def test_what_the_platform_decides_is_refused(
    tmp_path: Path, key: str, value: Any, instead: str
) -> None:
    file = written(tmp_path, json.dumps({"steps_per_print": 5, key: value}, indent=1))
    (problem,) = problems(file, 1)
    assert problem.startswith(f":3: {key}: is set from ")
    assert instead in problem
    assert problem.endswith("take it out of this file")


@pytest.mark.parametrize(
    ("settings", "stage", "problem"),
    [
        ({"zero_optimization": {"stage": 3}}, 2, ":3: stage: is 3, but learner.zero_stage is 2"),
        ({"zero_optimization": {"overlap_comm": True}}, 0, ":2: zero_optimization: has no effect"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, 2, ":3: offload_param: need"),
        (
            {"zero_optimization": {"reduce_bucket_size": "auto"}},
            2,
            ':3: reduce_bucket_size: is "au',
        ),
        ({"zero_optimization": None}, 2, ":2: zero_optimization: must be a section"),
        ({"zero_optimisation": {"stage": 2}}, 2, ":2: zero_optimisation: is not supported here"),
    ],
)
def test_settings_without_effect_are_refused(
    tmp_path: Path, settings: Any, stage: int, problem: str
) -> None:
    (found,) = problems(written(tmp_path, json.dumps(settings, indent=1)), stage)
    assert found.startswith(problem)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = json.dumps({"bf16": {}, "optimizer": {}, "zero_optimization": {"stage": 1}}, indent=1)
    assert len(problems(written(tmp_path, text), 2)) == 3


@pytest.mark.parametrize(
    ("text", "problem"), [('{\n"a": 1,,\n}', ":2: malformed JSON"), ("[]", ": must be a section")]
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems(written(tmp_path, text), 1)
    assert found.startswith(problem)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes("{}".encode("utf-16"))
    assert problems(str(tmp_path / "settings.json"), 1) == [": is not UTF-8, save it as UTF-8"]
    with pytest.raises(DeepSpeedError, match=r"learner\.deepspeed: nowhere\.json: no such file"):
        deepspeed_config(FLOAT, Learner(deepspeed="nowhere.json"))


@pytest.mark.parametrize(
    ("model", "stage"),
    [
        (Model(path="a", dtype="bfloat16"), 0),
        (Model(path="a", dtype="float32", adaptation=LoRA(dora=True)), 3),
        (SupervisedModel(path="a", dtype="float32", adaptation=LoRA(), new_tokens=("b",)), 3),
    ],
)
def test_stages_that_cannot_hold_a_model_are_refused(model: Model, stage: int) -> None:
    with pytest.raises(DeepSpeedError, match=f"learner.zero_stage: {stage} "):
        deepspeed_config(model, Learner(zero_stage=stage))


def test_paging_needs_a_gpu() -> None:
    with pytest.raises(ValidationError, match="use adamw_8bit"):
        Learner(optimizer="paged_adamw_8bit")


def train(model: Path, folder: Path) -> dict[str, Any]:
    """Of each shipped file and of the 8-bit optimiser: losses, whether the optimiser's states and
    the weights are offloaded, and the weights after two updates.
    """
    return {
        "none": updates(model, Learner(learning_rate=1e-3)),
        **{
            file.stem: updates(
                model,
                Learner(learning_rate=1e-3, zero_stage=stage_of(file), deepspeed=str(file)),
            )
            for file in FILES
        },
        "8 bit": updates(model, Learner(learning_rate=1e-3, optimizer="adamw_8bit")),
        "8 bit, stage 0": updates(
            model, Learner(learning_rate=1e-3, optimizer="adamw_8bit", zero_stage=0)
        ),
        "states": states(model, folder),
    }


def updates(model: Path, config: Learner) -> Any:
    subject = learner(model, config)
    losses = [step(subject, make_batch(), weighted)["loss"] for _ in range(2)]
    zero = subject.engine.zero_offload_optimizer(), subject.engine.zero_offload_param()
    offloaded = [section is not None and section.device == "cpu" for section in zero]
    return losses, offloaded, exported_weights(subject)


def learner(model: Path, config: Learner) -> Any:
    from medgpt_ray.models import learner as module
    from medgpt_ray.models.load import load_policy
    from medgpt_ray.models.policy import Policy

    section = Model(path=str(model), dtype="float32")
    return module.Learner(Policy(load_policy(section, 0), 1.0), section, config, 0)


def states(model: Path, folder: Path) -> Any:
    """Types of the states of the 8-bit optimiser, and an update with it before and after a save."""
    config = Learner(learning_rate=1e-3, optimizer="adamw_8bit")
    subject, again = learner(model, config), learner(model, config)
    step(subject, make_batch(), weighted)
    subject.save(folder)
    again.load(folder)
    held = subject.engine.basic_optimizer.state.values()
    types = {str(v.dtype) for state in held for v in state.values() if torch.is_tensor(v)}
    return types, *[step(it, make_batch(), weighted) for it in (subject, again)]


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_ranks(train, 1, tiny_model, tmp_path_factory.mktemp("checkpoint"))[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_file_trains_as_without_it(trained: dict[str, Any], file: Path) -> None:
    losses, offloaded, weights = trained[file.stem]
    expected_losses, _, expected = trained["none"]
    assert losses == pytest.approx(expected_losses, abs=1e-5)
    assert offloaded == ["offload" in file.stem, file.stem == "zero3-offload"]
    for name, tensor in weights.items():
        np.testing.assert_allclose(tensor, expected[name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("case", ["8 bit", "8 bit, stage 0"])
def test_an_8_bit_optimiser_learns_nearly_the_same(trained: dict[str, Any], case: str) -> None:
    losses, _, weights = trained[case]
    expected_losses, _, expected = trained["none"]
    assert losses == pytest.approx(expected_losses, abs=1e-3)
    assert losses[1] < losses[0] - 0.1
    distance = max(float(np.abs(weights[name] - expected[name]).max()) for name in expected)
    assert 0 < distance < 2e-3  # two updates of at most 1e-3 each


def test_an_8_bit_optimiser_keeps_bytes_and_resumes_exactly(trained: dict[str, Any]) -> None:
    types, straight, resumed = trained["states"]
    assert "torch.uint8" in types
    assert straight == resumed
