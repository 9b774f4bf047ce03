"""What is to be served, looked at before anything starts: model, adapters, keys, index."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgpt_ray.models.adapters import base_of, read_adapter_config
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.load import resolve_model
from medgpt_ray.preflight import PreflightError
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.index import Index
from medgpt_ray.serving import versions
from medgpt_ray.serving.engine import served_name
from medgpt_ray.serving.keys import Keys, KeysError
from medgpt_ray.serving.settings import ENVIRONMENT, KEYS_VARIABLE, Lora, Settings


@dataclass(frozen=True)
class Adapter:
    """A directory that PEFT wrote."""

    name: str
    path: str
    version: str
    rank: int
    target_modules: tuple[str, ...]


def check(
    settings: Settings, paths: Mapping[str, str], *, running: bool = False
) -> tuple[Settings, list[Adapter]]:
    """Settings with everything decided, and the adapters; `PreflightError` names what is wrong.
    A server that is `running` has its keys, which this process need not know."""
    problems, found = [], []
    name = served_name(settings)
    directory: Path | None = None
    try:
        directory = resolve_model(settings.model)
    except ModelError as error:
        problems.append(str(error))
    for adapter, path in paths.items():
        try:
            found.append(_adapter(adapter, path, name, directory))
        except ModelError as error:
            problems.append(f"--adapter {error}")
    weights = [directory, *(Path(adapter.path) for adapter in found)]
    problems += [problem for each in weights if each for problem in versions.broken(each)]
    if directory is not None:
        changes = {
            "model": str(directory.resolve()),
            "name": name,
            "version": versions.of_directory(directory),
            "lora": _lora(settings.lora, found),
        }
        settings = settings.model_copy(update=changes)
    try:
        if not running and settings.api_keys is None and os.environ.get(KEYS_VARIABLE):
            settings = settings.model_copy(update={"api_keys": ENVIRONMENT})
        if not running and settings.api_keys is not None:
            Keys.read(settings.api_keys)
    except KeysError as error:
        problems.append(str(error))
    try:
        if settings.index:
            Index.open(settings.index)
            index = settings.index.resolve()
            changes = {"index": index, "index_version": versions.of_index(index)}
            settings = settings.model_copy(update=changes)
    except RetrievalError as error:
        problems += [f"--index {problem}" for problem in error.problems]
    if problems:
        raise PreflightError(problems)
    return settings, found


def _adapter(name: str, path: str, model: str, base: Path | None) -> Adapter:
    """`path` is a PEFT adapter, or a run that trained one; `base` the directory of what is served,
    where there is one. What the engine would refuse is refused here: there it would cost a running
    replica."""
    directory = Path(path).resolve()
    if (directory / "lineage.json").is_file():
        from medgpt_ray.models.merge import find_source

        directory = find_source(path).adapter or directory
    config = directory / "adapter_config.json"
    if not config.is_file() or not any(directory.glob("*.safetensors")):
        raise ModelError(f"{name}={path}: holds no adapter_config.json and *.safetensors of PEFT")
    if name == model or "@" in name or not name:
        raise ModelError(f"{name}={path}: call it otherwise, without @ and not as the model")
    values = read_adapter_config(directory)
    if values["peft_type"] != "LORA":
        raise ModelError(f"{name}={path}: is of {values['peft_type']}, and only LoRA is served")
    targets = values["target_modules"]
    if isinstance(targets, str) or not set(targets).isdisjoint(("lm_head", "embed_tokens")):
        raise ModelError(
            f"{name}={path}: changes {targets}, and only a list of layers other than lm_head and "
            "embed_tokens is served: merge it into its base"
        )
    if not_served := [key for key, plain in NOT_SERVED.items() if values.get(key) not in plain]:
        raise ModelError(
            f"{name}={path}: {', '.join(not_served)} of its adapter_config.json is not served: "
            "merge it into its base"
        )
    trained_on, before = base_of(directory)
    if before is not None:
        raise ModelError(
            f"{name}={path}: was trained on the adapter {before}: serve the run's merged model"
        )
    if base is not None:
        _check_base(f"{name}={path}", directory, Path(trained_on) if trained_on else base, base)
    version = versions.of_directory(directory)
    return Adapter(name, str(directory), version, int(values["r"]), tuple(sorted(targets)))


def _check_base(named: str, adapter: Path, trained_on: Path, base: Path) -> None:
    """Warns of other weights, as a model that is updated keeps its adapters; refuses another chat
    template than the served one."""
    from transformers import AutoTokenizer

    known = trained_on.resolve() != base.resolve() and any(trained_on.glob("*.safetensors"))
    if known and versions.of_weights(trained_on) != versions.of_weights(base):
        told = f"--adapter {named}: was trained on {trained_on}, which is not what is served"
        print(told, file=sys.stderr, flush=True)
    if (adapter / "tokenizer_config.json").is_file():
        own, served = (AutoTokenizer.from_pretrained(at).chat_template for at in (adapter, base))
        if own != served:
            raise ModelError(
                f"{named}: was trained with another chat template than that of the model that is "
                "served: serve the run's merged model"
            )


NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, {}, []),
    "alora_invocation_tokens": (None, []),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
}
"""Settings of PEFT that change what an adapter computes -> values of those that are served."""


def _lora(lora: Lora | None, adapters: list[Adapter]) -> Lora | None:
    """Room for these adapters beside their successors; what there is stays if it is enough, so
    that replicas need not start anew."""
    if not adapters:
        return lora
    had = lora or Lora(max_rank=1, target_modules=())
    targets = set(had.target_modules).union(*(adapter.target_modules for adapter in adapters))
    return Lora(
        max_rank=max(had.max_rank, *(adapter.rank for adapter in adapters)),
        target_modules=tuple(sorted(targets)),
        slots=max(had.slots, 2 * len(adapters)),
    )
