"""Perplexity and token accuracy of a model on a file, by the supervised stages' own data path."""

import gc
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from medgpt_ray.config.loader import ConfigError
from medgpt_ray.config.schema import Model
from medgpt_ray.config.supervised import Source, SupervisedData
from medgpt_ray.data.examples import Recipe, Work, renderer_of, validation_rows
from medgpt_ray.data.render import Dropped
from medgpt_ray.data.rows import BadRow, DataError
from medgpt_ray.data.sources import open_source
from medgpt_ray.evaluation import served
from medgpt_ray.evaluation.subject import Subject
from medgpt_ray.evaluation.summary import Measured
from medgpt_ray.models.likelihood import Likelihood, likelihoods
from medgpt_ray.models.load import load_frozen
from medgpt_ray.models.packing import Sequence

MICROBATCH_TOKENS = 4096


@dataclass(frozen=True)
class Texts:
    """The rows of a file as one model's tokens."""

    sequences: list[Sequence]
    """With the field `trained` [T]: the tokens that count."""
    path: str
    """As it was named."""
    files: dict[str, str]
    dropped: int
    """Rows that do not fit into the limit on tokens."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(one.prompt_ids) + len(one.completion_ids) for one in self.sequences)

    @property
    def sha256(self) -> str:
        """Of all token ids and of which of them count: what a prompt's hash is for a question."""
        digest = sha256()
        for one in self.sequences:
            ids = np.array([*one.prompt_ids, -1, *one.completion_ids], dtype=np.int64)
            digest.update(ids.tobytes() + one.fields["trained"].tobytes())
        return digest.hexdigest()


def open_texts(path: str, stage: str, max_tokens: int, tokenizer: Path, limit: int | None) -> Texts:
    """The first `limit` rows of `path` as `stage` (pt or sft) trains on them.

    Raises `DataError` for files or rows that it cannot take, `ConfigError` where none is left.
    """
    source = Source(path=path)
    recipe = Recipe(stage, SupervisedData(train=[source], max_tokens=max_tokens), str(tokenizer), 0)
    found = open_source(source, stage)
    works = [Work(segment, reading, 0, 0, 1.0) for segment, reading in found.segments]
    renderer = renderer_of(recipe.tokenizer, recipe.data)
    sequences: list[Sequence] = []
    dropped = 0
    for row, place in islice(validation_rows(works, recipe, everything=True), limit):
        try:
            rendered = renderer.render(row)
        except BadRow as bad:
            raise DataError([f"{place}: {bad}"]) from None
        if isinstance(rendered, Dropped):
            dropped += 1
            continue
        sequences += [_sequence(one.ids, one.trained) for one in rendered]
    if not sequences:
        raise ConfigError([f"{path}: no row fits into {max_tokens} tokens: raise --max-tokens"])
    return Texts(sequences, path, found.sha256, dropped)


def _sequence(ids: tuple[int, ...], trained: tuple[bool, ...]) -> Sequence:
    start = trained.index(True)
    fields = {"trained": np.array(trained[start:], dtype=np.float32)}
    return Sequence(ids[:start], ids[start:], fields)


def measure_texts(texts: Texts, model: Subject) -> list[Measured]:
    """Perplexity and token accuracy, by the weights or, where they are served, by the server."""
    if model.endpoint is None:
        assert model.directory
        found, by = _by_weights(texts, model.directory)
    else:
        found, by = served.likelihoods(model.endpoint, texts.sequences), "served"
    weights = [float(one.tokens) for one in found]
    facts = {
        "scoring": f"{by}, {sum(one.tokens for one in found):,} tokens",
        "dropped": texts.dropped,
        "data": [{"path": file, "sha256": sha} for file, sha in texts.files.items()],
    }
    common = weights, texts.sha256, model.template, facts
    name = Path(texts.path).stem
    losses = [one.nll / one.tokens for one in found]
    hits = [one.hits / one.tokens for one in found]
    return [
        Measured(name, "perplexity", losses, *common),
        Measured(name, "token accuracy", hits, *common),
    ]


def _by_weights(texts: Texts, directory: Path) -> tuple[list[Likelihood], str]:
    """In float32 on a CPU, bfloat16 on a GPU, whose memory the server wants afterwards."""
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    network = load_frozen(Model(path=str(directory), dtype=dtype)).to(device)
    found = likelihoods(network, texts.sequences, MICROBATCH_TOKENS)
    del network
    gc.collect()
    torch.cuda.empty_cache()
    return found, dtype
