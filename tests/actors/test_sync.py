"""Weight sync into a real vLLM engine: right after it, and caught by the audit when it is not.

Learner and engine live in this one process, so the transfer runs without Ray.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgpt_ray.actors.sync.audit import WeightAuditError, compare
from medgpt_ray.config.schema import Model
from medgpt_ray.models.load import load_frozen
from medgpt_ray.models.packing import Sequence, micro_batches
from medgpt_ray.models.policy import Policy, score

BUCKET = 32 * 1024
"""Smaller than the embedding, so that a transfer takes several buckets."""


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Any:
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND="nobind")
    from vllm import LLM
    from vllm.config import WeightTransferConfig

    import medgpt_ray.actors.sync.register  # noqa: F401

    return LLM(
        model=str(tiny_model),
        load_format="dummy",
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=512,
        kv_cache_memory_bytes=32 * 2**20,
        logprobs_mode="processed_logprobs",
        weight_transfer_config=WeightTransferConfig(backend="shm"),
        worker_extension_cls="medgpt_ray.actors.engine_extension.EngineExtension",
    )


class Client:
    """The engine in this process; `drop` is a tensor that never reaches it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.drop: str | None = None
        self.reset_cache = True
        self.largest = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.engine.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        self.engine.start_weight_update()

    def update_weights(self, update_info: Any) -> None:
        self.largest = max(self.largest, update_info["nbytes"])
        kept = [entry for entry in update_info["entries"] if entry[0] != self.drop]
        self.engine.update_weights({"update_info": {**update_info, "entries": kept}})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.engine.finish_weight_update()
        if self.reset_cache:
            assert self.engine.reset_prefix_cache()


@pytest.fixture
def client(engine: Any) -> Client:
    return Client(engine)


@pytest.fixture
def policy(tiny_model: Path) -> Policy:
    return Policy(load_frozen(Model(path=str(tiny_model), dtype="float32")), 0.7)


@pytest.fixture
def source(policy: Policy) -> Any:
    from medgpt_ray.actors.sync.sender import PolicySource

    return PolicySource(policy, torch.float32)


@pytest.fixture
def sender(client: Client, source: Any) -> Any:
    from medgpt_ray.actors.sync.shm import ShmSender, ShmTrainerInit

    return ShmSender.trainer_init(
        ShmTrainerInit(bucket_bytes=BUCKET, rank=0), client=client, source=source
    )


def perturb(policy: Policy, seed: int, scale: float = 0.02) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def largest_difference(engine: Any, policy: Policy, prompt_tokens: int = 200) -> float:
    """Between the engine's log-probs of what it samples and the learner's of the same tokens."""
    from vllm import SamplingParams

    prompts = [tuple(5 + (7 * i + p) % 250 for i in range(prompt_tokens)) for p in range(3)]
    outputs = engine.generate(
        [{"prompt_token_ids": list(prompt)} for prompt in prompts],
        SamplingParams(temperature=0.7, max_tokens=24, logprobs=0, detokenize=False),
        use_tqdm=False,
    )
    batch, sampled = [], []
    for prompt, output in zip(prompts, outputs, strict=True):
        ids = tuple(output.outputs[0].token_ids)
        batch.append(Sequence(prompt, ids))
        rows = zip(ids, output.outputs[0].logprobs, strict=True)
        sampled.append(np.array([row[token].logprob for token, row in rows]))
    mine = score(policy, micro_batches(batch, max_tokens=2000, chunk_tokens=64))
    return max(float(np.abs(mine[i] - values).max()) for i, values in enumerate(sampled))


def audit(engine: Any, source: Any, version: int) -> None:
    (digests,) = engine.collective_rpc("audit_digests", args=(version,))
    compare(source.digests, digests, "rollout worker 0", version)


def send(sender: Any, version: int) -> None:
    sender.source.version = version
    sender.send_weights()


def test_after_every_sync_the_engine_agrees_and_passes_the_audit(
    engine: Any, client: Client, policy: Policy, source: Any, sender: Any
) -> None:
    for version in range(3):
        perturb(policy, version)
        send(sender, version)
        audit(engine, source, version)
        assert largest_difference(engine, policy) <= 1e-4


def test_buckets_bound_the_memory(client: Client, policy: Policy, sender: Any) -> None:
    largest = max(p.numel() * 4 for p in policy.parameters())
    for version in (0, 1):
        send(sender, version)
        assert 0 < client.largest <= max(BUCKET, largest)
        assert os.fstat(sender.descriptor).st_size == 2 * max(BUCKET, largest)


def test_an_engine_that_missed_a_sync_is_caught(
    engine: Any, policy: Policy, source: Any, sender: Any
) -> None:
    send(sender, 0)
    perturb(policy, 1, scale=1e-5)
    source.version = 1
    for _ in source:  # the learner's digests of weights that were never sent
        pass
    with pytest.raises(WeightAuditError, match=r"version 1: .*differ from"):
        audit(engine, source, 1)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
    ],
)
def test_one_tensor_that_never_arrived_is_named(
    engine: Any, client: Client, policy: Policy, source: Any, sender: Any, name: str
) -> None:
    send(sender, 0)
    perturb(policy, 1)
    client.drop = name
    send(sender, 1)
    with pytest.raises(WeightAuditError, match=name.replace(".", r"\.")):
        audit(engine, source, 1)


@pytest.fixture
def stale_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: a tied head that keeps its packed copy, because nothing repacks it."""
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    monkeypatch.setattr(
        UnquantizedEmbeddingMethod, "process_weights_after_loading", lambda self, layer: None
    )


def test_a_stale_tied_head_is_named(
    engine: Any, policy: Policy, source: Any, sender: Any, stale_head: None
) -> None:
    perturb(policy, 5)
    send(sender, 5)
    with pytest.raises(WeightAuditError, match=r"lm_head\.weight differs"):
        audit(engine, source, 5)


def test_log_probs_after_a_sync_need_the_prefix_cache_reset(
    engine: Any, client: Client, policy: Policy, sender: Any
) -> None:
    """Prompts of 200 tokens fill a cache block of 128; without the reset the old one answers."""
    send(sender, 0)
    assert largest_difference(engine, policy) <= 1e-4
    perturb(policy, 1)
    client.reset_cache = False
    send(sender, 1)
    assert largest_difference(engine, policy) > 1e-3
    client.reset_cache = True
    send(sender, 2)
    assert largest_difference(engine, policy) <= 1e-4
