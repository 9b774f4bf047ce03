"""`medgpt submit`: a training run as a job of a running cluster, through Ray's job client.

The current directory is shipped, so that every relative path of the configuration means on the
cluster what it means here. The run itself is `medgpt train` there, with this code where the
directory is a checkout, else with the medgpt that the cluster has installed. Only what can be seen
from here is checked; the job's own preflight sees the rest.
"""

import asyncio
import logging
import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from medgpt_ray.config.loader import ConfigError, Loaded, load
from medgpt_ray.config.paths import named_paths
from medgpt_ray.config.presets import locate
from medgpt_ray.config.run import RunConfig
from medgpt_ray.config.stages import StageRun, expand
from medgpt_ray.config.supervised import SupervisedRun
from medgpt_ray.preflight import PreflightError

CONNECT_S, ANSWER_S, UPLOAD_S = 10.0, 30.0, 600.0
SILENCE_S = 20.0
"""Without a line of the log for so long the cluster is asked whether it is still there."""
QUESTION_S = 30.0
STOP_MARGIN_S = 30.0
KILLED_AFTER = "RAY_JOB_STOP_WAIT_TIME_S"
"""Ray kills a job so long after it asked it to stop, and 3 s do not write a checkpoint."""

TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that tell of each step and file."""
NOT_SHIPPED = [".git", ".venv", "venv", "__pycache__"]
"""Besides what .gitignore and .rayignore name: Ray's own default, of which it would warn."""


class SubmitError(PreflightError):
    """The cluster does not do what it was asked for."""

    def __init__(self, problem: str) -> None:
        super().__init__([problem])


class Client(JobSubmissionClient):
    """Ray's client with deadlines for its requests, and at the address that it is given: Ray's own
    prefers those of the environment."""

    def __init__(self, address: str) -> None:
        names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
        held = {name: os.environ.pop(name) for name in names if name in os.environ}
        try:
            super().__init__(address)
        finally:
            os.environ.update(held)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        answer = UPLOAD_S if method == "PUT" else ANSWER_S
        return super()._do_request(method, endpoint, timeout=(CONNECT_S, answer), **options)


def run(
    config: str, overrides: Sequence[str], flags: Sequence[str], address: str, detach: bool
) -> int:
    """Start `medgpt train CONFIG OVERRIDES FLAGS` as a job; returns its exit status, or 0 at once
    to `detach`."""
    file = locate(config)
    loaded = load(file, overrides)
    check(file, loaded)
    client = connect(address)
    job = submit(client, file, loaded, [*overrides, *flags])
    if detach:
        print(job)
        return 0
    _say(f"job {job} on {address}")
    return follow(client, job)


def connect(address: str) -> Client:
    """Raises `ConfigError` for an address of another kind, `SubmitError` where nothing answers."""
    if not re.fullmatch(r"https?://[^/]+(:\d+)?/?", address):
        raise ConfigError(
            [f"--address: {address}: expected http://HEAD:8265, where the head's dashboard listens"]
        )
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return Client(address)
    except AuthenticationError as error:
        reason = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
        raise SubmitError(
            f"{address} refuses: {reason}: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, the "
            "file of the cluster's token"
        ) from error
    except (OSError, RuntimeError) as error:  # requests' own errors are OSErrors
        raise SubmitError(f"{address} cannot be reached: {error}") from error


