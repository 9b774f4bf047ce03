"""A pipeline (`stage: pipeline`): runs one after the other, each from models of earlier ones."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from medgpt_ray.config.section import PathText, Section

GIVEN = ("model", "reward_model", "reference")
"""Sections of a run whose `path` may be what an earlier stage made."""


class Stage(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    """Its run directory is the folder of this name in the pipeline's output_dir."""
    config: str
    """The YAML file of the run, or a preset such as pipeline/sft."""
    model: str | None = None
    """Name of the earlier stage whose model it starts from; none leaves that to the file."""
    reward_model: str | None = None
    """Name of the earlier stage (`stage: rm`) whose model scores the completions."""
    reference: str | None = None
    """Name of the earlier stage whose model is the reference."""
    overrides: dict[str, Any] = Field(default={})
    """Keys of the run's file with other values, nested as there."""

    @property
    def given(self) -> dict[str, str]:
        """Section -> the earlier stage that makes its model."""
        named = {section: getattr(self, section) for section in GIVEN}
        return {section: stage for section, stage in named.items() if stage is not None}


class Pipeline(Section):
    """Runs one after the other (`stage: pipeline`), checked as a whole before the first begins."""

    stage: Literal["pipeline"]
    output_dir: PathText
    stages: Annotated[list[Stage], Field(min_length=1)]

    @model_validator(mode="after")
    def _from_earlier_stages(self) -> Self:
        problems = []
        earlier: list[str] = []
        for number, stage in enumerate(self.stages):
            if stage.name in earlier:
                problems.append(f"stages.{number}.name: {stage.name!r} is the name of two stages")
            for section, source in stage.given.items():
                if source not in earlier:
                    known = f"those are {', '.join(earlier)}" if earlier else "there are none"
                    problems.append(
                        f"stages.{number}.{section}: {source!r} is no earlier stage, {known}"
                    )
            earlier.append(stage.name)
        if problems:
            raise ValueError("\n".join(problems))
        return self
