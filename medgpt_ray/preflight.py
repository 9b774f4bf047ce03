"""What would make a run fail is found before anything starts, all of it at once.

The configuration alone was checked when it was loaded; here it meets the machine: files, model,
data, reward functions, the output directory, the cluster.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medgpt_ray import preflight_models
from medgpt_ray.config.loader import ConfigError, load
from medgpt_ray.config.paths import leaves
from medgpt_ray.config.run import RunConfig
from medgpt_ray.config.schema import RlRun
from medgpt_ray.config.supervised import DpoRun, KtoRun, SupervisedRun
from medgpt_ray.preflight_machine import kv_cache, memory, nearest_folder, resources
from medgpt_ray.tracking.checkpoints import Checkpoints
from medgpt_ray.tracking.rundir import RunDirectory
from medgpt_ray.types import Prompt

RESUME_MAY_CHANGE = (
    "data.on_bad_row",
    "data.max_bad_share",
    "output_dir",  # the run may have been moved
    "steps",
    "evaluation",
    "checkpoint",
    "deadlines",
    "start_timeout_s",
    "step_timeout_s",
    "faults",
    "dump",
    "cluster",
    "tensorboard",
)
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The environment variable that Ray gives to the entrypoint of a job."""
JUDGE = "medgpt_ray.rewards.judge"
"""Asks a server, so it is not tried."""


