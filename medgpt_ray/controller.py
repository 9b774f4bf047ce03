"""Reinforcement learning on one page: draw prompts, generate, score, learn, sync, log.

`Controller.run` is the loop, `Controller._advance` a step of it. With `max_staleness: 0` generation
waits for the weights of the step before; with k > 0 up to k batches are generated while earlier
ones are learned from, each sample tagged with the policy version of its tokens.
"""

import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from medgpt_ray.actors.cluster import Roles
from medgpt_ray.actors.pool import Generation
from medgpt_ray.actors.rewards import score_completions
from medgpt_ray.actors.wait import RunFailed
from medgpt_ray.algos import ALGORITHMS
from medgpt_ray.algos.adaptive_kl import next_coefficient
from medgpt_ray.algos.dapo import teaches
from medgpt_ray.config.schema import RlRun
from medgpt_ray.data.prompts import PromptSource
from medgpt_ray.heldout import before_and_after, evaluate
from medgpt_ray.interrupt import Interrupted, as_interrupted, finishing
from medgpt_ray.step_metrics import clock, failure_line, sample_metrics
from medgpt_ray.tracking.alarms import Alarms
from medgpt_ray.tracking.checkpoints import Checkpoints, read_state
from medgpt_ray.tracking.console import Console
from medgpt_ray.tracking.dumps import Dump
from medgpt_ray.tracking.metrics import MetricsLog, read_metrics
from medgpt_ray.tracking.report import write_report
from medgpt_ray.tracking.rundir import RunDirectory
from medgpt_ray.tracking.samples import write_samples
from medgpt_ray.types import Prompt, Sample
from medgpt_ray.update import Step, learn

FINISH_AFTER_CTRL_C_S, SAVE_AFTER_CTRL_C_S = 2.5, 5.0
"""After Ctrl-C a user waits for the prompt: for an update to end, then for a checkpoint. After
SIGTERM the scheduler sets the limit."""


