"""LoRA and its relatives on frozen weights, by PEFT: put on, written, and opened again."""

import json
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from medgpt_ray.config.schema import LoRA
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.quantised import keep_readable


def adapt(
    network: Any,
    adaptation: LoRA,
    seed: int,
    *,
    task: str = "CAUSAL_LM",
    new_ids: Seq[int] = (),
) -> Any:
    """Freeze an HF model and put adapters on it, seeded by `seed`; returns the PEFT model.

    `task` is PEFT's: SEQ_CLS trains the head of a reward model whole. `new_ids` are tokens whose
    embeddings are trained, in the input and in an output head with a weight of its own.
    """
    from peft import LoraConfig, get_peft_model

    keep_readable(network)
    network.requires_grad_(False)
    embeddings = _embeddings(network)
    whole = _trained_whole(network, adaptation.modules_to_save)
    rows = {path: list(new_ids) for path in embeddings if path not in whole}
    torch.manual_seed(seed)
    adapted = get_peft_model(
        network,
        LoraConfig(
            r=adaptation.rank,
            lora_alpha=adaptation.alpha,
            lora_dropout=adaptation.dropout,
            target_modules=_targets(network, adaptation.target_modules),
            use_rslora=adaptation.rslora,
            use_dora=adaptation.dora,
            modules_to_save=sorted(whole) or None,
            trainable_token_indices=rows if new_ids and rows else None,
            ensure_weight_tying=_tied(network) and bool(whole & embeddings.keys()),
            task_type=task,
        ),
    )
    for path, layer in adapted.get_base_model().named_modules():
        if hasattr(layer, "lora_A") and not isinstance(layer.get_base_layer(), nn.Linear):
            raise ModelError(
                f"model.adaptation.target_modules: {path} is no linear layer: leave it out, or "
                "train it whole by modules_to_save"
            )
    return adapted


def add_in_place(network: Any) -> None:
    """Let the LoRA layers of a PEFT model add their product to what the frozen layer gave, there.

    PEFT's own makes the product, that times the scale and the sum, each [tokens, out], and as much
    on the way back. Not under ZeRO-3, where a weight is there only while its module is called.
    """
    from peft.tuners.lora.layer import Linear

    for layer in network.modules():
        if type(layer) is Linear and not layer.lora_variant:  # DoRA is one
            layer.lora_variant = dict.fromkeys(layer.lora_A, _InPlace)


