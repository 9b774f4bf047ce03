"""The learner: a model under DeepSpeed behind a handful of verbs. No Ray, no algorithm.

Every rank holds the whole batch and takes its own share of micro-batches. A loss function returns
its micro-batch's part of the *global* loss, already divided by global counts; parts are summed over
micro-batches and ranks, so the gradient does not depend on the cut.
"""

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from medgpt_ray.config import schema
from medgpt_ray.models.adapters import add_in_place
from medgpt_ray.models.attention import varlen
from medgpt_ray.models.deepspeed import deepspeed_config, make_optimizer, running_stage
from medgpt_ray.models.packing import MicroBatch, Sequence, micro_batches
from medgpt_ray.models.policy import score
from medgpt_ray.models.schedule import Span, learning_rate

LossFn = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""(outputs of the module, micro-batch) -> (part of the loss, metric sums or maxima). The outputs
are log-probs [N] and what stands beside them [N] of a `Policy`, scores [S] of a `RewardModel`."""


class Learner:
    """One rank of a data-parallel group; torch.distributed is up before it is built."""

    def __init__(
        self, module: Module, model: schema.Model, config: schema.Learner, seed: int, unit: int = 1
    ) -> None:
        """`module` holds what `model` configures. Each `unit` sequences of a batch belong together:
        2 where a loss compares the two of a pair."""
        import deepspeed

        self.config, self.unit = config, unit
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.updates = 0
        self.seed = seed
        self.pulse: Callable[[], None] | None = None
        """Called before each micro-batch."""
        torch.manual_seed(seed + self.rank)
        self.device = torch.device("cuda") if config.gpus else torch.device("cpu")
        self.module = module.to(self.device)
        self.adapted = hasattr(module.network, "peft_config")
        if self.adapted and running_stage(model, config) < 3:
            add_in_place(module.network)
        trainable = [p for p in module.parameters() if p.requires_grad]
        self.engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=trainable,
            optimizer=make_optimizer(config),
            config=deepspeed_config(model, config),
            dist_init_required=False,
        )
        self.grad_norm: float | None = None
        if running_stage(model, config) == 0:
            # DeepSpeed clips here without telling the norm; clip in its place, after the reduction.
            self.engine.optimizer.register_step_pre_hook(self._clip)
            if self.ranks == 1:  # all gradients would be copied into a buffer and back
                self.engine.enable_backward_allreduce = False
        if not isinstance(self.engine, deepspeed.DeepSpeedEngine):
            raise TypeError(f"deepspeed.initialize returned {type(self.engine)}")

    def step(self, sequences: Seq[Sequence], loss_fn: LossFn, span: Span) -> dict[str, float]:
        """One optimiser update from a global batch, which takes the run from `span[0]` to `span[1]`
        of its length; the metrics are sums (maxima for `*/max`)."""
        rate = learning_rate(self.config, self.updates, span)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.engine.train()
        totals: dict[str, Tensor] = {}
        for micro in self._share(sequences):
            loss = self._forward(micro, loss_fn, totals)
            # DeepSpeed averages gradients over ranks; the parts have to be summed.
            self.engine.backward(loss * self.ranks)
        self.engine.step()
        self.updates += 1
        result = self._reduce(totals)
        norm = self.engine.get_global_grad_norm() if self.grad_norm is None else self.grad_norm
        result["grad_norm"] = float(norm)
        result["learning_rate"] = rate
        if not math.isfinite(result["grad_norm"]) or not math.isfinite(result["loss"]):
            raise FloatingPointError(
                f"update {self.updates}: loss {result['loss']}, gradient norm "
                f"{result['grad_norm']}; lower learner.learning_rate or look at the step's samples"
            )
        return result

    @torch.no_grad()
    def measure(self, sequences: Seq[Sequence], loss_fn: LossFn) -> dict[str, float]:
        """Loss and metric sums of a batch that is not learned."""
        self.engine.eval()
        totals: dict[str, Tensor] = {}
        for micro in self._share(sequences):
            self._forward(micro, loss_fn, totals)
        return self._reduce(totals)

    def _forward(self, micro: MicroBatch, loss_fn: LossFn, totals: dict[str, Tensor]) -> Tensor:
        """The micro-batch's part of the loss, added to `totals` with its metrics."""
        counts = 0 if micro.idle else 1
        loss, metrics = loss_fn(*self.engine(micro), micro)
        learned = torch.tensor(float(micro.tokens_of_sequences))
        parts = {"loss": loss, "tokens/learned": learned, **metrics}
        _add(totals, {name: value.detach() * counts for name, value in parts.items()})
        return loss * counts

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
        switch = nullcontext() if adapter else self.module.network.disable_adapter()
        with switch:
            return self.score(self.engine, sequences)

    def score(self, model: Module, sequences: Seq[Sequence]) -> list[np.ndarray]:
        """As `log_probs`, by a `model` that every rank holds: the learner's own or a frozen one."""
        mine = score(model, self._share(sequences))
        shares: list[Any] = [None] * self.ranks
        dist.all_gather_object(shares, mine)
        merged = {index: values for share in shares for index, values in share.items()}
        return [merged[index] for index in range(len(sequences))]

    def _share(self, sequences: Seq[Sequence]) -> Iterator[MicroBatch]:
        limits = self.config.max_tokens_per_microbatch, self.config.projection_chunk_tokens
        shared = not varlen(self.module.network)
        micros = micro_batches(sequences, *limits, self.rank, self.ranks, self.unit, shared)
        for micro in micros:
            if self.pulse is not None:
                self.pulse()
            yield micro.to(self.device)

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
            client_state={"updates": self.updates, "ranks": self.ranks},
            exclude_frozen_parameters=self.adapted,
        )
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state()
        torch.save(state, directory / f"rng-{self.rank}.pt")
        dist.barrier()

    def load(self, directory: Path) -> None:
        """The state `save` wrote. A sharded optimiser (ZeRO 1 and up) fits its own number of ranks
        only; at stage 0 another number draws its random numbers anew."""
        path, client = self.engine.load_checkpoint(
            str(directory), tag="deepspeed", load_module_strict=not self.adapted
        )
        if path is None:
            raise FileNotFoundError(f"{directory}: DeepSpeed found no checkpoint here")
        self.updates = client["updates"]
        if client["ranks"] != self.ranks:
            torch.manual_seed(self.seed + self.rank + 1000 * self.updates)
            return
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
