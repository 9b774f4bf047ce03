"""Combinations that cannot run are refused, each by its own message."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from medgpt_ray.config import run as _all_sections  # noqa: F401
from medgpt_ray.config.schema import GrpoRun
from medgpt_ray.config.section import Section
from medgpt_ray.config.supervised import DpoRun, KtoRun, Validation


def run(**changes: Any) -> GrpoRun:
    return GrpoRun.model_validate(
        {
            "stage": "grpo",
            "output_dir": "runs/x",
            "steps": 1,
            "model": {"path": "m"},
            "data": {"train": "t.jsonl"},
            "rewards": [{"function": "a.b:c"}],
        }
        | changes
    )


def test_the_minimal_run_is_valid_and_immutable() -> None:
    config = run()
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": {"max_tokens_per_microbatch": 767}}, "one sequence would not fit"),
        ({"learner": {"workers": 129}}, "more than the samples of an update"),
        ({"sync": {"backend": "ipc"}}, "needs learner.gpus and rollout.gpus"),
        (
            {
                "learner": {"zero_stage": 3},
                "model": {"path": "m", "adaptation": {"kind": "qlora"}},
            },
            "cannot shard bitsandbytes weights",
        ),
        ({"rewards": [{"function": "a:s"}, {"function": "b:s"}]}, "2 functions are called 's'"),
        ({"rewards": [{"function": "a:reward"}]}, "called 'reward', as metrics of the run are"),
        (
            {"algorithm": {"prompts_per_step": 4, "minibatches_per_step": 3}},
            "must divide prompts_per_step",
        ),
        (
            {"algorithm": {"rollout_correction": {"kind": "mask", "low": 2, "high": 1}}},
            "must be less than high",
        ),
        (
            {"algorithm": {"rollout_correction": {"kind": "sequence_mask", "low": 2}}},
            "must be less than high",
        ),
        ({"rollout": {"colocated": True, "workers": 2}}, "one engine beside each policy worker"),
        ({"rollout": {"colocated": True, "max_workers": 1}}, "leave out rollout.max_workers"),
        ({"rollout": {"colocated": True, "gpus": 1}}, "must both be set, or neither"),
        (
            {"rollout": {"colocated": True}, "algorithm": {"max_staleness": 1}},
            "when colocated engines sleep",
        ),
    ],
)
def test_impossible_combinations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        run(**changes)


def test_simpo_has_no_reference() -> None:
    made = {
        "stage": "dpo",
        "output_dir": "runs/x",
        "model": {"path": "m"},
        "data": {"train": [{"path": "t.jsonl"}]},
        "objective": {"kind": "simpo"},
        "learner": {"max_tokens_per_microbatch": 2048},
    }
    DpoRun.model_validate(made | {"reference": {"path": None}})
    with pytest.raises(ValidationError, match="simpo has none, leave it out"):
        DpoRun.model_validate(made | {"reference": {"precompute": True}})


def test_kto_needs_two_examples_in_a_step() -> None:
    made = {
        "stage": "kto",
        "output_dir": "runs/x",
        "model": {"path": "m"},
        "data": {"train": [{"path": "t.jsonl"}]},
    }
    KtoRun.model_validate(made | {"examples_per_step": 2})
    with pytest.raises(ValidationError, match="answers of the other examples of a step"):
        KtoRun.model_validate(made | {"examples_per_step": 1})


def test_patience_counts_validations_in_between() -> None:
    with pytest.raises(ValidationError, match="patience needs every_steps"):
        Validation(share=0.1, patience=2)


@pytest.mark.parametrize("setting", [{"every_steps": 5}, {"patience": 2, "every_steps": 5}])
def test_settings_of_a_validation_without_rows(setting: dict[str, int]) -> None:
    Validation.model_validate(setting | {"share": 0.1})
    with pytest.raises(ValidationError, match="needs validation rows: set share or path"):
        Validation.model_validate(setting)


def test_the_bounds_themselves_are_possible() -> None:
    assert run(learner={"max_tokens_per_microbatch": 768}).learner.max_tokens_per_microbatch == 768
    assert run(learner={"workers": 128}).learner.workers == 128


def sections() -> Iterator[type[Section]]:
    waiting = [Section]
    while waiting:
        children = waiting.pop().__subclasses__()
        waiting += children
        yield from children


def test_a_section_given_in_part_keeps_its_defaults() -> None:
    """A default with settings of its own would be lost as soon as one key is written."""
    checked = 0
    for section in sections():
        for name, field in section.model_fields.items():
            if isinstance(field.default, Section):
                assert not field.default.model_fields_set, f"{section.__name__}.{name}"
                checked += 1
    assert checked > 20


@pytest.mark.parametrize("name", ["rloo", "reinforce_pp"])
def test_a_kl_coefficient_alone_stays_in_the_reward(name: str) -> None:
    kl = run(algorithm={"name": name, "kl": {"coefficient": 0.3}}).algorithm.kl
    assert (kl.coefficient, kl.estimator, kl.placement) == (0.3, "k1", "reward")
