"""Runs a learner group of plain processes: what a test does on one rank, without Ray."""

import multiprocessing
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runs import SECONDS


def run_ranks(job: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """`job(*arguments)` in each of `ranks` processes with torch.distributed up."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepspeed", "peft", "transformers.models.auto.modeling_auto"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = context.Queue()
    processes = [
        context.Process(target=_rank, args=(job, rank, ranks, port, queue, arguments))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    answers = dict(queue.get(timeout=SECONDS) for _ in processes)
    for process in processes:
        process.join(SECONDS)
        assert process.exitcode == 0, answers
    return [answers[rank] for rank in range(ranks)]


def _rank(
    job: Callable[..., Any], rank: int, ranks: int, port: int, queue: Any, arguments: Any
) -> None:
    import os
    import traceback

    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        DS_ACCELERATOR="cpu",
        OMP_NUM_THREADS="1",
    )
    import torch

    from medgpt_ray.models.deepspeed import join_group

    torch.set_num_threads(1)
    join_group(gpus=0)
    try:
        queue.put((rank, job(*arguments)))
    except BaseException:
        queue.put((rank, traceback.format_exc()))
        raise


def make_batch() -> list[Any]:
    """Twelve sequences of three prompts, with an advantage for each token."""
    import numpy as np

    from medgpt_ray.models.packing import Sequence

    rng = np.random.default_rng(1)
    batch = []
    for length in (5, 9, 3):
        prompt = tuple(int(t) for t in rng.integers(5, 260, length))
        for count in (4, 7, 2, 6):
            completion = tuple(int(t) for t in rng.integers(5, 260, count))
            weights = rng.normal(size=count).astype(np.float32)
            batch.append(Sequence(prompt, completion, {"weight": weights}))
    return batch


def weighted(log_probs: Any, entropies: Any, micro: Any) -> Any:
    """A loss whose normaliser is the batch's 57 tokens."""
    return -(log_probs * micro.fields["weight"]).sum() / 57, {"entropy": entropies.sum()}


def learner(
    model: Path,
    stage: int,
    max_tokens: int = 400,
    kind: str = "full",
    dtype: str = "float32",
) -> Any:
    """A learner that projects five tokens at a time; ZeRO-3 shards even the tiny tensors."""
    from medgpt_ray.config import schema
    from medgpt_ray.models import learner as module
    from medgpt_ray.models.load import load_policy
    from medgpt_ray.models.policy import Policy

    adaptation = {
        "full": schema.Full(),
        "lora": schema.LoRA(rank=4),
        "qlora": schema.QLoRA(rank=4),
    }[kind]
    settings = module.deepspeed_config

    def sharded(*arguments: Any) -> dict[str, Any]:
        made = settings(*arguments)
        made["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return made

    module.deepspeed_config = sharded
    section = schema.Model(path=str(model), dtype=dtype, adaptation=adaptation)
    config = schema.Learner(
        zero_stage=stage,
        learning_rate=1e-3,
        max_tokens_per_microbatch=max_tokens,
        projection_chunk_tokens=5,
    )
    made = module.Learner(Policy(load_policy(section, 0), 1.0), section, config, 0)
    module.deepspeed_config = settings
    return made


def step(learner: Any, batch: Any, loss: Any) -> dict[str, float]:
    """The next update of a run of ten."""
    return learner.step(batch, loss, (learner.updates / 10, (learner.updates + 1) / 10))


def exported_weights(learner: Any) -> dict[str, Any]:
    import torch

    from medgpt_ray.models.weights import iterate

    return {name: tensor.numpy() for name, tensor in iterate(learner.module, torch.float32)}