class Controller:
    """Draws prompts, keeps the staleness bound, and tells every role what to do next."""

    def __init__(
        self,
        config: RlRun,
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
        self.alarms = Alarms(read_metrics(run.metrics))
        self.heldout: list = []
        self.step = 0
        """Steps done, which is also the policy version."""
        self.best: tuple[float, int] | None = None
        self.restored: deque[list[str]] = deque()
        """Prompt ids of the batches that were under way at the checkpoint."""
        self.drawn: dict[str, Any]
        """What a checkpoint tells of the prompts: as it was when the last step was done. Those that
        were drawn since are drawn again on resume."""
        self.sampling_rounds = 1
        self.failed: list[Sample] = []
        """Of this step's samples those without a score, of groups that do not teach as well."""
        self.flying: deque[Generation] = deque()
        """Batches under way, the next one to learn first."""
        self.kl_coefficient = config.algorithm.kl.coefficient
        """The current one, where it adapts."""
        self.times: dict[str, float] = {}
        """Seconds of each phase since the last record."""
        self._note_drawn()
        self.busy = False
        """Weights and step count do not belong together, or a checkpoint is being written."""

    def run(self) -> None:
        self._sync()
        self._evaluate()
        try:
            with as_interrupted():
                while self.step < self.config.steps:
                    self._advance()
        except Interrupted as stop:
            self._save_on_interrupt(stop)
            raise
        self._finish()

    def _advance(self) -> None:
        """One step, from prompts to new weights in the engines."""
        began = time.monotonic()
        self._launch()
        groups = self._collect()
        self.roles.rollout.sleep()
        with _unbroken(FINISH_AFTER_CTRL_C_S, self.config.deadlines.learn):
            metrics, samples = self._learn(groups)
            self._step_done()
            self._record(metrics, samples, time.monotonic() - began)
        self._sync()
        self._evaluate_and_checkpoint()

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint: weights, optimiser, RNG, prompt cursor, step, best."""
        state = read_state(checkpoint)
        dtypes = [self.config.model.dtype, self.config.rollout.dtype]
        if state["dtypes"] != dtypes:
            raise RunFailed(
                f"{checkpoint} was made with dtypes {state['dtypes']}, this machine would continue "
                f"with {dtypes}: set model.dtype and rollout.dtype"
            )
        seconds = self.config.deadlines.checkpoint
        for name, learner in self.roles.learners().items():
            learner.call("load", str(checkpoint / name), seconds=seconds)
        self.prompts.restore(state["prompts"])
        self.step = state["step"]
        self.kl_coefficient = state["kl_coefficient"]
        self.best = tuple(state["best"]) if state["best"] else None
        self.restored = deque(state["under_way"])
        self._note_drawn()
        self.console.notice(f"resumed after step {self.step} from {checkpoint}")

    def _launch(self) -> None:
        """Keep as many batches under way as the staleness bound allows."""
        algorithm, flying = self.config.algorithm, self.flying
        while (
            len(flying) <= algorithm.max_staleness and self.step + len(flying) < self.config.steps
        ):
            number = self.step + len(flying)
            if self.restored:  # drawn before the checkpoint, and not yet learned from
                prompts = self.prompts.find(self.restored.popleft())
            else:
                prompts = self.prompts.take(algorithm.prompts_per_step)
            flying.append(self._generate(prompts, number))

    def _generate(self, prompts: list[Prompt], number: int, turn: int = 0) -> Generation:
        """Set a batch under way; `turn` counts the rounds of dynamic sampling."""
        return self.roles.rollout.start_generation(
            prompts,
            self.config.algorithm.completions_per_prompt,
            seed=self.config.seed * 1_000_003 + number + turn * 1_000_000_007,
        )

    def _collect(self) -> list[list[Sample]]:
        """The scored groups of the next batch; with dynamic sampling those that teach, and more
        until there are enough.
        """
        groups = self._scored(self.flying.popleft())
        sampling = self.config.algorithm.dynamic_sampling
        if not sampling:
            return groups
        accepted, turn, wanted = _teaching(groups), 1, self.config.algorithm.prompts_per_step
        while len(accepted) < wanted:
            if turn == sampling.max_rounds:
                raise RunFailed(
                    f"step {self.step + 1}: only {len(accepted)} of {wanted} groups have different "
                    f"rewards after {turn} rounds of generation: make the rewards finer or the "
                    "prompts neither too easy nor too hard, or raise "
                    "algorithm.dynamic_sampling.max_rounds"
                )
            prompts = self.prompts.take(wanted - len(accepted))
            more = self._scored(self._generate(prompts, self.step, turn), all_may_fail=True)
            accepted += _teaching(more)
            turn += 1
        self.sampling_rounds = turn
        return accepted

    def _scored(self, generation: Generation, *, all_may_fail: bool = False) -> list[list[Sample]]:
        """The groups of a batch with their rewards. Where every one fails it is the function or its
        server, but not of the few prompts of another round."""
        with self._phase("generate"):
            completions = generation.result()
            while self.roles.rollout.notices:
                self.console.notice(self.roles.rollout.notices.pop(0))
        with self._phase("reward"):
            groups = score_completions(self.config.rewards, generation.prompts, completions)
            if self.roles.reward_model:
                groups = self.roles.reward_model.add_scores(groups)
        failed = [s for group in groups for s in group if s.failure]
        for sample in failed:
            self.console.notice(failure_line(sample))
        if len(failed) == sum(map(len, groups)) and not all_may_fail:
            raise RunFailed(f"step {self.step + 1}: every reward failed, see the lines above")
        self.failed += failed
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
        failed, self.failed = self.failed, []
        group = torch.tensor([n for n, g in enumerate(groups) for s in g if not s.failure])
        metrics = sample_metrics(samples, failed, self.step)
        if self.config.algorithm.dynamic_sampling:
            metrics["sampling/rounds"] = float(self.sampling_rounds)
        with self._phase("learn"):
            self.busy = True
            step = Step(self.step + 1, samples, group, self.kl_coefficient)
            dump = self._begin_dump(step)
            learned = learn(self.config, self.roles, self.algorithm, step)
            if dump:
                dump.finish(learned.metrics, learned.sequences)
        metrics |= learned.metrics
        if self.algorithm.shapes_rewards:
            kl = self.config.algorithm.kl
            self.kl_coefficient = next_coefficient(
                self.kl_coefficient, metrics["kl/completion"], len(samples), kl
            )
        return metrics, learned.samples + failed

    def _begin_dump(self, step: Step) -> Dump | None:
        """What `medgpt replay` needs, where the step is to be kept."""
        section = self.config.dump
        if not section.every_steps or step.number % section.every_steps:
            return None
        dump = Dump.begin(self.run_directory.dumps, step.number, section.keep_last)
        seconds = self.config.deadlines.checkpoint
        for name, learner in self.roles.learners().items():
            learner.call("save", str(dump.scratch / name), seconds=seconds)
        dump.write(step.samples, step.group.tolist(), step.kl_coefficient)
        return dump

    def _step_done(self) -> None:
        """Learner, step count and cursor now tell the same story: a checkpoint may be made."""
        self.step += 1
        self._note_drawn()
        self.busy = False

    def _note_drawn(self) -> None:
        flying = [[prompt.id for prompt in generation.prompts] for generation in self.flying]
        self.drawn = {"prompts": self.prompts.state(), "under_way": [*flying, *self.restored]}

    def _sync(self) -> None:
        """Every engine to the policy version of this step. Its audit is waited for here unless
        batches are under way: then it runs beside the next update, and no sample is taken before.
        """
        with self._phase("sync"):
            self.roles.rollout.sync(self.step, self.config.deadlines.sync)
            if not self.flying:
                self.roles.rollout.audited(self.step)

    def _record(self, metrics: dict[str, float], samples: list[Sample], seconds: float) -> None:
        """Log the step. Its sync is the one that brought its policy to the engines."""
        times, self.times = self.times, {}
        beside = self.config.algorithm.max_staleness > 0
        metrics |= clock(times, seconds, metrics, beside)
        metrics["policy_version"] = float(self.step)
        raised = self.alarms.watch(self.step, metrics)
        metrics["alarms"] = self.alarms.active
        write_samples(self.run_directory.samples_file(self.step), samples)
        self.log.log(self.step, metrics)
        self.console.step(self.step, metrics)
        self.console.alarms(raised)

    def _evaluate_and_checkpoint(self) -> None:
        config, last = self.config, self.step == self.config.steps
        self._evaluate()
        new_best = config.checkpoint.keep_best and self.best and self.best[1] == self.step
        if last or new_best or self.step % config.checkpoint.every_steps == 0:
            seconds = config.deadlines.checkpoint
            with _unbroken(SAVE_AFTER_CTRL_C_S, seconds):
                self._checkpoint(seconds)

    def _evaluate(self) -> None:
        """At the start, at the end and every so many steps, unless a resumed run did it before."""
        every = self.config.evaluation.every_steps
        due = self.step in (0, self.config.steps) or (every and self.step % every == 0)
        if not (due and self.heldout) or self.run_directory.heldout_file(self.step).exists():
            return
        self.console.phase("held-out evaluation")
        samples, metrics = evaluate(self.config, self.roles, self.heldout)
        self.log.log(self.step, metrics)
        write_samples(self.run_directory.heldout_file(self.step), samples)
        self.console.heldout(self.step, metrics)
        score = metrics["heldout/reward"]
        if self.best is None or score > self.best[0]:
            self.best = (score, self.step)

    def _checkpoint(self, seconds: float) -> None:
        """Save the state after `self.step` steps within `seconds`; batches under way are generated
        anew on resume.
        """
        started = time.monotonic()

        def left() -> float:
            return round(max(seconds - (time.monotonic() - started), 0.0), 1)

        self.console.phase("checkpoint")
        self.busy = True
        scratch = self.checkpoints.begin(self.step)
        state = {
            "step": self.step,
            **self.drawn,
            "kl_coefficient": self.kl_coefficient,
            "best": self.best,
            "dtypes": [self.config.model.dtype, self.config.rollout.dtype],
        }
        try:
            needed = ["model/model.safetensors"]
            for name, learner in self.roles.learners().items():
                learner.call("save", str(scratch / name), seconds=left())
                needed += [f"{name}/rng-{rank}.pt" for rank in range(len(learner.workers))]
            self.roles.policy.call("export", str(scratch), seconds=left())
            self.checkpoints.commit(self.step, state, needed)
        except RunFailed as failure:
            raise type(failure)(f"{failure}{self.checkpoints.why_no_room()}") from failure
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
        self.console.notice(self.checkpoints.told())

    def _finish(self) -> None:
        """The servable model and the report."""
        latest = self.checkpoints.latest()
        assert latest is not None
        self.run_directory.publish_model(latest)
        report = write_report(self.run_directory)
        if self.heldout:
            self.console.notice(before_and_after(self.run_directory))
        self.console.notice(f"model: {self.run_directory.model}\nreport: {report}")

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.console.phase(name)
        started = time.monotonic()
        yield
        self.times[name] = self.times.get(name, 0.0) + time.monotonic() - started


def _unbroken(after_ctrl_c_s: float, after_sigterm_s: float) -> AbstractContextManager[None]:
    """An update, or a checkpoint, is finished before the run stops, if it is done within that."""
    return finishing({signal.SIGINT: after_ctrl_c_s, signal.SIGTERM: after_sigterm_s})


def _teaching(groups: list[list[Sample]]) -> list[list[Sample]]:
    """The groups whose rewards differ, samples without a reward aside."""
    return [g for g in groups if teaches([s.reward for s in g if not s.failure])]
