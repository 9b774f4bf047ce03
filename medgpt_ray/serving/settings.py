"""What is served and how, as `serve deploy` reads it from YAML and `medgpt serve` from options."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from medgpt_ray.config.loader import ConfigError

ENVIRONMENT = "environment"
KEYS_VARIABLE = "MEDGPT_API_KEYS"


class Limits(BaseModel):
    """What one request, one key and one replica may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request_bytes: int = Field(default=1_000_000, gt=0)
    """Of a request body; more is answered with 413."""
    concurrent_requests: int = Field(default=64, gt=0)
    """In work in one replica; more are answered with 429."""
    requests_per_minute: int | None = Field(default=None, gt=0)
    """Of one key (of all callers without keys), over all replicas; more are answered with 429."""
    completions_per_request: int = Field(default=128, gt=0)
    """Prompts times `n`; more is answered with 400."""
    request_seconds: float = Field(default=600.0, gt=0)
    """Until an answer must be complete; a rolling update lets answers take this long."""


class Lora(BaseModel):
    """Room for adapters. Which ones there are is the deployment's `user_config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_rank: int = Field(default=16, gt=0)
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """That an adapter may change. Never `lm_head`: with that, log-probs of a prompt end vLLM's CPU
    engine (0.32)."""
    slots: int = Field(default=4, gt=1)
    """Adapters in memory at once; during an update both versions of one take a slot."""


class Settings(BaseModel):
    """One served model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """A run directory, a model directory or `embedded:smollm2-135m-instruct`."""
    version: str | None = None
    """Of the model's files (`versions.of_directory`): replicas refuse other content."""
    name: str | None = None
    """In requests and `/v1/models`; the directory's name by default."""
    lora: Lora | None = None
    limits: Limits = Limits()
    api_keys: str | None = Field(default=None, min_length=1)
    """A file with one key a line, `environment` for the variable MEDGPT_API_KEYS, none for none."""
    guard: bool = False
    """The safety guard of medical answers, on chat completions."""
    index: Path | None = None
    """Of `medgpt index build`: chats are answered from its documents."""
    index_version: str | None = None
    """Of its file (`versions.of_index`): replicas refuse other content."""
    request_log: Path | None = None
    """A folder: one JSON line a request, personal data masked."""
    tool_parser: str | None = None
    """vLLM's name of how the model writes tool calls; found in its chat template by default."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on GPUs; float32 on CPUs, where the text then is that of `medgpt chat`."""
    max_context: int | None = Field(default=None, gt=0)
    """Tokens of prompt and answer; the model's own by default."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """On CPU; a GPU is filled to 92%, as vLLM does by default."""
    cpus: int = Field(default=1, gt=0)
    """Of one replica, and its threads."""
    gpus: int = Field(default=0, ge=0)
    """Of one replica; several make it tensor-parallel."""
    min_replicas: int = Field(default=1, gt=0)
    max_replicas: int = Field(default=1, gt=0)
    seed: int = 0


def settings_from(values: Mapping[str, Any], replicas: str, assignments: Sequence[str]) -> Settings:
    """Of the command line: options, `MIN[:MAX]` replicas, and `limits.request_bytes=5000`.

    Raises `ConfigError` with every problem.
    """
    least, _, most = replicas.partition(":")
    tree: dict[str, Any] = {**values, "min_replicas": least, "max_replicas": most or least}
    problems = []
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        *sections, last = key.split(".")
        place = tree
        try:
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = YAML(typ="safe", pure=True).load(text)
        except (AttributeError, TypeError, YAMLError):
            problems.append(f"--set {assignment}: expected KEY=VALUE")
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"]))
            unknown = fault["type"] == "extra_forbidden"
            told = _unknown(key) if unknown else f"{fault['msg']}, found {fault['input']!r}"
            problems.append(f"{key}: {told}")
    if problems:
        raise ConfigError(problems)
    if settings.max_replicas < settings.min_replicas:
        raise ConfigError([f"--replicas {replicas}: at most less than at least"])
    return settings


def _unknown(key: str) -> str:
    sections = {"limits": Limits, "lora": Lora}
    known = [*Settings.model_fields]
    known += [f"{name}.{field}" for name, model in sections.items() for field in model.model_fields]
    close = difflib.get_close_matches(key, known, n=1)
    return f"unknown, did you mean {close[0]}?" if close else f"unknown, of {', '.join(known)}"


def pairs(adapters: Sequence[str] | None) -> dict[str, str]:
    """`name=directory` options."""
    wrong = [adapter for adapter in adapters or () if "=" not in adapter]
    if wrong:
        raise ConfigError([f"--adapter {adapter}: expected NAME=DIRECTORY" for adapter in wrong])
    named = [adapter.split("=", 1) for adapter in adapters or ()]
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError([f"--adapter {name}: given twice, keep one" for name in twice])
    return dict(named)
