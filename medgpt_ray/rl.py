"""Reinforcement learning on one page: draw prompts, generate, score, learn, sync, log.

`Controller.run` is the loop. With `max_staleness: 0` generation waits for the weights of the step
before; with k > 0 up to k batches are generated while earlier ones are learned from, each sample
tagged with the policy version of its tokens.
"""

import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from medgpt_ray import batch
from medgpt_ray.actors.cluster import Roles, ray_cluster, start_roles
from medgpt_ray.actors.rewards import score_completions
from medgpt_ray.actors.rollout import Generation
from medgpt_ray.actors.sync.audit import WeightAuditError
from medgpt_ray.actors.wait import RunFailed
from medgpt_ray.algos import ALGORITHMS
from medgpt_ray.algos.advantages import zero_variance_groups
from medgpt_ray.config.schema import GrpoRun
from medgpt_ray.data.prompts import PromptSource, read_prompts
from medgpt_ray.heldout import before_and_after, evaluate
from medgpt_ray.interrupt import Interrupted, finishing, interruptible
from medgpt_ray.models.load import load_tokenizer, on_this_machine
from medgpt_ray.models.packing import Sequence
from medgpt_ray.step_metrics import average, failure_line, per_token, sample_metrics
from medgpt_ray.tracking.alarms import Alarms
from medgpt_ray.tracking.checkpoints import Checkpoints, read_state
from medgpt_ray.tracking.console import Console
from medgpt_ray.tracking.metrics import MetricsLog, read_metrics
from medgpt_ray.tracking.report import write_report
from medgpt_ray.tracking.rundir import RunDirectory, RunDirectoryError
from medgpt_ray.tracking.samples import write_samples
from medgpt_ray.types import Sample


def train(config: GrpoRun, source: str, resume: bool) -> None:
    """Run or continue a training run; `source` is the text of the user's file.

    Raises `RunFailed` with a post-mortem when a role fails or misses a deadline, `Interrupted` on
    SIGINT or SIGTERM after leaving a checkpoint.
    """
    path = Path(config.output_dir).resolve()  # actors may have another working directory
    run = (
        RunDirectory.open(path)
        if resume
        else RunDirectory.create(path, config, source, _data_files(config))
    )
    config = on_this_machine(config)
    checkpoint = Checkpoints(run.checkpoints).latest() if resume else None
    done = read_state(checkpoint)["step"] if checkpoint else 0
    tokenizer = load_tokenizer(config.model.path)
    prompts = read_prompts(config.data.train, tokenizer, config.data)
    heldout = (
        read_prompts(config.data.heldout, tokenizer, config.data) if config.data.heldout else []
    )
    with ExitStack() as stack:
        console = stack.enter_context(Console(config.steps, done + 1))
        log = MetricsLog(run, config.tensorboard, (done if checkpoint else -1) if resume else None)
        stack.callback(log.close)
        run.discard_after(done if checkpoint else -1)
        console.phase("starting Ray, the learner and the rollout engines")
        stack.enter_context(interruptible())
        stack.enter_context(ray_cluster(config.cluster))
        updates = config.steps * config.algorithm.minibatches_per_step
        roles = stack.enter_context(start_roles(config, updates, run.logs))
        controller = Controller(
            config, run, roles, console, log, PromptSource(prompts, config.seed)
        )
        controller.heldout = heldout[: config.evaluation.max_prompts]
        if checkpoint:
            controller.restore(checkpoint)
        controller.run()


def _data_files(config: GrpoRun) -> dict[str, list[str]]:
    heldout = [config.data.heldout] if config.data.heldout else []
    return {"train": [config.data.train], "heldout": heldout}


STOPS = (RunFailed, Interrupted, WeightAuditError, RunDirectoryError, OSError)
"""How a run ends that does not finish: told in one message, without a traceback."""


FINISH_AFTER_CTRL_C_S, SAVE_AFTER_CTRL_C_S = 2.5, 5.0
"""After Ctrl-C a user waits for the prompt: for an update to end, then for a checkpoint. After
SIGTERM the scheduler sets the limit."""