class PreflightError(ValueError):
    """A run that cannot start: `problems` holds every reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def check(config: RunConfig, resume: bool) -> None:
    """Raise `PreflightError` with everything that keeps the run from starting.

    Loads the tokenizer and reads the data; weights only with `resume`, for their hashes (the
    embedded model is converted on its first use). With `cluster.address` it connects to that
    cluster and leaves it again.
    """
    problems = list(_output_directory(config, resume))
    facts, tokenizer, found = preflight_models.model(config)
    problems += found
    problems += preflight_models.attention(config)
    if not found:
        found = list(preflight_models.network(config))
        problems += found
    if isinstance(config, RlRun) and not found:
        problems += preflight_models.context(config)
    if isinstance(config, SupervisedRun):
        problems += (
            preflight_models.reference(config) if isinstance(config, DpoRun | KtoRun) else ()
        )
        found = list(_training_options(config, tokenizer))
        problems += found
        problems += _files(config, None if found else tokenizer)
    else:
        sides, found = _prompts(config, tokenizer)
        problems += found
        problems += () if resume else _trained_on(config, **sides)
        problems += _rewards(config, [*sides["train"], *sides["heldout"]])
        problems += _environment(config)
        problems += preflight_models.scorers(config)
    problems += resources(config)
    problems += preflight_models.sharding(config)
    problems += preflight_models.deepspeed(config)
    if facts is not None:
        problems += memory(config, facts)
        problems += kv_cache(config, facts) if isinstance(config, RlRun) else ()
    if resume and not problems and not nothing_left(config):
        problems += _other_weights(config)
    if problems:
        raise PreflightError(problems)


def warnings(config: RunConfig) -> Iterator[str]:
    """What works, but hardly as one wants it."""
    if IN_A_JOB in os.environ and not Path(config.output_dir).is_absolute():
        yield (
            f"output_dir: {config.output_dir} is in the job's copy of its working directory, which "
            "Ray deletes after the job: name an absolute path, on a file system that all nodes "
            "share"
        )
    if isinstance(config, SupervisedRun) and config.model.rope_scaling is None:
        positions = preflight_models.positions(config.model)
        if positions and config.data.max_tokens > positions:
            yield (
                f"data.max_tokens: {config.data.max_tokens} is more than the {positions} tokens "
                f"that {config.model.path} was made for: lower it, or set model.rope_scaling"
            )


def nothing_left(config: RunConfig) -> bool:
    """Whether the run in the output directory has done all the steps that `config` asks for."""
    run = RunDirectory(config.output_dir)
    if not run.finished:
        return False
    if config.steps == run.read_config().steps:  # None: as many as the epochs have
        return True
    done = max(Checkpoints(run.checkpoints).complete(), default=0)
    return config.steps is not None and done >= config.steps


def _output_directory(config: RunConfig, resume: bool) -> Iterator[str]:
    run = RunDirectory(config.output_dir)
    if resume:
        yield from _resumable(config, run)
    elif run.holds_run:
        yield (
            f"output_dir: {run.path} already holds a run: continue it with --resume, "
            "or choose another output_dir"
        )
    parent = nearest_folder(run.path)
    if not parent.is_dir():
        yield f"output_dir: {parent} is a file, not a directory"
    elif not os.access(parent, os.W_OK):
        yield f"output_dir: {parent} cannot be written to"


def _resumable(config: RunConfig, run: RunDirectory) -> Iterator[str]:
    if not run.config.is_file():
        yield f"output_dir: {run.path} holds no run to resume: leave --resume out to start one"
        return
    try:
        before = leaves(load(run.config).config.model_dump(mode="json"))
    except ConfigError as error:
        yield from error.problems
        return
    now = leaves(config.model_dump(mode="json"))
    for key in dict.fromkeys([*now, *before]):
        may = {key, key.split(".")[0]} & set(RESUME_MAY_CHANGE)
        if now.get(key) != before.get(key) and not may:
            yield (
                f"{key}: is {now.get(key)!r}, but the run in {run.path} began with "
                f"{before.get(key)!r}: put that back, or choose another output_dir"
            )
    lineage = json.loads(run.lineage.read_text(encoding="utf-8"))
    yield from _other_data(config, run, lineage["data"])


def _other_data(
    config: RunConfig, run: RunDirectory, recorded: list[dict[str, str]]
) -> Iterator[str]:
    """Silent about data that cannot be opened, which opening it tells."""
    from medgpt_ray.data.rows import DataError

    try:
        files = {path: sha for each in data_sha256(config).values() for path, sha in each.items()}
    except (DataError, OSError):
        return
    before = {file["path"]: file["sha256"] for file in recorded}
    for path in dict.fromkeys([*before, *files]):
        if before.get(path) == files.get(path):
            continue
        found = "has changed" if path in before else "is new"
        what = found if path in files else "is no longer there"
        yield (
            f"data: {path} {what} since the run in {run.path} began: put everything back as it "
            "was, or choose another output_dir"
        )


def _other_weights(config: RunConfig) -> Iterator[str]:
    run = RunDirectory(config.output_dir)
    before = json.loads(run.lineage.read_text(encoding="utf-8")).get("weights", {})
    for key, files in preflight_models.weights(config).items():
        if files != before.get(key, files):
            yield (
                f"{key}: the weights there have changed since the run in {run.path} began: put "
                "them back, or choose another output_dir"
            )


def data_sha256(config: RunConfig) -> dict[str, dict[str, str]]:
    """Use -> file -> its hash: what is trained on, and what measures it. Raises `DataError` for
    what is not there."""
    from medgpt_ray.data.files import content_sha256, find

    if isinstance(config, SupervisedRun):
        train = [source.path for source in config.data.train]
        uses = {"train": train, "validation": [config.data.validation.path]}
    else:
        uses = {"train": [config.data.train], "heldout": [config.data.heldout]}
    return {
        use: {file.path: content_sha256(file.path) for path in paths if path for file in find(path)}
        for use, paths in uses.items()
    }


def _prompts(config: RlRun, tokenizer: Any) -> tuple[dict[str, list[Prompt]], list[str]]:
    """Those of data.train and of data.heldout, and what is wrong with them."""
    from medgpt_ray.data.files import find
    from medgpt_ray.data.prompts import DataError, read_prompts

    problems: list[str] = []
    sides: dict[str, list[Prompt]] = {"train": [], "heldout": []}
    for side, prompts in sides.items():
        path = getattr(config.data, side)
        if path is None:
            continue
        try:
            if tokenizer is None:  # the rows themselves cannot be checked
                find(path)
            else:
                prompts += read_prompts(path, tokenizer, config.data)
        except DataError as error:
            problems += error.problems
    return sides, problems


def _trained_on(config: RlRun, train: list[Prompt], heldout: list[Prompt]) -> Iterator[str]:
    """Held-out prompts that are none. An environment may tell rows of one opening apart."""

    def shown(prompt: Prompt) -> str:
        return repr((prompt.token_ids, prompt.row if config.rollout.multi_turn else None))

    trained = {shown(prompt): prompt.id for prompt in train}
    both = [prompt for prompt in heldout if shown(prompt) in trained]
    if both:
        yield (
            f"data.heldout: {len(both)} of its {len(heldout)} prompts are in data.train too, the "
            f"first is {both[0].id} ({trained[shown(both[0])]} there): what was trained on is not "
            "held out, leave each in one of them"
        )


def _files(config: SupervisedRun, tokenizer: Any) -> Iterator[str]:
    """The files are there, of known formats, and fit the stage, and so do the first rows; all
    rows are checked as they are read."""
    from medgpt_ray.data.opening import ROWS_CHECKED, bad_rows, find_data
    from medgpt_ray.data.rows import PROBLEMS_SHOWN, DataError

    try:
        files = find_data(config)
        if tokenizer is None or config.data.on_bad_row == "skip":
            return
        found = list(bad_rows(config, files, tokenizer))
    except DataError as error:
        yield from error.problems
        return
    except ValueError as error:  # a tokenizer that cannot be used
        yield f"model.path: {error}"
        return
    yield from found[:PROBLEMS_SHOWN]
    if len(found) > PROBLEMS_SHOWN:
        yield f"... and {len(found) - PROBLEMS_SHOWN} more of the first {ROWS_CHECKED:,} rows"
    if found:
        yield "data.on_bad_row: skip leaves such rows out and writes them to a file"


def _training_options(config: SupervisedRun, tokenizer: Any) -> Iterator[str]:
    from medgpt_ray.data import templates

    if config.data.template is not None:
        try:
            templates.get_template(config.data.template)
            if tokenizer is not None:
                templates.apply(tokenizer, config.data.template)
        except ValueError as error:
            yield f"data.template: {error}"
    elif config.stage != "pt" and tokenizer is not None and not tokenizer.chat_template:
        yield "data.template: the model's tokenizer has no chat template, name one such as chatml"


def _rewards(config: RlRun, prompts: Sequence[Prompt]) -> Iterator[str]:
    """They can be imported and called; ours are tried on the first row, and say which of its
    columns they lack. A function of the user's is not called before the run."""
    from medgpt_ray.rewards import RewardError, resolve

    for index, reward in enumerate(config.rewards):
        where = f"rewards.{index}.function"
        try:
            function = resolve(reward.function, reward.arguments)
        except RewardError as error:
            yield f"{where}: {error}"
            continue
        module = reward.function.partition(":")[0]
        if prompts and module.startswith("medgpt_ray.rewards.") and module != JUDGE:
            first = prompts[0]
            try:
                function(first.messages[-1]["content"], "Yes.", first.row, **reward.arguments)
            except ValueError as error:
                yield f"{where}: {reward.function}: {first.id}: {error}"


def _environment(config: RlRun) -> Iterator[str]:
    from medgpt_ray.rewards import RewardError, find

    if section := config.rollout.multi_turn:
        try:
            environment = find(section.environment)
        except RewardError as error:
            yield f"rollout.multi_turn.environment: {error}"
            return
        if not callable(getattr(environment, "step", None)):
            yield (
                f"rollout.multi_turn.environment: {section.environment} has no method step(text): "
                "see medgpt_ray/environments/__init__.py"
            )
