"""Combinations that cannot run are refused, each by its own message."""

from typing import Any

import pytest
from pydantic import ValidationError

from medgpt_ray.config.schema import GrpoRun


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
    ],
)
def test_impossible_combinations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        run(**changes)


def test_the_bounds_themselves_are_possible() -> None:
    assert run(learner={"max_tokens_per_microbatch": 768}).learner.max_tokens_per_microbatch == 768
    assert run(learner={"workers": 128}).learner.workers == 128
