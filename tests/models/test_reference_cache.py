"""Reference log-probs on disk: what they are of is in their name."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgpt_ray.config.schema import LoRA, QLoRA
from medgpt_ray.config.supervised import SupervisedModel
from medgpt_ray.models import reference_cache
from medgpt_ray.models.packing import Sequence
from medgpt_ray.models.reference_cache import ReferenceCache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_cache, "CACHE", tmp_path / "cache")


def sequence(*ids: int) -> Sequence:
    trained = np.ones(len(ids) - 1, dtype=np.float32)
    return Sequence(ids[:1], ids[1:], {"trained": trained})


def test_what_was_scored_is_known_again(tiny_model: Path) -> None:
    section = SupervisedModel(path=str(tiny_model), dtype="float32")
    known, new = sequence(5, 6, 7), sequence(5, 6, 8)
    first = ReferenceCache(section)
    assert first.missing([known, new], 2) == [known, new]
    first.add([known], [np.array([-1.0, -3.0], dtype=np.float32)])
    first.save()
    again = ReferenceCache(section)
    assert again.missing([known, new], 1) == [new]
    assert again.missing([known, new], 2) == [known, new]  # a pair is scored as a whole
    assert again.log_probs([known])[0].sum() == pytest.approx(-4.0)


def test_another_reference_has_a_file_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    def file(**changes: Any) -> Path:
        return ReferenceCache(SupervisedModel(path=str(tiny_model), **changes)).file

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"12")
    (adapter / "adapter_config.json").write_text("{}")
    plain = {"dtype": "float32", "adaptation": LoRA()}
    files = [
        file(**plain),
        file(**plain | {"dtype": "bfloat16"}),
        file(**plain | {"adaptation": QLoRA()}),
        file(**plain | {"adaptation": QLoRA(bits=8)}),
        file(**plain | {"new_tokens": ("HbA1c",)}),
        file(**plain | {"adapter": str(adapter)}),
    ]
    (adapter / "adapter_model.safetensors").write_bytes(b"123")  # trained anew in its place
    files.append(file(**plain | {"adapter": str(adapter)}))
    assert len(set(files)) == len(files)
    assert file(**plain | {"adaptation": LoRA(rank=2)}) == files[0]  # without adapters the same
    shutil.rmtree(adapter)
