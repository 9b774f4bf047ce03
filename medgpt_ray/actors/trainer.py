"""The worker of a supervised run, one a data-parallel rank: Ray Train starts it, and again after a
death.

Rank 0 draws the batches from the stream and gives each to all ranks, which learn their shares of
it. So neither the batches nor their order depend on the number of workers. What happens is told to
the driver through the monitor.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from transformers import AutoTokenizer

from medgpt_ray.actors.logs import log_to
from medgpt_ray.actors.stages import STAGES, Sums, baseline, mismatched, sequences_of
from medgpt_ray.actors.wait import RunFailed
from medgpt_ray.config.schema import Full
from medgpt_ray.config.supervised import SimPo, SupervisedModel, SupervisedRun
from medgpt_ray.data.examples import Example, Recipe
from medgpt_ray.data.rejects import Rejects
from medgpt_ray.data.rows import DataError
from medgpt_ray.data.sources import SourceFiles
from medgpt_ray.data.stream import Stream
from medgpt_ray.models import neftune
from medgpt_ray.models.deepspeed import join_group
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.export import save_adapter, save_model
from medgpt_ray.models.learner import Learner, LossFn
from medgpt_ray.models.load import attention_in_use, load_frozen, load_policy
from medgpt_ray.models.packing import Sequence
from medgpt_ray.models.policy import Policy
from medgpt_ray.models.reference_cache import ReferenceCache
from medgpt_ray.models.reward import RewardModel, load_reward_model
from medgpt_ray.tracking.checkpoints import Checkpoints, read_state
from medgpt_ray.tracking.rundir import RunDirectory

RETRIED = (RuntimeError, ray.exceptions.RayError)
"""What torch.distributed and Ray raise where somebody else died; other errors come again."""
EARS_S = 60.0
"""The longest that the monitor may take to answer."""
ALIVE_S = 10.0
"""Between two signs of life in a long phase."""
KEEP_S = 60.0
"""Between two times that reference log-probs are put on the disk."""


@dataclass(frozen=True)
class Job:
    """What every worker gets."""

    config: Any
    recipe: Recipe
    sources: list[SourceFiles]
    validation: list[Example]
    output_dir: str
    monitor: Any


@dataclass(frozen=True)
class Turn:
    """What rank 0 tells all ranks to do next: learn the sequences of a batch, or stop."""

    sequences: list[Sequence] = field(default_factory=list)
    span: tuple[float, float] = (1.0, 1.0)
    stop: str = ""
    """`done`, `asked` by the driver, or `failed`."""


def train_worker(job: Job) -> None:
    """Entry point of every Ray Train worker. Faults of the user's making are told, not retried."""
    rank = ray.train.get_context().get_world_rank()
    log_to(str(Path(job.output_dir) / "logs" / f"learner-{rank}.log"))
    worker = None
    try:
        worker = TrainWorker(job, rank)
        worker.run()
    except RETRIED as error:
        # A peer or a node may have died: Ray Train starts the group again.
        if isinstance(error, ray.exceptions.RayTaskError | torch.OutOfMemoryError):
            _fatal(job, rank, error)
        else:
            raise
    except Exception as error:  # noqa: BLE001 (it would come again: told, and not retried)
        _fatal(job, rank, error)
        if worker is not None and isinstance(error, DataError):
            worker.share(Turn(stop="failed"))


