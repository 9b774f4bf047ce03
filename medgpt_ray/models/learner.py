"""The learner: an HF model, PEFT and DeepSpeed behind a handful of verbs. No Ray, no algorithm.

Every rank holds the whole batch and takes its own share of micro-batches. A loss function returns
its micro-batch's part of the *global* loss, already divided by global counts; parts are summed over
micro-batches and ranks, so the gradient does not depend on the cut.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from medgpt_ray.config import schema
from medgpt_ray.models.load import load_policy
from medgpt_ray.models.packing import MicroBatch, Sequence, micro_batches
from medgpt_ray.models.policy import Policy, score

LossFn = Callable[[Tensor, Tensor, MicroBatch], tuple[Tensor, dict[str, Tensor]]]
"""(log_probs [N], entropies [N], micro-batch) -> (part of the loss, metric sums or maxima)."""


class Learner:
    """One rank of a data-parallel group; torch.distributed is up before it is built."""

    def __init__(
        self,
        model: schema.Model,
        config: schema.Learner,
        *,
        temperature: float,
        seed: int,
        total_updates: int,
    ) -> None:
        import deepspeed

        self.config = config
        self.total_updates = total_updates
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.updates = 0
        torch.manual_seed(seed + self.rank)
        self.device = torch.device("cuda") if config.gpus else torch.device("cpu")
        self.policy = Policy(load_policy(model, seed), temperature)
        self.policy.to(self.device)
        self.adapted = hasattr(self.policy.network, "peft_config")
        trainable = [p for p in self.policy.parameters() if p.requires_grad]
        self.engine, *_ = deepspeed.initialize(
            model=self.policy,
            model_parameters=trainable,
            config=_deepspeed_config(model, config),
            dist_init_required=False,
        )
        self.grad_norm: float | None = None
        if config.zero_stage == 0:
            # DeepSpeed clips here without telling the norm; clip in its place, after the reduction.
            self.engine.optimizer.register_step_pre_hook(self._clip)
        if not isinstance(self.engine, deepspeed.DeepSpeedEngine):
            raise TypeError(f"deepspeed.initialize returned {type(self.engine)}")

    def step(self, sequences: Seq[Sequence], loss_fn: LossFn) -> dict[str, float]:
        """One optimiser update from a global batch; the metrics are sums (maxima for `*/max`)."""
        learning_rate = self._learning_rate(self.updates)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.train()
        totals: dict[str, Tensor] = {}
        tokens = 0
        for micro in self._share(sequences):
            log_probs, entropies = self.engine(micro)
            loss, metrics = loss_fn(log_probs, entropies, micro)
            counts = 0 if micro.idle else 1
            # DeepSpeed averages gradients over ranks; the parts have to be summed.
            self.engine.backward(loss * self.ranks * counts)
            tokens += micro.tokens * counts
            parts = {"loss": loss, **metrics}
            _add(totals, {name: value.detach() * counts for name, value in parts.items()})
        self.engine.step()
        self.updates += 1
        _add(totals, {"tokens/learned": torch.tensor(float(tokens))})
        result = self._reduce(totals)
        norm = self.engine.get_global_grad_norm() if self.grad_norm is None else self.grad_norm
        result["grad_norm"] = float(norm)
        result["learning_rate"] = learning_rate
        if not math.isfinite(result["grad_norm"]) or not math.isfinite(result["loss"]):
            raise FloatingPointError(
                f"update {self.updates}: loss {result['loss']}, gradient norm "
                f"{result['grad_norm']}; lower learner.learning_rate or look at the step's samples"
            )
        return result

    def _clip(self, optimizer: Any, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.grad_norm = float(
            torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        )

    @torch.no_grad()
    def log_probs(self, sequences: Seq[Sequence], adapter: bool = True) -> list[np.ndarray]:
        """Log-probs of every sequence's completion, each [T] float32, on every rank.

        `adapter=False` switches LoRA off: the reference model without a second copy of the weights.
        """
        if not adapter and not self.adapted:
            raise ValueError("a policy without adapters cannot be its own reference")
        self.engine.eval()
        switch = nullcontext() if adapter else self.policy.network.disable_adapter()
        with switch:
            mine = score(self.engine, self._share(sequences))
        shares: list[Any] = [None] * self.ranks
        dist.all_gather_object(shares, mine)
        merged = {index: values for share in shares for index, values in share.items()}
        return [merged[index] for index in range(len(sequences))]

    def _share(self, sequences: Seq[Sequence]) -> list[MicroBatch]:
        limits = self.config.max_tokens_per_microbatch, self.config.projection_chunk_tokens
        micros = micro_batches(sequences, *limits, self.rank, self.ranks)
        return [micro.to(self.device) for micro in micros]

    def _learning_rate(self, update: int) -> float:
        peak, warmup = self.config.learning_rate, self.config.warmup_steps
        if update < warmup:
            return peak * (update + 1) / warmup
        done = (update - warmup) / max(1, self.total_updates - warmup)
        if self.config.schedule == "linear":
            return peak * (1 - done)
        if self.config.schedule == "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        return peak

    def _reduce(self, totals: dict[str, Tensor]) -> dict[str, float]:
        """Sum over ranks, or the largest for names that end in `/max`."""
        shares: list[Any] = [None] * self.ranks
        dist.all_gather_object(shares, {name: float(value) for name, value in totals.items()})
        return {
            name: (max if name.endswith("/max") else sum)(share[name] for share in shares)
            for name in totals
        }

    def save(self, directory: Path) -> None:
        """Weights, optimiser, update count and RNG of every rank; all ranks call it."""
        self.engine.save_checkpoint(
            str(directory),
            tag="deepspeed",
            client_state={"updates": self.updates},
            exclude_frozen_parameters=self.adapted,
        )
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state()
        torch.save(state, directory / f"rng-{self.rank}.pt")
        dist.barrier()

    def load(self, directory: Path) -> None:
        """The state `save` wrote, at the same number of ranks."""
        path, client = self.engine.load_checkpoint(
            str(directory), tag="deepspeed", load_module_strict=not self.adapted
        )
        if path is None:
            raise FileNotFoundError(f"{directory}: DeepSpeed found no checkpoint here")
        self.updates = client["updates"]
        state = torch.load(directory / f"rng-{self.rank}.pt", weights_only=True)
        torch.set_rng_state(state["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"])


def _add(totals: dict[str, Tensor], metrics: dict[str, Tensor]) -> None:
    for name, value in metrics.items():
        value = value.detach().double().cpu()
        if name not in totals:
            totals[name] = value
        elif name.endswith("/max"):
            totals[name] = torch.maximum(totals[name], value)
        else:
            totals[name] = totals[name] + value


def _deepspeed_config(model: schema.Model, config: schema.Learner) -> dict[str, Any]:
    plain = config.zero_stage == 0
    if plain and model.dtype == "bfloat16":
        raise ValueError(
            "learner.zero_stage 0 would update bfloat16 weights without float32 masters: use 1"
        )
    return {
        "train_micro_batch_size_per_gpu": 1,
        # Micro-batch counts vary from step to step: step() is the boundary, not a fixed count.
        "managed_gradient_accumulation": False,
        "bf16": {"enabled": model.dtype == "bfloat16"},
        **({"data_types": {"grad_accum_dtype": "fp32"}} if config.zero_stage else {}),
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
        "gradient_clipping": 0.0 if plain else config.max_grad_norm,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": config.learning_rate,
                "betas": list(config.adam_betas),
                "weight_decay": config.weight_decay,
                "torch_adam": True,
            },
        },
        "steps_per_print": 10**9,
    }
