from collections.abc import Callable
from pathlib import Path

import pytest

from medgpt_ray.config.schema import GrpoRun
from medgpt_ray.tracking.rundir import RunDirectory, file_sha256
from medgpt_ray.types import Completion, Prompt, RewardFailure, Sample, VersionSpan

MakeSample = Callable[..., Sample]


@pytest.fixture
def config(tmp_path: Path) -> GrpoRun:
    (tmp_path / "train.jsonl").write_text('{"question": "dose?", "answer": "5 mg"}\n')
    (tmp_path / "heldout.jsonl").write_text('{"question": "drug?", "answer": "aspirin"}\n')
    return GrpoRun.model_validate(
        {
            "stage": "grpo",
            "output_dir": str(tmp_path / "run"),
            "steps": 20,
            "model": {"path": "models/small", "dtype": "bfloat16"},
            "data": {
                "train": str(tmp_path / "train.jsonl"),
                "heldout": str(tmp_path / "heldout.jsonl"),
            },
            "rewards": [{"function": "scores:exact"}, {"function": "scores:brevity"}],
            "learner": {"learning_rate": 1e-6},
        }
    )


@pytest.fixture
def files(config: GrpoRun) -> dict[str, dict[str, str]]:
    assert config.data.heldout
    named = {"train": config.data.train, "heldout": config.data.heldout}
    return {use: {path: file_sha256(Path(path))} for use, path in named.items()}


@pytest.fixture
def rundir(config: GrpoRun, files: dict[str, dict[str, str]]) -> RunDirectory:
    return RunDirectory.create(config.output_dir, config, "stage: grpo\n", files, {})


@pytest.fixture
def make_sample() -> MakeSample:
    def make(
        line: int,
        reward: float = 0.5,
        text: str = "5 mg",
        answer: object = "5 mg",
        question: str = "What is the dose?",
        failure: str | None = None,
    ) -> Sample:
        prompt = Prompt(
            id=f"heldout.jsonl:{line}",
            messages=(
                {"role": "system", "content": "You read notes."},
                {"role": "user", "content": question},
            ),
            token_ids=(1, 882, 3),
            row={"question": question, "answer": answer, "tags": ["a", {"b": None}]},
        )
        completion = Completion(
            prompt_id=prompt.id,
            index=1,
            token_ids=(504, 7, 2),
            log_probs=(-0.1, -1 / 3, -1e-12),
            text=text,
            finish_reason="stop",
            versions=(VersionSpan(3, 0, 1), VersionSpan(4, 1, 3)),
        )
        failed = RewardFailure("scores:exact", prompt.id, 1, failure) if failure else None
        parts = {"brevity": 1.0} if failure else {"exact": reward, "brevity": 1.0}
        return Sample(prompt, completion, parts, reward, advantage=-0.25, failure=failed)

    return make
