"""What the roles are told when they start."""

from types import SimpleNamespace
from typing import Any

import pytest

from medgpt_ray.actors.cluster import _start
from medgpt_ray.config.schema import PpoRun


class Group:
    """Learners, without processes."""

    def start(self, total_updates: int) -> dict[str, Any]:
        self.total_updates = total_updates
        return {}


@pytest.mark.parametrize(("warm_up", "updates"), [(0, 30), (4, 18), (10, 3)])
def test_the_policy_is_told_the_updates_that_it_will_make(warm_up: int, updates: int) -> None:
    """Or its learning rate would not come down to zero; the critic learns in the warm-up too."""
    config = PpoRun.model_validate(
        {
            "stage": "ppo",
            "output_dir": "run",
            "steps": 10,
            "model": {"path": "m"},
            "data": {"train": "t.jsonl"},
            "rewards": [{"function": "a:b"}],
            "algorithm": {
                "critic_warmup_steps": warm_up,
                "minibatches_per_step": 3,
                "prompts_per_step": 3,
            },
        }
    )
    policy, critic = Group(), Group()
    spawner: Any = SimpleNamespace(learner=lambda _: critic, all=lambda _: {})
    _start(config, spawner, policy, {})  # type: ignore[arg-type]
    assert (policy.total_updates, critic.total_updates) == (updates, 30)
