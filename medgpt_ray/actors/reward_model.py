"""Reward models as actors: frozen, they score completions in their own words.

The policy's text is rendered anew with the reward model's own tokenizer and chat template, so the
two may be of different families.
"""

import os
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from medgpt_ray.actors.logs import log_to
from medgpt_ray.actors.wait import wait
from medgpt_ray.config.schema import Model, RlRun
from medgpt_ray.models.packing import Sequence
from medgpt_ray.types import RewardFailure, Sample

NAME = "reward_model"
"""Its part of a reward, and its row in the plan."""


@ray.remote
class RewardModelWorker:
    """One copy of the reward model."""

    def __init__(self, config: RlRun, number: int, log: str) -> None:
        import torch

        from medgpt_ray.models.load import load_tokenizer
        from medgpt_ray.models.reward import RewardModel, load_scorer

        log_to(log)
        assert config.reward_model is not None
        self.section, self.learner = config.reward_model, config.learner
        torch.set_num_threads(self.section.threads)
        self.device = torch.device("cuda" if self.section.gpus else "cpu")
        self.tokenizer = load_tokenizer(self.section.path)
        network = load_scorer(Model(path=self.section.path, dtype=self.section.dtype))
        self.model = RewardModel(network).to(self.device)

    def ready(self) -> dict[str, int]:
        return {"pid": os.getpid()}

    def score(self, dialogues: Seq[Seq[dict[str, Any]]]) -> list[float | str]:
        """A score for each conversation that ends with the assistant, or why it has none."""
        import torch

        from medgpt_ray.models.packing import micro_batches

        scores: list[float | str] = [0.0] * len(dialogues)
        sequences, places = [], []
        for place, messages in enumerate(dialogues):
            ids = self.tokenizer.apply_chat_template(list(messages), return_dict=False)
            if len(ids) > self.section.max_tokens:
                scores[place] = (
                    f"{len(ids)} tokens are more than reward_model.max_tokens "
                    f"({self.section.max_tokens})"
                )
                continue
            sequences.append(Sequence(tuple(ids[:-1]), tuple(ids[-1:])))
            places.append(place)
        if not sequences:
            return scores
        with torch.no_grad():
            for micro in micro_batches(sequences, self.section.max_tokens, 1):
                values = self.model(micro.to(self.device))[0].tolist()
                for index, value in zip(micro.index, values, strict=True):
                    finite = bool(np.isfinite(value))
                    scores[places[index]] = value if finite else f"scored {value}, not finite"
        return scores


class RewardModelPool:
    """All copies; each scores a stretch of the samples."""

    def __init__(self, workers: list[Any], config: RlRun) -> None:
        assert config.reward_model is not None
        self.workers, self.section = workers, config.reward_model
        self.seconds = config.deadlines.learn

    def add_scores(self, groups: Seq[Seq[Sample]]) -> list[list[Sample]]:
        """The groups with the score as one more part of each reward."""
        flat = [sample for group in groups for sample in group]
        dialogues = [
            [*s.prompt.messages, {"role": "assistant", "content": s.completion.text}] for s in flat
        ]
        size = -(-len(flat) // len(self.workers))
        calls = {
            f"reward model worker {number}": worker.score.remote(dialogues[start : start + size])
            for number, (worker, start) in enumerate(
                zip(self.workers, range(0, len(flat), size), strict=False)
            )
        }
        answers = wait(calls, self.seconds, "reward model scores")
        scores = iter([score for name in calls for score in answers[name]])
        return [[self._with(sample, next(scores)) for sample in group] for group in groups]

    def _with(self, sample: Sample, score: float | str) -> Sample:
        if isinstance(score, str):
            completion = sample.completion
            failure = RewardFailure(NAME, completion.prompt_id, completion.index, score)
            return replace(sample, failure=sample.failure or failure)
        parts = {**sample.reward_parts, NAME: score}
        return replace(
            sample, reward_parts=parts, reward=sample.reward + self.section.weight * score
        )
