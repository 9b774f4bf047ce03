"""A run of reinforcement learning from its directory to its end: its data, its cluster, and the new
start after a death. The loop itself is in `controller.py`.
"""

from contextlib import ExitStack
from pathlib import Path

from medgpt_ray import preflight, preflight_models
from medgpt_ray.actors.cluster import ray_cluster, start_roles
from medgpt_ray.actors.sync.audit import WeightAuditError
from medgpt_ray.actors.wait import RoleDied, RunFailed
from medgpt_ray.config.schema import RlRun
from medgpt_ray.controller import Controller
from medgpt_ray.data.prompts import PromptSource, read_prompts
from medgpt_ray.data.rows import DataError
from medgpt_ray.interrupt import Interrupted, interruptible
from medgpt_ray.models.load import load_tokenizer, on_this_machine
from medgpt_ray.tracking.checkpoints import Checkpoints, read_state
from medgpt_ray.tracking.console import Console
from medgpt_ray.tracking.metrics import MetricsLog
from medgpt_ray.tracking.rundir import RunDirectory, RunDirectoryError
from medgpt_ray.types import Prompt


def train(config: RlRun, source: str, resume: bool) -> None:
    """Run or continue a training run; `source` is the text of the user's file.

    After the death of a role everything starts anew from the last checkpoint, up to
    `faults.max_restarts` times. Raises `RunFailed` with a post-mortem when a role fails or misses a
    deadline, `Interrupted` on SIGINT or SIGTERM after leaving a checkpoint.
    """
    path = Path(config.output_dir).resolve()  # actors may have another working directory
    run = (
        RunDirectory.open(path)
        if resume
        else RunDirectory.create(
            path, config, source, preflight.data_sha256(config), preflight_models.weights(config)
        )
    )
    config = on_this_machine(config)
    with ExitStack() as stack:
        stack.enter_context(run.alone())
        stack.enter_context(run.remembering_failure())
        stack.enter_context(interruptible())
        prompts = _prompts(config)
        stack.enter_context(ray_cluster(config.cluster))
        for left in reversed(range(config.faults.max_restarts + 1)):
            try:
                return _attempt(config, run, prompts, resume)
            except RoleDied as death:
                if not left:
                    raise
                print(f"{death}\nstarting all roles anew, {left} restarts left", flush=True)
                resume = True


def _prompts(config: RlRun) -> tuple[list[Prompt], list[Prompt]]:
    """Those to train on and the held-out ones. Read once: files may change while a run goes on."""
    data, tokenizer = config.data, load_tokenizer(config.model.path)
    heldout = read_prompts(data.heldout, tokenizer, data) if data.heldout else []
    return read_prompts(data.train, tokenizer, data), heldout[: config.evaluation.max_prompts]


def _attempt(
    config: RlRun,
    run: RunDirectory,
    prompts: tuple[list[Prompt], list[Prompt]],
    resume: bool,
) -> None:
    """From the start, or from the last checkpoint, to the end."""
    checkpoint = Checkpoints(run.checkpoints).latest() if resume else None
    done = read_state(checkpoint)["step"] if checkpoint else 0
    trained, heldout = prompts
    with ExitStack() as stack:
        console = stack.enter_context(Console(config.steps, done + 1))
        log = MetricsLog(run, config.tensorboard, (done if checkpoint else -1) if resume else None)
        stack.callback(log.close)
        run.discard_after(done if checkpoint else -1)
        console.phase("starting the learners, the scorers and the rollout engines")
        roles = stack.enter_context(start_roles(config, run))
        source = PromptSource(trained, config.seed)
        controller = Controller(config, run, roles, console, log, source)
        controller.heldout = heldout
        if checkpoint:
            controller.restore(checkpoint)
        controller.run()


STOPS = (RunFailed, Interrupted, DataError, WeightAuditError, RunDirectoryError, OSError)
"""How a run ends that does not finish: told in one message, without a traceback."""