def _fatal(job: Job, rank: int, error: Exception) -> None:
    """Tell the driver what ends the run; the log has the whole story."""
    traceback.print_exception(error)
    known = isinstance(error, DataError | ModelError | FloatingPointError | OSError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    where = "" if known else f"learner rank {rank}: "
    ray.get(job.monitor.record.remote(("fatal", f"{where}{text}")), timeout=EARS_S)


class TrainWorker:
    """One rank. All ranks go through the same calls in the same order."""

    def __init__(self, job: Job, rank: int) -> None:
        self.job, self.config, self.rank = job, job.config, rank
        self.stage = STAGES[self.config.stage]
        torch.set_num_threads(self.config.learner.threads)
        join_group(self.config.learner.gpus)
        self.tell("phase", "loading the model")
        unit = 2 if self.stage.paired else 1
        section = self.config.model
        module = _module(self.config)
        if section.neftune_alpha:
            neftune.install(module, section.neftune_alpha)
        self.learner = Learner(module, section, self.config.learner, self.config.seed, unit)
        self.heard = time.monotonic()
        """When the driver was told something last."""
        self.tell("notice", f"attention: {attention_in_use(module.network)}, dtype {section.dtype}")
        self.run_directory = RunDirectory(job.output_dir)
        self.tokenizer = AutoTokenizer.from_pretrained(job.recipe.tokenizer)
        self.checkpoints = Checkpoints(self.run_directory.checkpoints)
        self.step, self.validated = 0, -1
        """Updates made, and how many there were at the last validation."""
        self.best: tuple[float, int] | None = None
        """Validation loss and step."""
        self.worse = 0
        """Validations in a row without a better loss."""
        self.stopping = False
        self.reference = self._reference() if self.stage.reference else None
        self.stream = self._stream() if rank == 0 else None
        self.validation = sequences_of(job.validation)
        self._restore()

    def run(self) -> None:
        """Validate, learn batch by batch, checkpoint; the same on all ranks."""
        every = self.config.data.validation.every_steps
        if self.step == 0:
            self._validate()
        began = time.monotonic()
        for turn in [Turn(stop="done")] if self._no_better() else self._turns():
            if turn.stop:
                break
            waited = time.monotonic() - began
            metrics = self._learn(turn) | {"time/data": waited}
            self.step += 1
            metrics["time/step"] = time.monotonic() - began
            self._record(metrics)
            if every and self.step % every == 0:
                self._validate()
            if self.step % self.config.checkpoint.every_steps == 0 or self._is_best():
                self._checkpoint()
            if self._no_better():
                turn = Turn(stop="done")
                break
            began = time.monotonic()
        if turn.stop == "done":
            self._validate()
        if turn.stop != "failed":
            self._checkpoint()
            self.tell("stopped" if turn.stop == "asked" else "done", self.step)

    def share(self, turn: Turn | None) -> Turn:
        """The turn of rank 0, on all ranks."""
        box: list[Any] = [turn]
        dist.broadcast_object_list(box, src=0)
        assert box[0] is not None
        return box[0]

    def tell(self, name: str, what: Any) -> bool:
        """From rank 0 to the driver; True when it wants the run to stop."""
        if self.rank:
            return False
        self.heard = time.monotonic()
        return bool(ray.get(self.job.monitor.record.remote((name, what)), timeout=EARS_S))

    def _turns(self) -> Iterator[Turn]:
        """The turns of rank 0, which draws the batches, on all ranks."""
        if self.stream is None:
            while True:
                yield self.share(None)
        for batch in self.stream:
            yield self.share(Turn(sequences_of(batch.examples), batch.span))
            if self.stopping:
                yield self.share(Turn(stop="asked"))
        yield self.share(Turn(stop="done"))

    def _learn(self, turn: Turn) -> Sums:
        began = time.monotonic()
        loss, sequences = self._objective(turn.sequences)
        sums = self.learner.step(sequences, loss, turn.span)
        metrics = self.stage.means(sums)
        seconds = time.monotonic() - began
        metrics["time/learn"] = seconds
        metrics["tokens_per_s/learn"] = metrics["tokens/learned"] / seconds
        metrics["progress"] = turn.span[1]
        return metrics

    def _objective(self, sequences: list[Sequence]) -> tuple[LossFn, list[Sequence]]:
        """The loss of a batch, and the batch with the fields that it needs."""
        section = getattr(self.config, "objective", None)
        z0 = None
        if self.reference is not None:
            values = self.reference(sequences)
            sequences = [
                replace(sequence, fields={**sequence.fields, "reference_log_probs": value})
                for sequence, value in zip(sequences, values, strict=True)
            ]
        if self.stage.baseline:
            crossed = mismatched(sequences, self.config.data.max_tokens)
            z0 = torch.zeros(())
            if crossed:
                policy = self.learner.log_probs(crossed)
                z0 = baseline(policy, self.reference(crossed), crossed)
        return self.stage.loss(section, sequences, z0), sequences

    def _validate(self) -> None:
        """Measure the validation rows, unless that was done after this very step."""
        if not self.validation or self.validated == self.step:
            return
        with self._long("validation"):
            loss, sequences = self._objective(self.validation)
            metrics = self.stage.means(self.learner.measure(sequences, loss))
        self.validated = self.step
        if self.best is None or metrics["loss"] < self.best[0]:
            self.best, self.worse = (metrics["loss"], self.step), 0
        else:
            self.worse += 1
        named = {f"validation/{name}": value for name, value in metrics.items()}
        self.tell("validation", (self.step, named))

    @contextmanager
    def _long(self, phase: str) -> Iterator[None]:
        """A phase that may take longer than a step: the driver hears of it while it goes on."""
        self.tell("phase", phase)
        self.learner.pulse = self._alive
        yield
        self.learner.pulse = None

    def _alive(self) -> None:
        if time.monotonic() - self.heard > ALIVE_S:
            self.tell("alive", None)

    def _is_best(self) -> bool:
        keep = self.config.checkpoint.keep_best
        return bool(keep and self.best and self.best[1] == self.step)

    def _no_better(self) -> bool:
        patience = self.config.data.validation.patience
        return bool(patience) and self.validated == self.step and self.worse >= patience

    def _record(self, metrics: Sums) -> None:
        if self.rank == 0:
            metrics |= self._counts()
        self.stopping = self.tell("step", (self.step, metrics))

    def _counts(self) -> Sums:
        """What became of the rows so far, over all sources."""
        assert self.stream is not None
        found = {"epoch": self.stream.progress}
        for number, counts in enumerate(self.stream.counts):
            found[f"data/{number}/rows"] = counts.rows
            for name in ("rejected", "cut", "held_out", "near_duplicates"):
                found[f"data/{name}"] = found.get(f"data/{name}", 0) + getattr(counts, name)
            dropped = sum(counts.dropped.values())
            found["data/dropped"] = found.get("data/dropped", 0) + dropped
        return {name: float(value) for name, value in found.items()}

    def _checkpoint(self) -> None:
        """Save the state after `self.step` updates, unless it is there."""
        if self.step in self.checkpoints.complete():
            return
        self.tell("phase", "checkpoint")
        try:
            self._save()
        except RuntimeError as error:  # torch's writers do not say that the disk is full
            if reason := self.checkpoints.why_no_room():
                raise OSError(f"checkpoint of step {self.step}: {error}{reason}") from error
            raise

    def _save(self) -> None:
        if self.rank == 0:
            self.checkpoints.begin(self.step)
        dist.barrier()
        scratch = self.checkpoints.scratch(self.step)
        self.learner.save(scratch / "learner")
        what = self.learner.module, self.config.model
        save_model(*what, scratch / "model", self.rank == 0, self.tokenizer)
        if self.learner.adapted:
            save_adapter(*what, scratch / "adapter", self.rank == 0, self.tokenizer)
        if self.stream is not None:
            state = {
                "step": self.step,
                "stream": self.stream.state(),
                "best": self.best,
                "worse": self.worse,
                "validated": self.validated,
                "dtype": self.config.model.dtype,
            }
            handled = self.job.monitor.handled.remote(EARS_S)
            if not ray.get(handled, timeout=2 * EARS_S):
                raise RunFailed(f"the driver has not answered for {EARS_S:g} s")
            needed = ["model/model.safetensors"]
            needed += [f"learner/rng-{rank}.pt" for rank in range(self.learner.ranks)]
            self.checkpoints.commit(self.step, state, needed)
            keep = self.config.checkpoint
            best = self.best[1] if self.best and keep.keep_best else None
            self.checkpoints.prune(keep.keep_last, best)
        dist.barrier()

    def _restore(self) -> None:
        """Continue from the newest checkpoint of this run, where there is one."""
        checkpoint = self.checkpoints.latest()
        if checkpoint is not None:
            state = read_state(checkpoint)
            self.learner.load(checkpoint / "learner")
            self.step, self.worse = state["step"], state["worse"]
            self.validated = state["validated"]
            self.best = tuple(state["best"]) if state["best"] else None
            if self.stream is not None:
                self.stream.restore(state["stream"])
        self.tell("started", self.step if checkpoint else None)

    def _stream(self, recipe: Recipe | None = None, epochs: float | None = None) -> Stream:
        """The stream of the run, or of so many passes by another recipe."""
        config = self.config
        return Stream(
            recipe or self.job.recipe,
            self.job.sources,
            Rejects(self.run_directory.path / "rejected.jsonl", config.data),
            examples_per_step=config.examples_per_step,
            epochs=epochs or config.epochs,
            steps=None if epochs else config.steps,
        )

    def _reference(self) -> Callable[[list[Sequence]], list[np.ndarray]] | None:
        """Log-probs under the reference: the policy without its adapter, a frozen model, or what
        one of them said before."""
        if isinstance(getattr(self.config, "objective", None), SimPo):
            return None
        path = self.config.reference.path
        model = self.config.model
        plain = {"path": path, "adapter": None, "adaptation": Full()}
        section = model.model_copy(update=plain) if path else model
        if self.config.reference.precompute:
            return self._precomputed(section).log_probs
        return self._scorer(section)

    def _scorer(self, section: SupervisedModel) -> Callable[[list[Sequence]], list[np.ndarray]]:
        if self.learner.adapted and section == self.config.model:
            return lambda sequences: self.learner.log_probs(sequences, adapter=False)
        frozen = Policy(load_frozen(section), 1.0, "hit").to(self.learner.device)
        return lambda sequences: self.learner.score(frozen, sequences)

    def _precomputed(self, section: SupervisedModel) -> ReferenceCache:
        """The log-probs of all rows, from the disk or scored now by all ranks.

        Every rank keeps them: two numbers a sequence.
        """
        cache = ReferenceCache(section)
        box = [cache.sums]  # the disk of rank 0 is the one that counts
        dist.broadcast_object_list(box, src=0)
        (cache.sums,) = box
        plain = [source.model_copy(update={"weight": 1.0}) for source in self.config.data.train]
        data = self.config.data.model_copy(update={"train": plain})
        recipe = replace(self.job.recipe, data=data)
        self.stream = self._stream(recipe, epochs=1.0) if self.rank == 0 else None
        score: Any = None
        fresh, kept = 0, time.monotonic()
        with self._long("reference log-probs of all rows"):
            for turn in chain([Turn(sequences_of(self.job.validation))], self._turns()):
                if turn.stop:
                    break
                missing = cache.missing(turn.sequences, self.learner.unit)
                missing = self.share(Turn(missing)).sequences
                if missing:
                    score = score or self._scorer(section)
                    cache.add(missing, score(missing))
                    fresh += len(missing)
                if fresh and self.rank == 0 and time.monotonic() - kept > KEEP_S:
                    self.tell("notice", f"reference log-probs: {len(cache.sums)} sequences so far")
                    cache.save()
                    fresh, kept = 0, time.monotonic()
                self._alive()
        if fresh and self.rank == 0:
            cache.save()
        return cache


def _module(config: SupervisedRun) -> Any:
    if config.stage == "rm":
        return RewardModel(load_reward_model(config.model, config.seed))
    return Policy(load_policy(config.model, config.seed), 1.0, "hit")
