"""`medgpt export`: a model to hand on, adapter merged, in the data type and bits asked for, with a
model card; on request measured beside what it was made from.

Everything is made and checked under a temporary name beside the output, which then appears whole.
"""

import errno
import glob
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from medgpt_ray.config.schema import QLoRA
from medgpt_ray.data.rows import DataError
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.export import open_to_others, save_generation_config
from medgpt_ray.models.gguf import check_gguf, find_converter, write_gguf
from medgpt_ray.models.load import open_directory, resolve_model
from medgpt_ray.models.measure import SPEED_TOKENS, perplexity, size_bytes, tokens_per_second
from medgpt_ray.models.merge import (
    Source,
    compare,
    find_source,
    logits,
    open_adapted,
    open_tokenizer_of,
    write_merged,
)
from medgpt_ray.models.quantised import quantisation
from medgpt_ray.tracking.card import model_card
from medgpt_ray.tracking.format import number


@dataclass(frozen=True)
class Measured:
    """A row of the comparison."""

    name: str
    bytes: int
    tokens_per_s: float
    perplexity: float


@dataclass(frozen=True)
class Gguf:
    """One more file in this format, made by the converter in a folder of llama.cpp."""

    type: str
    """f32, f16, bf16 or q8_0."""
    llama_cpp: str

    @classmethod
    def asked(cls, type: str | None, llama_cpp: str | None) -> "Gguf | None":
        """By two options that belong together."""
        if type and llama_cpp:
            return cls(type, llama_cpp)
        if type or llama_cpp:
            raise ModelError("--gguf TYPE and --llama-cpp FOLDER, whose converter runs: give both")
        return None


