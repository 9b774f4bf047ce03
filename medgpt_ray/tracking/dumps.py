"""Steps kept whole: what went into an update, and what came of it, for `medgpt replay`.

dumps/step_N/  learner/ critic/       the learners' state before the update
               samples.parquet        with their rewards
               step.json              group of each sample, KL coefficient, metrics afterwards
               fields.npz             name/i: a number for each token of sequence i
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgpt_ray.tracking.rundir import by_step, write_atomically
from medgpt_ray.tracking.samples import read_samples, write_samples
from medgpt_ray.types import Sample

Fields = Sequence[Mapping[str, np.ndarray]]
"""Of each sequence: name -> [T]."""


@dataclass
class Dump:
    """A dump on its way; it has its name only once it is whole."""

    scratch: Path
    target: Path
    keep_last: int

    @classmethod
    def begin(cls, folder: Path, step: int, keep_last: int) -> "Dump":
        scratch = folder / f".step_{step}.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        return cls(scratch, folder / f"step_{step}", keep_last)

    def write(self, samples: Sequence[Sample], group: list[int], kl_coefficient: float) -> None:
        """What goes into the update."""
        write_samples(self.scratch / "samples.parquet", samples)
        self.step: dict[str, Any] = {"group": group, "kl_coefficient": kl_coefficient}

    def finish(self, metrics: Mapping[str, float], sequences: Sequence[Any]) -> None:
        """What came of it; `sequences` have `fields`. Older dumps go, but for `keep_last`."""
        named = {
            f"{name}/{index}": values
            for index, sequence in enumerate(sequences)
            for name, values in sequence.fields.items()
        }
        np.savez(self.scratch / "fields.npz", **named)
        text = json.dumps({**self.step, "metrics": dict(metrics)}, indent=1)
        write_atomically(self.scratch / "step.json", text)
        shutil.rmtree(self.target, ignore_errors=True)
        self.scratch.rename(self.target)
        dumps = by_step(self.target.parent)
        for step in sorted(dumps)[: -self.keep_last]:
            shutil.rmtree(dumps[step])


@dataclass(frozen=True)
class Recorded:
    """A dump as it was written."""

    samples: list[Sample]
    group: list[int]
    kl_coefficient: float
    metrics: dict[str, float]
    fields: list[dict[str, np.ndarray]]


def read_dump(path: Path) -> Recorded:
    step = json.loads((path / "step.json").read_text())
    samples = read_samples(path / "samples.parquet")
    fields: list[dict[str, np.ndarray]] = [{} for _ in samples]
    with np.load(path / "fields.npz", allow_pickle=False) as stored:
        for key in stored.files:
            name, _, index = key.rpartition("/")
            fields[int(index)][name] = stored[key]
    return Recorded(samples, step["group"], step["kl_coefficient"], step["metrics"], fields)
