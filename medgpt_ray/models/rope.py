"""Rotary positions stretched over contexts longer than those of pre-training.

linear: positions divided by the factor (arXiv 2306.15595). yarn: by frequency (arXiv 2309.00071).
dynamic: the base grows with the longest sequence of the row once that passes the model's limit, so
shorter sequences of the same row are stretched with it, and below the limit nothing changes. In
transformers a grown base stays for the rows after it; here every row starts anew. vLLM has no form
of it that grows: beyond the original limit it would compute NaN.
"""

from typing import Any

from medgpt_ray.config.supervised import RopeScaling
from medgpt_ray.models.errors import ModelError


def stretch(config: Any, scaling: RopeScaling) -> None:
    """Change an HF model configuration before the model is built from it; `config.json` then says
    it to every later reader.

    `max_position_embeddings` follows what transformers and vLLM expect of each kind: the stretched
    length for yarn, the original one for the others.
    """
    present = getattr(config, "rope_parameters", None) or {}
    if "rope_type" not in present:
        raise ModelError(
            f"model.rope_scaling: {config.model_type} has no rotary positions that are the same in "
            "every layer: leave rope_scaling out"
        )
    if present["rope_type"] != "default":
        raise ModelError(
            "model.rope_scaling: the positions of this model are scaled already "
            f"({present['rope_type']}, factor {present.get('factor')}): leave rope_scaling out"
        )
    config.rope_parameters = {**present, "rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "yarn":
        longest = config.max_position_embeddings
        config.rope_parameters["original_max_position_embeddings"] = longest
        config.max_position_embeddings = int(longest * scaling.factor)


def forget_growth(network: Any) -> None:
    """Let a dynamic base grow from the model's own in every forward pass, whatever came before."""
    for module in network.modules():
        if getattr(module, "rope_type", None) == "dynamic":
            module.register_forward_pre_hook(_as_at_first)


def _as_at_first(rotary: Any, _: Any) -> None:
    rotary.inv_freq = rotary.original_inv_freq.to(rotary.inv_freq.device)
    rotary.max_seq_len_cached = rotary.original_max_seq_len


def reach(config: Any) -> int:
    """Tokens of the longest sequence that every reader of a stretched model can process."""
    rope = config.rope_parameters
    factor = rope["factor"] if rope["rope_type"] == "linear" else 1
    return int(config.max_position_embeddings * factor)