class Controller:
    """Draws prompts, keeps the staleness bound, and tells every role what to do next."""

    def __init__(
        self,
        config: GrpoRun,
        run: RunDirectory,
        roles: Roles,
        console: Console,
        log: MetricsLog,
        prompts: PromptSource,
    ) -> None:
        self.config, self.run_directory, self.roles = config, run, roles
        self.console, self.log, self.prompts = console, log, prompts
        self.algorithm = ALGORITHMS[config.algorithm.name](config.algorithm)
        self.checkpoints = Checkpoints(run.checkpoints)
        self.alarms = Alarms()
        self.alarms.replay(read_metrics(run.metrics))
        self.heldout: list = []
        self.step = 0
        """Steps done, which is also the policy version."""
        self.best: tuple[float, int] | None = None
        self.cursors: deque[dict] = deque()
        """Prompt cursor before each batch that is under way."""
        self.times: dict[str, float] = {}
        """Seconds of each phase since the last record."""
        self.busy = False
        """Weights and step count do not belong together, or a checkpoint is being written."""

    def run(self) -> None:
        self._sync()
        self._evaluate()
        flying: deque[Generation] = deque()
        try:
            while self.step < self.config.steps:
                began = time.monotonic()
                self._launch(flying)
                groups = self._generate(flying)
                with self._unbroken():
                    metrics, samples = self._learn(groups)
                    self._step_done()
                    self._record(metrics, samples, time.monotonic() - began)
                self._sync()
                self._evaluate_and_checkpoint()
        except Interrupted as stop:
            self._save_on_interrupt(stop)
            raise
        self._finish()

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint: weights, optimiser, RNG, prompt cursor, step, best."""
        state = read_state(checkpoint)
        dtypes = [self.config.model.dtype, self.config.rollout.dtype]
        if state["dtypes"] != dtypes:
            raise RunFailed(
                f"{checkpoint} was made with dtypes {state['dtypes']}, this machine would continue "
                f"with {dtypes}: set model.dtype and rollout.dtype"
            )
        self.roles.learner.call("load", str(checkpoint), seconds=self.config.deadlines.checkpoint)
        self.prompts.restore(state["prompts"])
        self.step = state["step"]
        self.best = tuple(state["best"]) if state["best"] else None
        self.console.notice(f"resumed after step {self.step} from {checkpoint}")

    def _launch(self, flying: deque[Generation]) -> None:
        """Keep as many batches under way as the staleness bound allows."""
        algorithm = self.config.algorithm
        while (
            len(flying) <= algorithm.max_staleness and self.step + len(flying) < self.config.steps
        ):
            self.cursors.append(self.prompts.state())
            number = self.step + len(flying)
            flying.append(
                self.roles.rollout.start_generation(
                    self.prompts.take(algorithm.prompts_per_step),
                    algorithm.completions_per_prompt,
                    seed=self.config.seed * 1_000_003 + number,
                )
            )

    def _generate(self, flying: deque[Generation]) -> list[list[Sample]]:
        with self._phase("generate"):
            generation = flying.popleft()
            completions = generation.result()
        with self._phase("reward"):
            groups = score_completions(self.config.rewards, generation.prompts, completions)
        stalest = max(self.step - s.completion.oldest_version for group in groups for s in group)
        if stalest > self.config.algorithm.max_staleness:
            raise RunFailed(
                f"step {self.step + 1}: a sample is {stalest} policy versions old, more than "
                f"algorithm.max_staleness ({self.config.algorithm.max_staleness})"
            )
        return groups

    def _learn(self, groups: list[list[Sample]]) -> tuple[dict[str, float], list[Sample]]:
        """All updates of one step; returns its metrics and the samples with their advantages."""
        samples = [s for group in groups for s in group if not s.failure]
        failed = [s for group in groups for s in group if s.failure]
        for sample in failed:
            self.console.notice(failure_line(sample))
        if not samples:
            raise RunFailed(f"step {self.step + 1}: every reward failed, see the lines above")
        group = torch.tensor(
            [n for n, members in enumerate(groups) for s in members if not s.failure]
        )
        rewards = torch.tensor([s.reward for s in samples], dtype=torch.float64)
        metrics = sample_metrics(samples, failed, self.step)
        with self._phase("learn"):
            sequences = self._with_log_probs(batch.to_sequences(samples))
            if self.config.algorithm.kl.placement == "reward" and self.algorithm.needs_reference:
                rewards = batch.shaped_rewards(
                    self.algorithm,
                    rewards,
                    [s.fields["old_log_probs"] for s in sequences],
                    [s.fields["reference_log_probs"] for s in sequences],
                )
            samples = batch.with_advantages(self.algorithm, samples, group, rewards)
            self.busy = True
            metrics |= self._update(samples, sequences, group)
        metrics["zero_variance_groups"] = float(zero_variance_groups(rewards, group))
        metrics["advantage/abs_mean"] = float(np.mean([abs(s.advantage) for s in samples]))
        return metrics, samples + failed

    def _step_done(self) -> None:
        """Learner, step count and cursor now tell the same story: a checkpoint may be made."""
        self.step += 1
        self.cursors.popleft()
        self.busy = False

    def _with_log_probs(self, sequences: list[Sequence]) -> list[Sequence]:
        """Add the old and the reference log-probs where the algorithm or the updates need them."""
        algorithm = self.config.algorithm
        shaping = self.algorithm.needs_reference and algorithm.kl.placement == "reward"
        if algorithm.minibatches_per_step > 1 or shaping:
            old = self.roles.learner.call("log_probs", sequences, True)
            sequences = batch.with_field(sequences, "old_log_probs", old)
        if self.algorithm.needs_reference:
            reference = (
                self.roles.reference.log_probs(sequences)
                if self.roles.reference
                else self.roles.learner.call("log_probs", sequences, False)
            )
            sequences = batch.with_field(sequences, "reference_log_probs", reference)
        return sequences

    def _update(
        self, samples: list[Sample], sequences: list[Sequence], group: torch.Tensor
    ) -> dict[str, float]:
        config = self.config
        sums: list[dict[str, float]] = []
        for part in batch.split_minibatches(group, config.algorithm.minibatches_per_step):
            update = batch.make_update(
                self.algorithm,
                [samples[i] for i in part],
                [sequences[i] for i in part],
                config.rollout.max_completion_tokens,
            )
            result = self.roles.learner.call("step", update.sequences, update.normaliser)
            sums.append(per_token(result, update.tokens))
        return average(sums)

    def _sync(self) -> None:
        """Every engine to the policy version of this step; audited before anything is generated."""
        deadlines = self.config.deadlines
        waits = deadlines.sync + self.config.algorithm.max_staleness * deadlines.generate
        with self._phase("sync"):
            digests = self.roles.learner.call("sync", self.step, seconds=waits)
            self.roles.rollout.audit(self.step, digests)

    def _record(self, metrics: dict[str, float], samples: list[Sample], seconds: float) -> None:
        """Log the step. Its sync is the one that brought its policy to the engines."""
        times, self.times = self.times, {}
        metrics |= {f"time/{phase}": spent for phase, spent in times.items()}
        metrics["time/step"] = seconds + times["sync"]
        metrics["time/other"] = seconds - times["generate"] - times["reward"] - times["learn"]
        metrics["tokens_per_s/generate"] = metrics["tokens/generated"] / times["generate"]
        metrics["tokens_per_s/learn"] = metrics["tokens/learned"] / times["learn"]
        metrics["policy_version"] = float(self.step)
        raised = self.alarms.watch(self.step, metrics)
        metrics["alarms"] = self.alarms.active
        write_samples(self._samples_file(), samples)
        self.log.log(self.step, metrics)
        self.console.step(self.step, metrics)
        for alarm in raised:
            self.console.notice(f"ALARM, step {alarm.step}: {alarm.what}: {alarm.detail}")

    def _samples_file(self) -> Path:
        return self.run_directory.samples_file(self.step)

    def _evaluate_and_checkpoint(self) -> None:
        config, last = self.config, self.step == self.config.steps
        self._evaluate()
        new_best = config.checkpoint.keep_best and self.best and self.best[1] == self.step
        if last or new_best or self.step % config.checkpoint.every_steps == 0:
            with self._unbroken():
                self._checkpoint(config.deadlines.checkpoint)

    def _evaluate(self) -> None:
        """At the start, at the end and every so many steps, unless a resumed run did it before."""
        every = self.config.evaluation.every_steps
        due = self.step in (0, self.config.steps) or (every and self.step % every == 0)
        if not (due and self.heldout) or self.run_directory.heldout_file(self.step).exists():
            return
        self.console.phase("held-out evaluation")
        samples, metrics = evaluate(self.config, self.roles.rollout, self.heldout)
        self.log.log(self.step, metrics)
        write_samples(self.run_directory.heldout_file(self.step), samples)
        self.console.heldout(self.step, metrics)
        score = metrics["heldout/reward"]
        if self.best is None or score > self.best[0]:
            self.best = (score, self.step)

    def _checkpoint(self, seconds: float) -> None:
        """Save the state after `self.step` steps; batches under way are generated anew on
        resume.
        """
        started = time.monotonic()
        self.console.phase("checkpoint")
        self.busy = True
        scratch = self.checkpoints.begin(self.step)
        state = {
            "step": self.step,
            "prompts": self.cursors[0] if self.cursors else self.prompts.state(),
            "best": self.best,
            "dtypes": [self.config.model.dtype, self.config.rollout.dtype],
        }
        try:
            self.roles.learner.call("save", str(scratch), seconds=seconds)
            ranks = range(self.config.learner.workers)
            needed = ["model/model.safetensors", *(f"learner/rng-{rank}.pt" for rank in ranks)]
            self.checkpoints.commit(self.step, state, needed)
        except RunFailed as failure:
            raise RunFailed(f"{failure}{self.checkpoints.why_no_room()}") from failure
        finally:
            self.checkpoints.discard(self.step)  # nothing is left of it once it is committed
        best = self.best[1] if self.best and self.config.checkpoint.keep_best else None
        self.checkpoints.prune(self.config.checkpoint.keep_last, best)
        self.busy = False
        self.times["checkpoint"] = time.monotonic() - started

    def _save_on_interrupt(self, stop: Interrupted) -> None:
        """In the middle of an update there is nothing whole to save: the last checkpoint stands."""
        patient = stop.signal == signal.SIGTERM
        seconds = self.config.deadlines.checkpoint if patient else SAVE_AFTER_CTRL_C_S
        if not self.busy and self.step not in self.checkpoints.complete():
            self.console.notice(f"{stop}: saving a checkpoint after step {self.step}")
            try:
                self._checkpoint(seconds)
            except (RunFailed, OSError) as failure:
                self.console.notice(str(failure))
        self.console.notice(f"the last checkpoint is {self.checkpoints.latest() or 'none yet'}")

    def _finish(self) -> None:
        """The servable model and the report."""
        latest = self.checkpoints.latest()
        assert latest is not None
        self.run_directory.publish_model(latest)
        report = write_report(self.run_directory)
        if self.heldout:
            self.console.notice(before_and_after(self.run_directory))
        self.console.notice(f"model: {self.run_directory.model}\nreport: {report}")

    def _unbroken(self) -> AbstractContextManager[None]:
        """An update, or a checkpoint, is finished before the run stops, if it is soon done."""
        patience = self.config.deadlines.learn
        return finishing({signal.SIGINT: FINISH_AFTER_CTRL_C_S, signal.SIGTERM: patience})

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.console.phase(name)
        started = time.monotonic()
        yield
        self.times[name] = self.times.get(name, 0.0) + time.monotonic() - started
