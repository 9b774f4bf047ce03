"""Whether the models of a run can be opened and trained as asked; part of the preflight."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from medgpt_ray.actors.plan import ModelFacts, PlanError, plan
from medgpt_ray.config.paths import named_paths
from medgpt_ray.config.run import RunConfig
from medgpt_ray.config.schema import Critic, Full, Learner, Model, PpoRun, RlRun
from medgpt_ray.config.supervised import DpoRun, KtoRun, SupervisedRun
from medgpt_ray.tracking.rundir import file_sha256

MODELS = ("model.path", "model.adapter", "reference.path", "reward_model.path", "critic.path")


def model(config: RunConfig) -> tuple[ModelFacts | None, Any, list[str]]:
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


def weights(config: RunConfig) -> dict[str, dict[str, str]]:
    """Key of the configuration -> names of the files of weights that it means -> SHA-256.

    Reads all of them, for after training nearly every number differs, but only nearly.
    """
    from medgpt_ray.models.load import resolve_model

    named = {key: path for key, path in named_paths(config).items() if key in MODELS}
    folders = {
        key: Path(path) if key == "model.adapter" else resolve_model(path)
        for key, path in named.items()
    }
    files = {key: sorted(folder.glob("*.safetensors")) for key, folder in folders.items()}
    with ThreadPoolExecutor() as pool:
        return {
            key: dict(zip((file.name for file in each), pool.map(file_sha256, each), strict=True))
            for key, each in files.items()
        }


def attention(config: RunConfig) -> Iterator[str]:
    from medgpt_ray.models import load
    from medgpt_ray.models.errors import ModelError

    if config.cluster.in_use:  # the GPUs are those of other nodes, whose workers look themselves
        return
    try:
        load.attention(config.model)
    except ModelError as error:
        yield str(error)


def network(config: RunConfig) -> Iterator[str]:
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


def reference(config: DpoRun | KtoRun) -> Iterator[str]:
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


def context(config: RlRun) -> Iterator[str]:
    limit = positions(config.model)
    longest = config.data.max_prompt_tokens + config.rollout.max_completion_tokens
    if limit and longest > limit:
        yield (
            f"rollout.max_completion_tokens: with data.max_prompt_tokens a sequence may have "
            f"{longest} tokens, and {config.model.path} takes {limit}: lower one of them"
        )


def scorers(config: RlRun) -> Iterator[str]:
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


def sharding(config: RunConfig) -> Iterator[str]:
    from medgpt_ray.models.deepspeed import impossible
    from medgpt_ray.models.load import resolve_dtype

    for key, learner in _learners(config).items():
        update: dict[str, Any] = {"dtype": resolve_dtype(config.model.dtype, learner.gpus)}
        if isinstance(learner, Critic):
            update["adaptation"] = learner.adaptation
        for problem in impossible(config.model.model_copy(update=update), learner.zero_stage):
            yield f"{key}.zero_stage: {problem}"


def deepspeed(config: RunConfig) -> Iterator[str]:
    from medgpt_ray.models.deepspeed import DeepSpeedError, read_settings

    for learner in _learners(config).values():
        if learner.deepspeed:
            try:
                read_settings(learner)
            except DeepSpeedError as error:
                yield from error.problems


def positions(model: Model) -> int | None:
    """Tokens that config.json has positions for; None where it does not say, or where vLLM
    multiplies them by a factor of their scaling."""
    from medgpt_ray.models.load import hf_config

    settings = hf_config(model.path).get_text_config()
    if "factor" in (getattr(settings, "rope_parameters", None) or {}):
        return None
    return getattr(settings, "max_position_embeddings", None)


def _learners(config: RunConfig) -> dict[str, Learner]:
    critic = {"critic": config.critic} if isinstance(config, PpoRun) else {}
    return {"learner": config.learner, **critic}


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
