"""The files and directories that a configuration names."""

from typing import Any

from medgpt_ray.config.run import RunConfig

EVERYWHERE = ("path", "adapter", "deepspeed")
"""Keys of what workers open, on whichever node they are."""
DRIVER = ("train", "heldout")
"""Keys of the prompts, which only the driver reads."""


def named_paths(config: RunConfig, keys: tuple[str, ...] = EVERYWHERE + DRIVER) -> dict[str, str]:
    """Dotted key -> path, of keys that end in one of `keys`. Data sets of a hub and embedded models
    are none.

    Example: `{"model.path": "runs/sft", "data.train.0.path": "notes.jsonl"}`
    """
    return {
        key: value
        for key, value in leaves(config.model_dump(mode="json")).items()
        if key.rpartition(".")[2] in keys
        and isinstance(value, str)
        and not value.startswith(("hf:", "embedded:"))
    }


def leaves(values: Any, key: str = "") -> dict[str, Any]:
    """Nested sections and lists as one dict of dotted keys."""
    if isinstance(values, dict):
        items = list(values.items())
    elif isinstance(values, list):
        items = list(enumerate(values))
    else:
        return {key: values}
    flat: dict[str, Any] = {}
    for name, value in items:
        flat |= leaves(value, f"{key}.{name}".lstrip("."))
    return flat
