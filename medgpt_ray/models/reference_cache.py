"""Log-probs of sequences under a frozen reference, kept on disk so that they are computed once."""

import hashlib
import os
from collections.abc import Sequence as Seq
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medgpt_ray.config.schema import QLoRA
from medgpt_ray.config.supervised import SupervisedModel
from medgpt_ray.models.load import CACHE, resolve_model
from medgpt_ray.models.packing import Sequence


class ReferenceCache:
    """Summed log-prob of the trained tokens by a hash of the sequence, for one model and type."""

    def __init__(self, model: SupervisedModel) -> None:
        self.file = CACHE / "reference" / f"{_fingerprint(model)}.parquet"
        self.sums: dict[bytes, float] = {}
        if self.file.exists():
            table = pq.read_table(self.file)
            self.sums = dict(zip(table["key"].to_pylist(), table["sum"].to_pylist(), strict=True))

    def missing(self, sequences: Seq[Sequence], unit: int) -> list[Sequence]:
        """Units of sequences that are not known as a whole."""
        known = [_key(sequence) in self.sums for sequence in sequences]
        return [
            sequence
            for at in range(0, len(sequences), unit)
            if not all(known[at : at + unit])
            for sequence in sequences[at : at + unit]
        ]

    def add(self, sequences: Seq[Sequence], log_probs: Seq[np.ndarray]) -> None:
        """`log_probs` [T] of each sequence."""
        for sequence, values in zip(sequences, log_probs, strict=True):
            total = float((values * sequence.fields["trained"]).sum(dtype=np.float64))
            self.sums[_key(sequence)] = total

    def log_probs(self, sequences: Seq[Sequence]) -> list[np.ndarray]:
        """[T] float32 of each sequence: its sum, spread evenly over its trained tokens."""
        found = []
        for sequence in sequences:
            trained = sequence.fields["trained"]
            found.append((trained * (self.sums[_key(sequence)] / trained.sum())).astype(np.float32))
        return found

    def save(self) -> None:
        """Write the file anew, whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"key": list(self.sums), "sum": list(self.sums.values())})
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}.tmp")
        try:
            pq.write_table(table, temporary)
            temporary.replace(self.file)
        finally:
            temporary.unlink(missing_ok=True)


def _key(sequence: Sequence) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((sequence.prompt_ids, sequence.completion_ids)).encode())
    digest.update(sequence.fields["trained"].tobytes())
    return digest.digest()


def _fingerprint(model: SupervisedModel) -> str:
    """Of the weights' files by name, size and time, the adapter's among them, and of what changes
    how they compute."""
    bits = model.adaptation.bits if isinstance(model.adaptation, QLoRA) else None
    others = model.dtype, bits, model.rope_scaling, model.new_tokens
    digest = hashlib.blake2b(repr(others).encode(), digest_size=16)
    folders = [resolve_model(model.path), *([Path(model.adapter)] if model.adapter else [])]
    for folder in folders:
        digest.update(str(folder.resolve()).encode())
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")]):
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