def export(
    path: str,
    output: str,
    dtype: str | None,
    bits: int | None,
    text: str | None,
    gguf: Gguf | None = None,
) -> None:
    """Write the model `path` to the new directory `output`; `text` is a file to compare the two on.

    Without a `dtype` it is that of the model. Raises `ModelError` or `DataError`, and then there is
    no `output`.
    """
    disable_progress_bar()
    console, target = Console(), Path(output)
    source = find_source(path)
    dtype = dtype or _own_dtype(source)
    if gguf:
        converter = _converter(gguf, source, bits)
    ids = _read_text(text, source) if text else []
    table: list[Measured] = []
    with _appearing(target) as scratch:
        if source.adapter is None:
            whole = resolve_model(source.model.path)
            if ids:
                table.append(_measure("before", _open(source, whole), [whole], ids))
        else:
            whole = scratch / "merged"
            adapted = open_adapted(source, open_tokenizer_of(source))
            difference = write_merged(adapted, source, open_tokenizer_of(source), whole)
            console.print(f"adapter merged: logits differ by {difference:.1e} at most")
            if ids:
                both = [resolve_model(source.model.path), source.adapter]
                table.append(_measure("before: base and adapter", adapted, both, ids))
            del adapted
        final = scratch / "final"
        exported = _convert(source, whole, final, dtype, bits)
        if ids:
            table.append(_measure(f"after: {_format(dtype, bits)}", exported, [final], ids))
        facts = _facts(final, source, dtype, bits)
        if gguf:
            file = final / f"{target.name}-{gguf.type}.gguf"
            write_gguf(converter, final, file, gguf.type)
            console.print(f"{file.name}: {check_gguf(file, exported)}")
            facts["GGUF"] = f"{file.name}, {file.stat().st_size / 2**20:,.1f} MiB"
        card = model_card(target.name, facts, source.run)
        (final / "README.md").write_text(card, encoding="utf-8")
        final.rename(target)
    size = size_bytes(target) / 2**20
    console.print(f"{target}: {facts['architecture']}, {_format(dtype, bits)}, {size:,.1f} MiB")
    if ids:
        console.print(_comparison(table, len(ids)))


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A scratch directory beside `target`, on its disk, that is gone after the block."""
    if os.path.lexists(target):
        raise ModelError(f"--output: {target} exists: name a new directory")
    if not target.parent.is_dir():
        raise ModelError(f"--output: {target.parent} is no directory")
    own = f".{target.name}.{platform.node()}."  # others may write to a disk that they share
    for left_over in target.parent.glob(f"{glob.escape(own)}*.tmp"):  # of exports that were killed
        process = left_over.stem.removeprefix(own)
        if process.isdigit() and not _runs(int(process)):
            shutil.rmtree(left_over, ignore_errors=True)
    scratch = target.with_name(f"{own}{os.getpid()}.tmp")
    try:
        scratch.mkdir()
        yield scratch
    except Exception as error:  # safetensors and tokenizers have no class for a full disk
        reasons = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)]
        full = next((reason for reason in reasons if reason in str(error)), None)
        if full is None:
            raise
        raise ModelError(f"--output: {target}: {full}: free some, or name another disk") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether another process of this number does."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return process != os.getpid()


def _own_dtype(source: Source) -> str:
    directory = resolve_model(source.model.path)
    if source.run is not None and source.run.model.is_dir():
        directory = source.run.model
    return str(AutoConfig.from_pretrained(directory).dtype or torch.float32).removeprefix("torch.")


def _converter(gguf: Gguf, source: Source, bits: int | None) -> Path:
    """It reads whole weights of models that write."""
    if bits:
        raise ModelError("--gguf: is made from whole weights: leave out --bits")
    if source.reward:
        raise ModelError(f"--gguf: {source.path} is a reward model, and llama.cpp wants text")
    return find_converter(gguf.llama_cpp)


def _read_text(file: str, source: Source) -> list[int]:
    """Token ids of the text to compare on."""
    if source.reward:
        raise ModelError(f"{source.path}: is a reward model, which has no perplexity to --compare")
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError([f"--compare: {file}: cannot be read: {error}"]) from None
    ids = list(open_tokenizer_of(source)(text, verbose=False).input_ids)
    if len(ids) <= SPEED_TOKENS:
        raise DataError([f"--compare: {file}: {len(ids)} tokens, more than {SPEED_TOKENS} needed"])
    return ids


def _open(source: Source, directory: Path, **options: Any) -> Any:
    return open_directory(source.kind, directory, source.path, **{"dtype": "auto"} | options).eval()


def _convert(source: Source, whole: Path, final: Path, dtype: str, bits: int | None) -> Any:
    """Write `whole` in another format; returns it as it opens again, compared with what was
    written.
    """
    if hasattr(AutoConfig.from_pretrained(whole), "quantization_config"):
        raise ModelError(f"{source.path}: is quantised: export the model that it was made from")
    kind = getattr(torch, dtype)
    options = quantisation(QLoRA(bits=bits), kind) if bits else {}  # type: ignore[arg-type]
    network = _open(source, whole, dtype=kind, **options)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    generates = network.can_generate()
    if generates:
        network.generation_config = GenerationConfig()  # written below
    network.save_pretrained(final)  # before any forward pass, which repacks 4-bit weights on CPU
    if generates:
        save_generation_config(whole, tokenizer, final)
    open_to_others(final)
    tokenizer.save_pretrained(final)
    again = _open(source, final)
    compare(logits(network), logits(again), f"{source.path}: what was written")
    return again


def _format(dtype: str, bits: int | None) -> str:
    return f"{bits} bits (bitsandbytes), the rest {dtype}" if bits else dtype


def _facts(final: Path, source: Source, dtype: str, bits: int | None) -> dict[str, str]:
    config = AutoConfig.from_pretrained(final)
    made = "base and adapter, merged" if source.adapter else "model"
    return {
        "architecture": config.architectures[0],
        "weights": f"{_format(dtype, bits)}, safetensors, {size_bytes(final) / 2**20:,.1f} MiB",
        "made from": f"{made} of {Path(source.path).name}",
        "context": f"{config.max_position_embeddings} tokens",
    }


def _measure(name: str, network: Any, directories: Sequence[Path], ids: list[int]) -> Measured:
    return Measured(
        name,
        sum(size_bytes(directory) for directory in directories),
        tokens_per_second(network, ids),
        perplexity(network, ids),
    )


def _comparison(rows: list[Measured], tokens: int) -> Table:
    table = Table(
        "", "MiB", "tokens/s", f"perplexity of {tokens:,} tokens", box=None, pad_edge=False
    )
    for row in rows:
        size = f"{row.bytes / 2**20:,.1f}"
        table.add_row(row.name, size, number(row.tokens_per_s), f"{row.perplexity:.4g}")
    return table
