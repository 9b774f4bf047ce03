"""Models by their name on the Hugging Face hub: downloaded once, from then on read from its cache.

`HF_HUB_OFFLINE=1` allows only what the cache has; `HF_TOKEN` opens gated models.
"""

import re
from functools import cache
from pathlib import Path

from medgpt_ray.models.errors import ModelError

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", re.ASCII)
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
"""Weights as safetensors only, tokenizer, chat template: no code, no pickles."""
OTHERS = ["original/*", "consolidated*", "onnx/*"]
"""The same weights in forms that transformers does not read."""


def is_name(text: str) -> bool:
    """Whether it is of the form `owner/model` or `owner/model@revision`."""
    return _NAME.fullmatch(text) is not None


@cache
def fetch(name: str) -> Path:
    """The directory of a model of the hub. Raises `ModelError`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    model, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                model, revision=revision or None, allow_patterns=FILES, ignore_patterns=OTHERS
            )
        )
    except (OSError, ValueError) as error:  # all of the hub's errors are one of these
        why = str(error).strip().splitlines()[0]
        if HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set, and the cache does not hold it"
        raise ModelError(
            f"{name}: no such model directory (relative to {Path.cwd()}), and not to be had from "
            f"the Hugging Face hub: {why}"
        ) from None