def check(file: Path, loaded: Loaded) -> None:
    """Raise `ConfigError` with what cannot be right on a cluster: files that are not shipped, an
    output directory that would not outlive the job, another cluster."""
    here = Path.cwd()
    problems = [] if file.resolve().is_relative_to(here) else [_not_here(file, here)]
    if not Path(loaded.config.output_dir).is_absolute():
        problems.append(
            f"{_told('output_dir', loaded)}: {loaded.config.output_dir} would be in the job's copy "
            "of this directory, which Ray deletes: name an absolute path, on a file system that "
            "the cluster's nodes share"
        )
    for run in _runs(file, loaded):
        if not run.file.resolve().is_relative_to(here):
            problems.append(_not_here(run.file, here))
        if run.loaded.config.cluster.address:
            told = _told("cluster.address", run.loaded)
            problems.append(f"{told}: leave it out: a job has its cluster")
        made = {f"{section}.path" for section in run.given}
        for key, path in named_paths(run.loaded.config).items():
            if key not in made:
                told = _told(key, run.loaded)
                problems += [f"{told}: {problem}" for problem in _unshipped(path, here)]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def submit(client: Client, file: Path, loaded: Loaded, arguments: Sequence[str]) -> str:
    """Ship the current directory and start the job; `arguments` are further ones of `medgpt train`.
    Returns the job's id."""
    path = file.resolve().relative_to(Path.cwd())
    command = ["python", "-m", "medgpt_ray.cli", "train", str(path), *arguments]
    os.environ["RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"] = ""
    patience = str(round(max(_last_update_s(r.loaded.config) for r in _runs(file, loaded))))
    what = f"{loaded.config.stage} {path} -> {loaded.config.output_dir}"
    try:
        return client.submit_job(
            entrypoint=f"exec {shlex.join(command)}",
            runtime_env={
                "working_dir": ".",
                "excludes": NOT_SHIPPED,
                "env_vars": {KILLED_AFTER: patience},
            },
            metadata={"medgpt": what, KILLED_AFTER: patience},
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise SubmitError(f"the job could not be submitted: {error}") from error


def follow(client: Client, job: str) -> int:
    """Print the job's log until it ends; returns its exit status, or 130 after Ctrl-C."""
    try:
        asyncio.run(_print_log(client, job))
    except KeyboardInterrupt:
        if _wants_it_stopped():
            return stop(client, job)
        _say(f"{job} goes on: medgpt submit --follow {job}, or --stop {job}")
        return 130
    return outcome(_ended(client, job, ANSWER_S))


def status(client: Client, job: str) -> None:
    """Print in one line each: state, what it runs, since when."""
    details = _details(client, job)
    print(f"{job}: {details.status.value}: {details.message}")
    print(f"what: {(details.metadata or {}).get('medgpt', details.entrypoint)}")
    for name, milliseconds in (("began", details.start_time), ("ended", details.end_time)):
        if milliseconds:
            print(f"{name}: {time.strftime('%F %T', time.localtime(milliseconds / 1000))}")


def stop(client: Client, job: str) -> int:
    """Ask the job to stop and wait for it, which writes a checkpoint first; returns 130, or how it
    ended before it was asked."""
    details = _details(client, job)
    if not details.status.is_terminal():
        seconds = float((details.metadata or {}).get(KILLED_AFTER, 3)) + STOP_MARGIN_S
        _say(f"stopping {job}, which may write a checkpoint for up to {seconds:.0f} s")
        try:
            client.stop_job(job)
        except (OSError, RuntimeError) as error:
            raise SubmitError(f"{job} could not be stopped: {error}") from error
        details = _ended(client, job, seconds)
    _say(f"{job}: {details.status.value}")
    return outcome(details)


def outcome(details: JobDetails) -> int:
    """The exit status that tells how a job ended."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return 130
    _say(f"{details.submission_id}: {details.status.value}: {_last_line(details.message)}")
    return details.driver_exit_code or 1


async def _print_log(client: Client, job: str) -> None:
    """Until the job ends. A cluster that falls silent is asked for a sign of life."""
    lines = client.tail_job_logs(job)
    following: asyncio.Future[str] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(lines))
            done, _ = await asyncio.wait({following}, timeout=SILENCE_S)
            if done:
                text, following = following.result(), None
                print(text, end="", flush=True)
            elif _details(client, job).status.is_terminal():
                return
    except StopAsyncIteration:
        return
    except (OSError, RuntimeError, aiohttp.ClientError) as error:
        _details(client, job)  # which tells what is wrong, if the cluster answers
        raise SubmitError(f"{_lost(job)}: {error}") from error
    finally:
        if following is not None:
            following.cancel()


def _details(client: Client, job: str) -> JobDetails:
    try:
        return client.get_job_info(job)
    except RuntimeError as error:  # it answered, with an error
        raise SubmitError(f"{job}: {_last_line(error)}") from error
    except OSError as error:
        raise SubmitError(f"{_lost(job)}: {error}") from error


def _ended(client: Client, job: str, seconds: float) -> JobDetails:
    deadline = time.monotonic() + seconds
    while not (details := _details(client, job)).status.is_terminal():
        if time.monotonic() > deadline:
            raise SubmitError(f"{job} is still {details.status.value} after {seconds:.0f} s")
        time.sleep(0.5)
    return details


def _lost(job: str) -> str:
    return f"the cluster does not answer; {job} may go on: medgpt submit --follow {job}"


def _wants_it_stopped() -> bool:
    """Asks on a terminal; without one, or without an answer in time, the job goes on."""
    if not sys.stdin.isatty():
        return False
    print("\nStop the job too? [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        answered, _, _ = select.select([sys.stdin], [], [], QUESTION_S)
    except KeyboardInterrupt:
        return False
    return bool(answered) and sys.stdin.readline().strip().lower() in ("y", "yes")


def _runs(file: Path, loaded: Loaded) -> list[StageRun]:
    """The stages of a pipeline; a run is one by itself."""
    if loaded.config.stage == "pipeline":
        return expand(loaded)
    return [StageRun(loaded.config.stage, file, loaded, {}, "")]


def _last_update_s(config: RunConfig) -> float:
    """How long an update and a checkpoint may take after SIGTERM, as the configuration says."""
    if isinstance(config, SupervisedRun):
        return config.step_timeout_s
    return config.deadlines.learn + config.deadlines.checkpoint


def _not_here(file: Path, here: Path) -> str:
    return f"{file}: is not in {here}, which is what the cluster gets: copy it here"


def _unshipped(path: str, here: Path) -> Iterator[str]:
    if Path(path).is_absolute():
        return
    found = [Path(path)] if Path(path).exists() else sorted(here.glob(path))
    inside = [one for one in found if one.resolve().is_relative_to(here)]
    if not inside:
        where = "is outside" if found else "is not in"
        yield (
            f"{path} {where} {here}, which is what the cluster gets: put it there, or name an "
            "absolute path that the cluster's nodes share"
        )
    elif _ignored_by_git(inside[0]):
        yield (
            f"{path} is ignored by git, and such files are not shipped: take it out of "
            ".gitignore, or name an absolute path that the cluster's nodes share"
        )


def _ignored_by_git(path: Path) -> bool:
    """Ray leaves out what .gitignore names. Without git, or outside a repository: no."""
    try:
        done = subprocess.run(
            ["git", "check-ignore", "--quiet", str(path)],
            timeout=30,
            check=False,
            capture_output=True,
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


def _told(key: str, loaded: Loaded) -> str:
    """The key after the place where it is written, as the loader tells a mistake."""
    place = loaded.origins.get(key)
    return f"{place}: {key}" if place else key


def _last_line(text: object) -> str:
    lines = str(text).strip().splitlines()
    return lines[-1] if lines else ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