class _InPlace:
    """What PEFT calls in place of its own sum, as a `LoraVariant`. It cannot merge: a learner's
    adapters are merged by `models.weights`, written ones by PEFT in a model without this."""

    @staticmethod
    def forward(layer: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """`x` [..., in] and the frozen layer's `result` [..., out] -> the layer's output."""
        up, scale = layer.lora_B[active_adapter], layer.scaling[active_adapter]
        low = layer.lora_A[active_adapter](layer.lora_dropout[active_adapter](x))
        # Changed in place, a view (such as a layer with a bias gives) would cost a copy.
        if result.dim() != 3 or result.dtype != low.dtype or result._is_view():
            return result + up(low) * scale  # type: ignore[no-any-return]
        weight = up.weight.t().expand(len(low), -1, -1)
        return result.baddbmm_(low, weight, alpha=scale)


def _targets(network: Any, names: str | list[str]) -> str | list[str]:
    if isinstance(names, str):
        return names
    paths = _find(network, names, "target_modules")
    if _tied(network) and any(paths[path] is network.get_output_embeddings() for path in paths):
        raise ModelError(
            "model.adaptation.target_modules: the output head shares its weight with the "
            "embeddings: leave it out, or train both whole by modules_to_save"
        )
    return names


def _trained_whole(network: Any, names: Seq[str]) -> set[str]:
    """Paths of the modules to save; where the output head shares the weight of the embeddings,
    these stand for both.
    """
    found = _find(network, names, "modules_to_save")
    for path, module in found.items():
        if any(not parameter.is_floating_point() for parameter in module.parameters()):
            raise ModelError(
                f"model.adaptation.modules_to_save: {path} is quantised and cannot be trained: "
                "leave it out, or use kind: lora"
            )
    head = network.get_output_embeddings()
    (embeddings, *_) = _embeddings(network)
    tied = _tied(network)
    return {embeddings if tied and module is head else path for path, module in found.items()}


def _find(network: Any, names: Seq[str], field: str) -> dict[str, nn.Module]:
    """Path -> module of all that `names` name; PEFT would ignore a name that fits nothing."""
    modules = {path: module for path, module in network.named_modules() if path}
    found = {}
    for name in names:
        fitting = {p: m for p, m in modules.items() if f".{p}".endswith(f".{name}")}
        if not fitting:
            known = {p.rpartition(".")[2] for p, m in modules.items() if hasattr(m, "weight")}
            raise ModelError(
                f"model.adaptation.{field}: {network.config.model_type} has no module {name!r}, "
                f"only {', '.join(sorted(known))}"
            )
        found |= fitting
    return found


def _tied(network: Any) -> bool:
    head = network.get_output_embeddings()
    return head is not None and head.weight is network.get_input_embeddings().weight


def _embeddings(network: Any) -> dict[str, nn.Module]:
    """Path -> module of the input embeddings and of an output head with a weight of its own."""
    modules = [network.get_input_embeddings()]
    if network.get_output_embeddings() is not None and not _tied(network):
        modules.append(network.get_output_embeddings())
    paths = {module: path for path, module in network.named_modules()}
    return {paths[module]: module for module in modules}


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """The adapter_config.json of PEFT; that of a LoRA has `r` and `target_modules`."""
    file = directory / "adapter_config.json"
    if not file.is_file():
        raise ModelError(f"{directory}: holds no adapter_config.json, so it is no adapter")
    fix = "copy it whole, or write it anew with PEFT"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read as JSON: {error}: {fix}") from None
    if not isinstance(values, dict):
        raise ModelError(f"{file}: is no object of JSON: {fix}")
    fields: dict[str, Any] = {"peft_type": str, "base_model_name_or_path": str | None}
    if values.get("peft_type") == "LORA":
        fields |= {"r": int, "target_modules": list | str}
    for field, kind in fields.items():
        if not isinstance(values.get(field), kind):
            told = f"cannot be {values[field]!r}" if field in values else "is missing"
            raise ModelError(f"{file}: {field}: {told}: {fix}")
    return values


def base_of(directory: Path) -> tuple[str, Path | None]:
    """The model that an adapter was trained on ("" where it does not say), and the adapter that was
    merged into it before, which the written one names as its base."""
    adapters = [directory]
    while True:
        base = read_adapter_config(adapters[-1]).get("base_model_name_or_path") or ""
        if not base or not (Path(base) / "adapter_config.json").is_file():
            return base, adapters[1] if adapters[1:] else None
        if any(Path(base).samefile(adapter) for adapter in adapters):
            raise ModelError(
                f"{adapters[-1] / 'adapter_config.json'}: base_model_name_or_path: {base} leads "
                "back to this adapter: name the model that it was trained on"
            )
        adapters.append(Path(base))


def merge_adapter(network: Any, directory: Path, model: Path) -> Any:
    """An HF model with a written adapter merged into it, and before that the one which that was
    trained on. `model` is the directory of the network; `ModelError` where it is another one."""
    base, before = base_of(directory)
    if before is not None:
        if Path(base).is_dir() and Path(base).resolve() != model.resolve():
            raise ModelError(
                f"{directory}: was trained on the adapter {before} on {base}: set model.path to "
                f"that, not to {model}"
            )
        network = merge_adapter(network, before, model)
    return open_adapter(network, directory).merge_and_unload()


def open_adapter(network: Any, directory: Path) -> Any:
    """Put a written adapter on an HF model, frozen; ModelError where it belongs to another one."""
    from peft import PeftConfig, PeftModel

    if not (directory / "adapter_model.safetensors").is_file():
        raise ModelError(f"{directory}: holds no adapter_model.safetensors, so it is no adapter")
    keep_readable(network)
    modules = dict(network.named_modules())
    with safe_open(directory / "adapter_model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118 (no dict)
            shape = tuple(file.get_slice(name).get_shape())
            path = name.removeprefix("base_model.model.")
            if not _fits(modules, path, shape):
                raise ModelError(
                    f"{directory}: an adapter that does not fit the base: it holds {path} "
                    f"{list(shape)}, which {network.config.name_or_path} has no place for"
                )
    rows = PeftConfig.from_pretrained(directory).trainable_token_indices or {}
    vocabulary = network.get_input_embeddings().weight.shape[0]
    if any(max(ids) >= vocabulary for ids in rows.values()):
        raise ModelError(
            f"{directory}: an adapter that does not fit the base: it has tokens that are not among "
            f"the {vocabulary} of {network.config.name_or_path}: name the merged model in its "
            "place (model/ beside adapter/ in a checkpoint)"
        )
    return PeftModel.from_pretrained(network, directory)


def holds_head(directory: Path) -> bool:
    """Whether the adapter is a reward model's, which has the whole score head in it."""
    with safe_open(directory / "adapter_model.safetensors", "pt") as file:
        return any(name.endswith("score.weight") for name in file.keys())  # noqa: SIM118


def _fits(modules: dict[str, nn.Module], path: str, shape: tuple[int, ...]) -> bool:
    """`path` is that of a tensor: of a layer, and of its part or of what an adapter adds to it."""
    layer = path
    while layer and layer not in modules:
        layer = layer.rpartition(".")[0]
    module, part = modules[layer], path.removeprefix(f"{layer}.")
    if part.startswith("lora_A."):
        return shape[1:] == (getattr(module, "in_features", None),)
    if part.startswith(("lora_B.", "lora_magnitude_vector")):
        return shape[:1] == (getattr(module, "out_features", None),)
    if part.startswith("token_adapter."):
        return shape[1:] == tuple(module.weight.shape[1:])
    return shape == tuple(getattr(getattr(module, part, None), "shape", ()))
