"""GGUF, for llama.cpp and what is built on it: written by llama.cpp's own converter, read back by
transformers.
"""

import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.merge import compare, logits

SCRIPT = "convert_hf_to_gguf.py"
CONVERTER_SECONDS = 4 * 3600.0
TOLERANCE = 0.1
"""Of the largest logit. q8_0 of a model of 135M parameters is 0.03 away, one with permuted heads is
another model."""


def find_converter(llama_cpp: str) -> Path:
    """The converter in a folder of llama.cpp."""
    script = Path(llama_cpp).expanduser() / SCRIPT
    if not script.is_file():
        raise ModelError(
            f"--llama-cpp: no {SCRIPT} in {llama_cpp}: name a clone of "
            "https://github.com/ggml-org/llama.cpp, or vendor/llama.cpp of the source package of "
            "llama-cpp-python"
        )
    return script.resolve()


def write_gguf(converter: Path, directory: Path, file: Path, type: str) -> None:
    """The model of `directory` as `file`; `ModelError` with the converter's last words."""
    command = [sys.executable, converter, directory, "--outfile", file, "--outtype", type]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=CONVERTER_SECONDS, check=False
    )
    if done.returncode or not file.is_file():
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
        raise ModelError(
            f"--gguf: {converter} ended with {done.returncode}: {last}; nothing was written"
        )


def check_gguf(file: Path, network: torch.nn.Module) -> str:
    """Reads `file` back and says in words how far its logits are from those of `network`, which
    becomes float32; raises `ModelError` where they are another model's.
    """
    architecture = AutoConfig.from_pretrained(network.name_or_path).model_type
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        return f"not read back, since transformers reads no GGUF of {architecture} models"
    again = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    expected = logits(network.float())
    difference = compare(expected, logits(again.eval()), file.name, TOLERANCE)
    return f"read back, logits differ by {difference:.1e} at most"
