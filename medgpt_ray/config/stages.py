"""The runs of a pipeline: the file of each stage with what the pipeline sets in it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgpt_ray.config.document import COMMAND_LINE
from medgpt_ray.config.loader import ConfigError, Loaded, load
from medgpt_ray.config.pipeline import Pipeline, Stage
from medgpt_ray.config.presets import locate


@dataclass(frozen=True)
class StageRun:
    """One stage, ready to run once the stages before it are done.

    Example: `StageRun("rm", Path("configs/pipeline/rm.yaml"), <its configuration>,
    {"model": "sft"}, "embedded:smollm2-135m-instruct")`
    """

    name: str
    file: Path
    loaded: Loaded
    given: Mapping[str, str]
    """Section -> the earlier stage whose run directory its `path` is."""
    base: str
    """The model that its line of stages began with: of the same kind, and there from the start."""
    place: str = ""
    """Its key in the pipeline, `stages.1`."""


def expand(loaded: Loaded) -> list[StageRun]:
    """Every stage of a pipeline as a run. Raises `ConfigError` with all that is wrong in them."""
    pipeline: Pipeline = loaded.config
    runs: dict[str, StageRun] = {}
    problems: list[str] = []
    for number, stage in enumerate(pipeline.stages):
        place = f"stages.{number}"
        try:
            file = locate(stage.config)
            run = load(file, _overrides(stage, Path(pipeline.output_dir)))
        except ConfigError as error:
            problems += [of_stage(problem, place, stage.name, loaded) for problem in error.problems]
            continue
        if isinstance(run.config, Pipeline):
            text = f"config: {stage.config} is a pipeline itself: name its stages here"
            problems.append(of_stage(text, place, stage.name, loaded))
            continue
        base = run.config.model.path
        if stage.model in runs:
            base = runs[stage.model].base
        runs[stage.name] = StageRun(stage.name, file, run, stage.given, base, place)
        problems += [of_stage(text, place, stage.name, loaded) for text in _misused(stage, runs)]
    if problems:
        raise ConfigError(problems)
    return list(runs.values())


def _overrides(stage: Stage, output_dir: Path) -> list[str]:
    """As on the command line; the loader refuses a key that is set twice."""
    values = list(_flat(stage.overrides, ""))
    values.append(("output_dir", str(output_dir / stage.name)))
    values += [
        (f"{section}.path", str(output_dir / source)) for section, source in stage.given.items()
    ]
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values]


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _misused(stage: Stage, runs: Mapping[str, StageRun]) -> Iterator[str]:
    """A reward model where a language model belongs, or the other way round."""
    kinds = {name: run.loaded.config.stage for name, run in runs.items()}
    for section, source in stage.given.items():
        if source not in kinds:
            continue  # it has problems of its own
        if section == "reward_model" and kinds[source] != "rm":
            yield f"reward_model: stage {source} is {kinds[source]}, which makes no reward model"
        if section != "reward_model" and kinds[source] == "rm":
            yield f"{section}: stage {source} makes a reward model, which writes no text"


def of_stage(problem: str, place: str, name: str, loaded: Loaded) -> str:
    """The problem at the line of the pipeline's file that causes it, or of the stage."""
    text = problem.removeprefix(f"{COMMAND_LINE}: ")
    key = text.partition(":")[0]
    keys = (f"{place}.overrides.{key}", f"{place}.{key}", place)
    origin = next(loaded.origins[each] for each in keys if each in loaded.origins)
    return f"{origin}: stage {name}: {text}"
