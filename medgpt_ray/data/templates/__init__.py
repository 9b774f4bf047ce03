"""Chat templates by name, for base models that come without one.

Each is a Jinja file with the contract of HF chat templates: it sees `messages`, `tools`,
`add_generation_prompt` and the tokenizer's special tokens. The formats are those of the models that
they are named after. Where a model's own format leaves the end of an answer unmarked (baichuan,
chatglm2), or the names in use disagree on it (belle, linly, ziya), every answer ends with the
tokenizer's eos_token, so that the end is learned in every turn. No generation prompt ends in a
space: tokenizers join it with the first word of the answer.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Template:
    stop: str | None = None
    """The token that ends an assistant turn; none is the tokenizer's own eos_token."""
    tools: bool = False
    """Has a format for tools, calls and their results; the others refuse them."""


TEMPLATES = {
    "alpaca": Template(),
    "aquila": Template(),
    "baichuan": Template(),
    "baichuan2": Template(),
    "belle": Template(),
    "chatglm2": Template(),
    "chatglm3": Template("<|user|>"),
    "chatml": Template("<|im_end|>"),
    "cohere": Template("<|END_OF_TURN_TOKEN|>"),
    "deepseek": Template(),
    "deepseek3": Template(),
    "gemma": Template("<end_of_turn>"),
    "glm4": Template("<|user|>", tools=True),
    "intern": Template("<eoa>"),
    "intern2": Template("<|im_end|>"),
    "linly": Template(),
    "llama2": Template(),
    "llama2-zh": Template(),
    "llama3": Template("<|eot_id|>", tools=True),
    "mistral": Template(tools=True),
    "orion": Template(),
    "phi3": Template("<|end|>"),
    "phoenix": Template(),
    "qwen": Template("<|im_end|>", tools=True),
    "qwen3": Template("<|im_end|>", tools=True),
    "starchat": Template("<|end|>"),
    "vicuna": Template(),
    "xverse": Template(),
    "yi": Template("<|im_end|>"),
    "zephyr": Template(),
    "ziya": Template(),
}


@cache
def get_template(name: str) -> str:
    """The Jinja text of a template; an unknown name raises a ValueError with the valid ones."""
    template = _find(name)
    text = _read(name)
    if template.tools:
        return text
    able = ", ".join(other for other, found in TEMPLATES.items() if found.tools)
    return _read("_no_tools").replace("NAME", name).replace("TOOLS", able) + text


def stop_text(name: str) -> str | None:
    """The token that ends an assistant turn; None is the tokenizer's own eos_token."""
    return _find(name).stop


def apply(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """Make `name` the tokenizer's chat template; raises a ValueError where the tokenizer has no
    token that ends a turn of it.

    A tokenizer that begins every text with its BOS token goes on to do so.
    """
    text, stop = get_template(name), stop_text(name)
    where = tokenizer.name_or_path or "the tokenizer"
    if stop is None and not tokenizer.eos_token:
        raise ValueError(
            f"{where}: the chat template {name} ends a turn with the tokenizer's eos_token, and "
            "there is none: take a template that brings its own, such as chatml"
        )
    if stop is not None and stop_id(tokenizer, stop) is None:
        raise ValueError(
            f"{where}: the chat template {name} ends a turn with {stop}, which is no token of this "
            "tokenizer: add it with model.new_tokens, or take a template that ends a turn with the "
            "tokenizer's own eos_token, such as vicuna"
        )
    if adds_bos(tokenizer) and "bos_token" not in text:
        text = "{{- bos_token }}" + text
    tokenizer.chat_template = text


def stop_id(tokenizer: "PreTrainedTokenizerBase", stop: str) -> int | None:
    """The one token that `stop` is, or None where it is several or unknown."""
    ids: list[int] = tokenizer(stop, add_special_tokens=False)["input_ids"]
    return ids[0] if tokenizer.convert_ids_to_tokens(ids) == [stop] else None


def adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer begins every text with its BOS token."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def _find(name: str) -> Template:
    if name in TEMPLATES:
        return TEMPLATES[name]
    close = get_close_matches(name, TEMPLATES, n=1)
    hint = f", did you mean {close[0]!r}" if close else ""
    raise ValueError(f"unknown chat template {name!r}{hint}? valid: {', '.join(TEMPLATES)}")


def _read(name: str) -> str:
    return files(__package__).joinpath(f"{name}.jinja").read_text(encoding="utf-8")
