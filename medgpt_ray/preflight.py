"""What would make a run fail is found before anything starts, all of it at once.

The configuration alone was checked when it was loaded; here it meets the machine: files, model,
data, reward functions, the output directory, the cluster.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medgpt_ray.actors.plan import ModelFacts, PlanError, plan
from medgpt_ray.config.loader import ConfigError, load
from medgpt_ray.config.paths import leaves
from medgpt_ray.config.run import RunConfig
from medgpt_ray.config.schema import Critic, Full, Learner, Model, PpoRun, RlRun
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

    Loads the tokenizer and reads the data, but no weights (the embedded model is converted on its
    first use). With `cluster.address` it connects to that cluster and leaves it again.
    """
    problems = list(_output_directory(config, resume))
    facts, tokenizer, found = _model(config)
    problems += found
    problems += _attention(config)
    if not found:
        found = list(_network(config))
        problems += found
    if isinstance(config, RlRun) and not found:
        problems += _context(config)
    if isinstance(config, SupervisedRun):
        problems += _reference(config) if isinstance(config, DpoRun | KtoRun) else ()
        found = list(_training_options(config, tokenizer))
        problems += found
        problems += _files(config, None if found else tokenizer)
    else:
        prompts, found = _prompts(config, tokenizer)
        problems += found
        problems += _rewards(config, prompts)
        problems += _environment(config)
        problems += _scorers(config)
    problems += resources(config)
    problems += _sharding(config)
    problems += _deepspeed(config)
    if facts is not None:
        problems += memory(config, facts)
        problems += kv_cache(config, facts) if isinstance(config, RlRun) else ()
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
        positions = _positions(config.model)
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
    if config.steps is None:  # as many as the epochs have, which are those of the run
        return run.read_config().steps is None
    return max(Checkpoints(run.checkpoints).complete(), default=0) >= config.steps


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


def _model(config: RunConfig) -> tuple[ModelFacts | None, Any, list[str]]:
    """Sizes and tokenizer of the model, None where there is a problem with them."""
    from medgpt_ray.models.load import ModelError, load_tokenizer, open_tokenizer, resolve_model

    facts, tokenizer, problems = None, None, []
    try:
        directory = resolve_model(config.model.path)
    except ModelError as error:
        return None, None, [f"model.path: {error}"]
    if config.model.adapter and not (Path(config.model.adapter) / "adapter_config.json").is_file():
        problems.append(f"model.adapter: {config.model.adapter} is no PEFT adapter directory")
    try:
        facts = ModelFacts.from_directory(directory)
        plan(config, facts)
    except PlanError as error:
        problems.append(_named("model", error))
        facts = None
    try:
        if isinstance(config, SupervisedRun):  # a template may come from data.template
            tokenizer = open_tokenizer(config.model.path, config.model.new_tokens)
        else:
            tokenizer = load_tokenizer(config.model.path)
    except ModelError as error:
        problems.append(_named("model", error))
    except Exception as error:  # noqa: BLE001 (tokenizers raises bare Exception for a broken file)
        problems.append(f"model.path: the tokenizer cannot be loaded: {error}")
    return facts, tokenizer, problems


def _network(config: RunConfig) -> Iterator[str]:
    from medgpt_ray.models.load import load_policy
    from medgpt_ray.models.reward import load_reward_model

    load = load_reward_model if config.stage == "rm" else load_policy
    found = list(_not_to_be_opened("model", config.model, partial(load, seed=config.seed)))
    yield from found
    if not found and isinstance(config.model.adaptation, Full) and _quantised(config.model.path):
        yield (
            f"model.adaptation: {config.model.path} is quantised, and such weights cannot be "
            "trained: set kind: qlora, or name the model that it was made from"
        )


def _reference(config: DpoRun | KtoRun) -> Iterator[str]:
    """It reads the policy's tokens."""
    from medgpt_ray.models.load import load_frozen, same_tokens

    if (path := config.reference.path) is None:
        return
    section = config.model.model_copy(update={"path": path, "adapter": None})
    found = list(_not_to_be_opened("reference", section, load_frozen))
    yield from found
    if not found and not same_tokens(path, config.model.path):
        yield (
            f"reference.path: {path} has another tokenizer than the model, whose tokens the "
            "reference reads: name a model of the same family"
        )


def _not_to_be_opened(key: str, section: Model, load: Callable[..., Any]) -> Iterator[str]:
    """Why `load` refuses the model of the section `key`: weights that config.json asks for are not
    there, adapters that fit nothing. No weight is read, so their type does not matter; attention
    has a check of its own."""
    from transformers.utils import logging as hf_logging

    from medgpt_ray.models.errors import ModelError

    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()  # its tables of weights say what we say in a line
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT looks for all its kernels
    try:
        if _quantised(section.path):
            return  # config.json does not tell the shapes of packed weights
        load(section.model_copy(update={"dtype": "float32", "attention": "sdpa"}), empty=True)
    except ModelError as error:
        yield _named(key, error)


