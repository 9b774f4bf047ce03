"""Golden values of the reference implementations (provenance inside golden.json)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medgpt_ray.algos.policy_loss import Normaliser, TokenBatch


@dataclass(frozen=True)
class Golden:
    inputs: dict[str, Tensor]
    """[8, 7], completions x padded tokens; `rewards` and `group` are [8]."""
    results: dict[str, Any]

    @property
    def mask(self) -> Tensor:
        return self.inputs["mask"].bool()

    def flat(self, name: str) -> Tensor:
        """[N] the input without its padding."""
        return self.inputs[name][self.mask]

    def advantages(self, name: str = "grpo/verl_std") -> Tensor:
        """[8]; some references repeat the advantage over the tokens."""
        values = torch.tensor(self.results[name])
        return values[:, 0] if values.ndim == 2 else values

    def batch(self, log_probs: Tensor) -> TokenBatch:
        """The whole golden batch as one micro-batch, given the padded policy log-probs [8, 7]."""
        sequence = torch.arange(8)[:, None].expand(8, 7)[self.mask]
        return TokenBatch(
            log_probs=log_probs[self.mask],
            old_log_probs=self.flat("old_logp"),
            rollout_log_probs=self.flat("rollout_logp"),
            reference_log_probs=None,
            advantages=self.advantages()[sequence],
            mask=torch.ones(len(sequence)),
            sequence=sequence,
            sequence_lengths=self.mask.sum(dim=1),
        )

    def normaliser(self, max_completion_tokens: int = 7) -> Normaliser:
        return Normaliser(int(self.mask.sum()), 8, max_completion_tokens)

    def assert_matches(self, name: str, loss: Tensor, log_probs: Tensor) -> None:
        """The loss and its gradient with respect to `log_probs` equal the reference's."""
        loss.backward()
        assert log_probs.grad is not None
        expected = self.results[name]
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)
        torch.testing.assert_close(
            log_probs.grad, torch.tensor(expected["grad"]), atol=1e-7, rtol=1e-5
        )


@pytest.fixture(scope="session")
def golden() -> Golden:
    content = json.loads(Path(__file__).with_name("golden.json").read_text())
    inputs = {name: torch.tensor(values) for name, values in content["inputs"].items()}
    return Golden(inputs, content["results"])
