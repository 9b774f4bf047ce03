"""Does the engine compute with the learner's weights? Compared after every sync, tensor by tensor.

Both sides digest the same columns of every matrix (other columns at every version) and all of every
vector, in the engine's dtype. The engine does not read its parameters: it multiplies one-hot rows
through its own kernels, which gives the columns back exactly. So a stale copy that a kernel has
packed away is caught as well as a tensor that never arrived.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

COLUMNS = 16


class WeightAuditError(RuntimeError):
    """Learner and engine hold different weights; the message names the tensors."""


def columns(width: int, version: int) -> Tensor:
    """Which of a matrix's `width` input columns are compared at `version`."""
    chosen = np.random.default_rng(version).permutation(width)[:COLUMNS]
    return torch.from_numpy(np.sort(chosen))


def digest(values: Tensor) -> str:
    """Of the values as float32; -0 counts as 0."""
    data = (values.detach().float().cpu() + 0.0).contiguous().numpy().tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def learner_digest(weight: Tensor, version: int) -> str:
    """Digest of an exported tensor, [out, in] or [width], already in the engine's dtype."""
    if weight.ndim == 1:
        return digest(weight)
    return digest(weight[:, columns(weight.shape[1], version).to(weight.device)])


@torch.no_grad()
def engine_digests(model: nn.Module, version: int) -> dict[str, str]:
    """HF name -> digest, of everything a vLLM model with one shard holds."""
    return dict(_engine_digests(model, version))


def _engine_digests(model: nn.Module, version: int) -> Iterator[tuple[str, str]]:
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        VocabParallelEmbedding,
    )

    fused = getattr(model, "packed_modules_mapping", {})
    for path, module in model.named_modules():
        if isinstance(module, LinearBase):
            parent, _, own = path.rpartition(".")
            names = [f"{parent}.{part}" for part in fused.get(own, [own])]
            sizes = module.output_partition_sizes
            matrix = _through_kernel(module, module.input_size, version)[: sum(sizes)]
            for name, part in zip(names, matrix.split(sizes), strict=True):
                yield f"{name}.weight", digest(part)
            if module.bias is not None:
                for name, part in zip(names, module.bias.split(sizes), strict=True):
                    yield f"{name}.bias", digest(part)
        elif isinstance(module, ParallelLMHead):
            matrix = _through_kernel(module, module.embedding_dim, version)
            yield f"{path}.weight", digest(matrix[: module.org_vocab_size])
        elif isinstance(module, VocabParallelEmbedding):
            matrix = module.weight[: module.org_vocab_size]
            yield f"{path}.weight", learner_digest(matrix, version)
        else:
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{path}.{name}", learner_digest(parameter, version)


def _through_kernel(module: nn.Module, width: int, version: int) -> Tensor:
    """[out, columns] of the weight the module's kernel really uses."""
    chosen = columns(width, version)
    rows = torch.zeros(len(chosen), width, dtype=_compute_dtype(module))
    rows[torch.arange(len(chosen)), chosen] = 1
    device = next(module.parameters()).device
    return module.quant_method.apply(module, rows.to(device)).T


def _compute_dtype(module: nn.Module) -> torch.dtype:
    return getattr(module, "params_dtype", None) or next(module.parameters()).dtype


def compare(learner: dict[str, str], engine: dict[str, str], worker: str, version: int) -> None:
    """Raise with the names that differ, or that one side alone knows.

    A head that the learner ties to the embedding is compared with the embedding.
    """
    expected = dict(learner)
    if "lm_head.weight" in engine and "lm_head.weight" not in expected:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    wrong = sorted(
        name for name in expected.keys() | engine.keys() if expected.get(name) != engine.get(name)
    )
    if wrong:
        listed = ", ".join(wrong[:8]) + (f" and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise WeightAuditError(
            f"{worker} does not hold policy version {version}: {listed} "
            f"differ{'s' if len(wrong) == 1 else ''} from the learner's weights"
        )