def _quantised(path: str) -> bool:
    from medgpt_ray.models.load import hf_config

    return hasattr(hf_config(path), "quantization_config")


def _named(key: str, error: Exception) -> str:
    """What is wrong with the model of the section `key`, at the key that the error names."""
    text = str(error)
    if text.startswith("model."):
        return f"{key}.{text.removeprefix('model.')}"
    return f"{key}.path: {text}"


def _positions(model: Model) -> int | None:
    """Tokens that config.json has positions for; None where it does not say, or where vLLM
    multiplies them by a factor of their scaling."""
    from medgpt_ray.models.load import hf_config

    settings = hf_config(model.path).get_text_config()
    if "factor" in (getattr(settings, "rope_parameters", None) or {}):
        return None
    return getattr(settings, "max_position_embeddings", None)


def _context(config: RlRun) -> Iterator[str]:
    positions = _positions(config.model)
    longest = config.data.max_prompt_tokens + config.rollout.max_completion_tokens
    if positions and longest > positions:
        yield (
            f"rollout.max_completion_tokens: with data.max_prompt_tokens a sequence may have "
            f"{longest} tokens, and {config.model.path} takes {positions}: lower one of them"
        )


def _prompts(config: RlRun, tokenizer: Any) -> tuple[list[Prompt], list[str]]:
    """Those of training and of the held-out file, and what is wrong with them."""
    from medgpt_ray.data.files import find
    from medgpt_ray.data.prompts import DataError, read_prompts

    prompts, problems = [], []
    for path in filter(None, (config.data.train, config.data.heldout)):
        if tokenizer is not None:
            try:
                prompts += read_prompts(path, tokenizer, config.data)
            except DataError as error:
                problems += error.problems
            continue
        try:  # without a tokenizer the rows themselves cannot be checked
            find(path)
        except DataError as error:
            problems += error.problems
    return prompts, problems


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


def _attention(config: RunConfig) -> Iterator[str]:
    from medgpt_ray.models.errors import ModelError
    from medgpt_ray.models.load import attention

    try:
        attention(config.model)
    except ModelError as error:
        yield str(error)


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


def _scorers(config: RlRun) -> Iterator[str]:
    """The reward model scores with a tokenizer of its own, the critic reads the policy's tokens."""
    from medgpt_ray.models.load import (
        ModelError,
        critic_model,
        critic_path,
        load_tokenizer,
        resolve_model,
        same_tokens,
    )
    from medgpt_ray.models.reward import load_reward_model, load_scorer

    if section := config.reward_model:
        found = list(_not_to_be_opened("reward_model", Model(path=section.path), load_scorer))
        if not found:
            try:
                load_tokenizer(section.path)
            except ModelError as error:
                found = [f"reward_model.path: {error}"]
        yield from found
        if found:
            return
    if isinstance(config, PpoRun):
        try:
            path = critic_path(config)
            resolve_model(path)
            if same_tokens(path, config.model.path):
                load = partial(load_reward_model, seed=config.seed)
                yield from _not_to_be_opened("critic", critic_model(config), load)
            else:
                yield (
                    f"critic.path: {path} has another tokenizer than the policy, whose tokens a "
                    "critic reads: leave critic.path out, or name a model of the policy's family"
                )
        except ModelError as error:
            yield f"critic.path: {error}"


def _learners(config: RunConfig) -> dict[str, Learner]:
    critic = {"critic": config.critic} if isinstance(config, PpoRun) else {}
    return {"learner": config.learner, **critic}


def _sharding(config: RunConfig) -> Iterator[str]:
    from medgpt_ray.models.deepspeed import impossible
    from medgpt_ray.models.load import resolve_dtype

    for key, learner in _learners(config).items():
        update: dict[str, Any] = {"dtype": resolve_dtype(config.model.dtype, learner.gpus)}
        if isinstance(learner, Critic):
            update["adaptation"] = learner.adaptation
        for problem in impossible(config.model.model_copy(update=update), learner.zero_stage):
            yield f"{key}.zero_stage: {problem}"


def _deepspeed(config: RunConfig) -> Iterator[str]:
    from medgpt_ray.models.deepspeed import DeepSpeedError, read_settings

    for learner in _learners(config).values():
        if learner.deepspeed:
            try:
                read_settings(learner)
            except DeepSpeedError as error:
                yield from error.problems
