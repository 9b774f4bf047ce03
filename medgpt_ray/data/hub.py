"""Data sets of the Hugging Face hub, by name."""

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from medgpt_ray.data.rows import DataError

if TYPE_CHECKING:
    from datasets import Dataset

BATCH_ROWS = 1000


def split_of(path: str) -> str:
    """`hf:NAME` is its train split, or the only one that it has; `hf:NAME@CONFIG` the same of one
    of its configurations."""
    whole, _, split = path.removeprefix("hf:").partition(":")
    name, _, config = whole.partition("@")
    if not name:
        raise DataError([f"{path}: expected hf:NAME, hf:NAME:SPLIT or hf:NAME@CONFIG:SPLIT"])
    with _hub_faults(path) as datasets:
        if not config:
            configs = datasets.get_dataset_config_names(name)
            if datasets.get_dataset_default_config_name(name) is None and len(configs) > 1:
                raise DataError(
                    [f"{path}: has the configurations {', '.join(configs)}: hf:{name}@{configs[0]}"]
                )
        if not split:
            splits = datasets.get_dataset_split_names(name, config or None)
            if "train" not in splits and len(splits) > 1:
                raise DataError(
                    [f"{path}: has the splits {', '.join(splits)}: add one as {path}:NAME"]
                )
            split = "train" if "train" in splits else splits[0]
    return f"hf:{whole}:{split}"


@functools.lru_cache(maxsize=4)
def load(path: str) -> "Dataset":
    """The split that `hf:NAME:SPLIT` or `hf:NAME@CONFIG:SPLIT` is."""
    whole, _, split = path.removeprefix("hf:").partition(":")
    name, _, config = whole.partition("@")
    with _hub_faults(path) as datasets:
        return datasets.load_dataset(name, config or None, split=split)


def sha256(path: str) -> str:
    """Of the columns and rows of a split, however its files are cut."""
    rows = load(path).with_format("arrow")
    digest = hashlib.sha256()
    for table in rows.iter(BATCH_ROWS):
        copied = table.take(list(range(len(table))))  # or bytes around a slice would count
        digest.update(copied.schema.remove_metadata().serialize())
        for batch in copied.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


@contextmanager
def _hub_faults(path: str) -> Iterator[Any]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        yield datasets
    except DataError:
        raise
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError([f"{path}: cannot be loaded: {' '.join(str(error).split())}"]) from None
