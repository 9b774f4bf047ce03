"""The supervised stages on one page: PT, SFT, RM, DPO, ORPO and KTO as a Ray Train run.

`train` opens the data, starts Ray and the workers (`actors.trainer`), and follows what they tell:
metrics go to the log and the screen, a death of a worker is noted while Ray Train restarts the
group from the last checkpoint, silence beyond its deadline ends the run.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medgpt_ray import preflight, preflight_models
from medgpt_ray.actors.cluster import learner_environment, ray_cluster
from medgpt_ray.actors.monitor import Event, Monitor
from medgpt_ray.actors.train_controller import Deaths, Introduction
from medgpt_ray.actors.trainer import Job, train_worker
from medgpt_ray.actors.wait import RunFailed, wait
from medgpt_ray.config.supervised import SupervisedRun
from medgpt_ray.data import templates
from medgpt_ray.data.opening import find_data, open_data
from medgpt_ray.data.rows import DataError
from medgpt_ray.interrupt import Interrupted, interruptible, noted
from medgpt_ray.models.deepspeed import backend
from medgpt_ray.models.load import on_this_machine, open_tokenizer
from medgpt_ray.tracking.checkpoints import Checkpoints, published, read_state
from medgpt_ray.tracking.console import Console
from medgpt_ray.tracking.metrics import MetricsLog
from medgpt_ray.tracking.report import write_report
from medgpt_ray.tracking.rundir import RunDirectory, RunDirectoryError

LISTEN_S = 1.0
ENDING_S, KILLED_S = 60.0, 5.0
"""For Ray Train to end by itself, and when it is killed."""
SAVE_AFTER_INTERRUPT_S = 6.0


def train(config: SupervisedRun, source: str, resume: bool) -> None:
    """Run or continue a training run; `source` is the text of the user's file.

    Raises `RunFailed` with a post-mortem, `DataError` for data that cannot be trained on,
    `Interrupted` on SIGINT or SIGTERM, after leaving a checkpoint of the last step where there is
    one and time allows.
    """
    path = Path(config.output_dir).resolve()  # workers may have another working directory
    files = find_data(config)
    run = (
        RunDirectory.open(path)
        if resume
        else RunDirectory.create(
            path, config, source, preflight.data_sha256(config), preflight_models.weights(config)
        )
    )
    config = on_this_machine(config)
    checkpoint = Checkpoints(run.checkpoints).latest() if resume else None
    done = read_state(checkpoint)["step"] if checkpoint else 0
    with ExitStack() as stack:
        stack.enter_context(run.alone())
        stack.enter_context(run.remembering_failure())
        console = stack.enter_context(Console(config.steps, done + 1))
        stack.enter_context(interruptible())
        console.phase("opening the data")
        write_tokenizer(config, run.tokenizer)
        data = open_data(config, files, str(run.tokenizer))
        for line in data.described():
            console.notice(line)
        console.phase("starting Ray and the workers")
        stack.enter_context(ray_cluster(config.cluster))
        stack.enter_context(_told_its_cluster())
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        monitor = Monitor.options(scheduling_strategy=here).remote()
        job = Job(config, data.recipe, data.sources, data.validation, str(path), monitor)
        session = Session(config, run, console, monitor)
        stack.callback(session.close)
        session.follow(_trainer(job))
        session.finish()


def write_tokenizer(config: SupervisedRun, directory: Path) -> None:
    """The tokenizer of the run, new tokens and named template included, for every process."""
    tokenizer = open_tokenizer(config.model.path, config.model.new_tokens)
    if config.data.template is not None:
        templates.apply(tokenizer, config.data.template)
    tokenizer.save_pretrained(directory)


@contextmanager
def _told_its_cluster() -> Iterator[None]:
    """Inside the block Ray Train tells its processes which Ray they are part of.

    One of them removes the workers' placement group once the controller is not found. Where
    RAY_ADDRESS does not say where to look, it looks in the cluster that `ray start` or a test left
    on this machine last: a run beside another cluster would be ended by it.
    """
    added = {"RAY_ADDRESS"} - ENV_VARS_TO_PROPAGATE
    ENV_VARS_TO_PROPAGATE.update(added)
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        del os.environ["RAY_ADDRESS"]
        if before is not None:
            os.environ["RAY_ADDRESS"] = before
        ENV_VARS_TO_PROPAGATE.difference_update(added)


STOPS = (RunFailed, Interrupted, DataError, RunDirectoryError, OSError)
"""How a run ends that does not finish: told in one message, without a traceback."""


def _trainer(job: Job) -> TorchTrainer:
    config = job.config
    learner, faults = config.learner, config.faults
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # paths of data and rewards stay relative to here
    environment = learner_environment(learner) | {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
    workers: int | tuple[int, int] = learner.workers
    if faults.min_workers is not None:
        workers = faults.min_workers, learner.workers
    resources = {"CPU": learner.cpus} | ({"GPU": learner.gpus} if learner.gpus else {})
    return TorchTrainer(
        partial(train_worker, job),  # as its configuration the controller would import all of it
        torch_config=TorchConfig(
            backend=backend(learner.gpus), timeout_s=int(config.step_timeout_s)
        ),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=bool(learner.gpus),
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=10.0,
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=job.output_dir,
            failure_config=FailureConfig(max_failures=faults.max_failures),
            callbacks=[Introduction(job.monitor), Deaths(job.monitor)],
            worker_runtime_env={"env_vars": environment},
        ),
    )


class Session:
    """The driver's side of a run: hears the workers, writes the log, keeps the deadlines."""

    def __init__(
        self,
        config: SupervisedRun,
        run: RunDirectory,
        console: Console,
        monitor: Any,
    ) -> None:
        self.config, self.run, self.console, self.monitor = config, run, console, monitor
        self.log: MetricsLog | None = None
        """From the start of the workers on, who say after which step they go on."""
        self.limit = config.start_timeout_s
        self.phase = "start of the workers"
        self.deaths: list[str] = []
        self.ended = ""
        """`done` or `stopped` once rank 0 said so."""
        self.fatal = ""
        """What ends the run and would come again after a restart."""
        self.error: BaseException | None = None
        self.controller: Any = None
        """Ray Train's, once it runs."""

    def follow(self, trainer: TorchTrainer) -> None:
        """Until the workers are done. Raises what ended the run otherwise."""
        fitting = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        with noted() as signals:
            try:
                fitting.start()
                self._listen(fitting, signals)
            finally:
                self._end(fitting)
        if signals:
            if self.fatal:
                self.console.notice(self.fatal)
            self.console.notice(Checkpoints(self.run.checkpoints).told())
            raise Interrupted(signals[0])
        if self.fatal:
            raise RunFailed(self.fatal)
        if not self.ended:
            raise RunFailed("\n".join([f"Ray Train gave up: {self.error}", *self.deaths]))
        if self.error is not None:
            self.console.notice(f"training is done; Ray Train then failed to end: {self.error}")

    def _end(self, fitting: threading.Thread) -> None:
        """Ray Train must not be at work on a Ray that is shut down, nor train on for nobody."""
        if self.ended:
            fitting.join(ENDING_S)
        until = time.monotonic() + KILLED_S
        while fitting.is_alive() and time.monotonic() < until:
            if self.controller is not None:
                ray.kill(self.controller)
                fitting.join(KILLED_S)
                continue
            taken = self.monitor.take.remote(LISTEN_S)  # it is about to start
            with suppress(ray.exceptions.RayError):  # why the run ends is known already
                for name, what in ray.get(taken, timeout=KILLED_S):
                    if name == "controller":
                        self.controller = what
            fitting.join(0.1)

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 (told by the main thread)
            self.error = error

    def _listen(self, fitting: threading.Thread, signals: list[int]) -> None:
        """Handle events until the run ends, or a signal's time is over."""
        heard, until = time.monotonic(), float("inf")
        while time.monotonic() < until:
            if signals and until == float("inf"):
                until = time.monotonic() + self._ask_to_stop(signals[0])
            alive = fitting.is_alive()
            call = {"the monitor": self.monitor.take.remote(LISTEN_S)}
            (events,) = wait(call, 60, self.phase).values()
            for event in events:
                self._handle(event)
            if self.ended or self.fatal or not (alive or events):
                return
            heard = time.monotonic() if events else heard
            if time.monotonic() - heard > self.limit:
                told = "; ".join(self.deaths) or "no worker has died"
                raise RunFailed(
                    f"{self.phase}: nothing heard from learner rank 0 for {self.limit:g} s ({told})"
                )

    def _ask_to_stop(self, number: int) -> float:
        """Ask for a checkpoint; returns how long it may take. After Ctrl-C a user waits for the
        prompt; after SIGTERM the scheduler sets the limit."""
        name = signal.Signals(number).name
        self.monitor.stop.remote()
        if self.log is None:
            self.console.notice(f"{name}: no step has begun")
            return 0.0
        self.console.notice(f"{name}: saving a checkpoint after this step")
        return SAVE_AFTER_INTERRUPT_S if number == signal.SIGINT else self.config.step_timeout_s

    def _handle(self, event: Event) -> None:
        name, what = event
        if name == "controller":
            self.controller = what
        elif name == "phase":
            self.phase = what
            self.console.phase(what)
        elif name == "started":
            self._started(what)
        elif name == "step":
            self._step(*what)
        elif name == "validation":
            step, metrics = what
            self._log(step, metrics)
            self.console.validation(step, metrics)
        elif name == "notice":
            self.console.notice(what)
        elif name == "death":
            self.deaths.append(what)
            self.console.notice(f"a worker died: {what}")
        elif name == "fatal":
            self.fatal = what
        elif name in ("done", "stopped"):
            self.ended = name

    def _started(self, step: int | None) -> None:
        """The workers go on after `step`, or begin; what others had learned since is dropped.

        Only they know which checkpoint it is: the workers of a driver that was killed may have
        completed one more after the next driver looked.
        """
        self.limit = self.config.step_timeout_s
        self._close_log()
        self.log = MetricsLog(self.run, self.config.tensorboard, -1 if step is None else step)
        if step is not None:
            self.console.notice(f"going on after step {step}")

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        assert self.log is not None
        self.log.log(step, metrics)

    def _step(self, step: int, metrics: dict[str, float]) -> None:
        self.phase = f"step {step + 1}"
        self._log(step, metrics)
        self.console.expect(self.config.steps or round(step / max(metrics["progress"], 1e-9)))
        self.console.step(step, metrics)

    def finish(self) -> None:
        """The model of the last checkpoint or of the best, and the report."""
        checkpoint = published(self.run)
        assert checkpoint is not None
        self.run.publish_model(checkpoint)
        report = write_report(self.run)
        self.console.notice(f"model: {self.run.model}, of {checkpoint.name}\nreport: {report}")

    def _close_log(self) -> None:
        if self.log is not None:
            self.log.close()

    def close(self) -> None:
        self._close_log()
        shutil.rmtree(self.run.path / "ray_train", ignore_errors=True)
