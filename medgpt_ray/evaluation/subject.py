"""What is measured: the weights behind a run or a model, or a URL where a model is served."""

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from medgpt_ray.config.loader import ConfigError
from medgpt_ray.config.schema import Model
from medgpt_ray.evaluation.harness import Endpoint
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.load import causal_config, open_tokenizer, resolve_model
from medgpt_ray.tracking.rundir import RunDirectory

KEY_VARIABLE = "MEDGPT_API_KEY"
"""The environment variable with the key of a served model."""
LIST_MODELS_S = 30


@dataclass(frozen=True)
class Subject:
    """One model: local weights, or an endpoint that is up already."""

    shown: str
    directory: Path | None
    """HF directory of the weights; of an endpoint that of its tokenizer, where one was named."""
    tokenizer: Any
    context: int | None
    """Tokens that it takes, where it says so."""
    endpoint: Endpoint | None = None

    @property
    def template(self) -> str:
        """As in `summary.Measured`."""
        if self.tokenizer is None:
            return "the server's"
        template = self.tokenizer.chat_template
        return f"sha256:{sha256(template.encode()).hexdigest()}" if template else "none"


def is_url(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def run_of(target: str) -> RunDirectory | None:
    """The run that a target is."""
    run = RunDirectory(target)
    return run if run.lineage.is_file() else None


def open_model(path: str) -> Subject:
    """A run or a model directory. Raises `ConfigError`."""
    try:
        directory = resolve_model(path)
        config = causal_config(Model(path=path))
        tokenizer = open_tokenizer(path)
    except ModelError as error:
        raise ConfigError([str(error)]) from None
    return Subject(path, directory, tokenizer, getattr(config, "max_position_embeddings", None))


def base_of(run: RunDirectory) -> str:
    """What a run was trained from: its parent run, or else the model that it names."""
    if run.read_config().model.adapter:
        raise ConfigError(
            [f"{run.path}: began from a model with an adapter merged in: name it with --base"]
        )
    lineage = json.loads(run.lineage.read_text(encoding="utf-8"))
    model, parent = Path(lineage["model"]).resolve(), Path(lineage["parent"] or "").resolve()
    whole = lineage["parent"] and model in (parent, parent / "model")
    return str(lineage["parent"] if whole else lineage["model"])  # which may be a checkpoint's


def open_url(url: str, tokenizer: str | None, served_model: str | None) -> Subject:
    """A served model. Raises `ConfigError` where nobody answers there or the model is not told."""
    address = url.rstrip("/")
    address = address if address.endswith("/v1") else f"{address}/v1"
    local = open_model(tokenizer) if tokenizer else None
    directory = local.directory if local else None
    endpoint = Endpoint(address, served_model or "", directory, os.environ.get(KEY_VARIABLE))
    models = {one["id"]: one for one in _models(endpoint)}
    name = served_model or next(iter(models), "")
    if name not in models or (served_model is None and len(models) > 1):
        raise ConfigError([f"{url}: serves {', '.join(models) or 'nothing'}: name one by --model"])
    return Subject(
        f"{name} at {address}",
        directory,
        local.tokenizer if local else None,
        models[name].get("max_model_len"),
        replace(endpoint, model=name),
    )


def _models(endpoint: Endpoint) -> list[dict[str, Any]]:
    address = f"{endpoint.url}/models"
    request = urllib.request.Request(address, headers=endpoint.headers)
    try:
        with urllib.request.urlopen(request, timeout=LIST_MODELS_S) as answer:
            models: list[dict[str, Any]] = json.load(answer)["data"]
            return models
    except urllib.error.HTTPError as error:
        hint = f": is {KEY_VARIABLE} set to its key?" if error.code in (401, 403) else ""
        raise ConfigError([f"{address}: status {error.code}{hint}"]) from None
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError([f"{address}: no OpenAI API answers there: {error}"]) from None
