"""A pipeline of runs: check all of them, run those that are not done, sum them up.

Stages live in folders of one output directory, and each is an ordinary run there: it can be looked
at, served and resumed by itself. What is done is never done again: a finished stage is skipped, an
interrupted one goes on from its last checkpoint.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from medgpt_ray import dry_run, preflight, rl, supervised
from medgpt_ray.config.loader import ConfigError, Loaded, load
from medgpt_ray.config.paths import leaves
from medgpt_ray.config.run import RunConfig
from medgpt_ray.config.stages import StageRun, expand, of_stage
from medgpt_ray.config.supervised import SupervisedRun
from medgpt_ray.preflight import PreflightError
from medgpt_ray.tracking.report_pipeline import summarise, write_pipeline_report
from medgpt_ray.tracking.rundir import RunDirectory, write_atomically

STOPS = tuple({*rl.STOPS, *supervised.STOPS})
SETS_NO_WEIGHTS = ("cluster", "deadlines", "start_timeout_s", "step_timeout_s", "tensorboard")
"""What may differ from the run that a finished stage was."""


def check(loaded: Loaded, resume: bool) -> list[StageRun]:
    """All stages as runs. Raises `ConfigError` or `PreflightError` with everything that would stop
    one of them, as far as it can be known before the models of earlier ones are there.
    """
    runs = expand(loaded)
    output_dir = Path(loaded.config.output_dir)
    problems: list[str] = []
    begun = [run.name for run in runs if _directory(run).holds_run]
    if begun and not resume:
        problems.append(
            f"output_dir: {output_dir} already holds stages of a pipeline ({', '.join(begun)}): "
            "continue it with --resume, or choose another output_dir"
        )
    if resume and not begun:
        problems.append(f"output_dir: {output_dir} holds no stage to resume: leave --resume out")
    if not problems:
        done = {run.name for run in runs if _directory(run).finished}
        for run in runs:
            found = _changed(run) if run.name in done else _troubles(run, done)
            problems += _placed(found, run, loaded)
    if problems:
        raise PreflightError(problems)
    return runs


def describe(loaded: Loaded, console: Console) -> None:
    """Print the stages, what each starts from, what would happen to it, and what it takes."""
    runs = expand(loaded)
    for run in runs:
        config = run.loaded.config
        given = {"model": config.model.path} | {s: f"stage {name}" for s, name in run.given.items()}
        sources = ", ".join(f"{section} from {source}" for section, source in given.items())
        line = f"{run.name}: {config.stage}, {run.file}, {sources}: {_state(run)}"
        console.print(Text(line), soft_wrap=True)
    for run in runs:
        console.print(Text(f"\nStage {run.name}", style="bold"))
        dry_run.placement(_with_model(run.loaded.config, run.base), console)


def train(loaded: Loaded, resume: bool) -> None:
    """Run what is not done yet, in order, and sum it up after each stage.

    Raises what a run raises (`STOPS`), and `PreflightError` for what only the model of an earlier
    stage could show.
    """
    runs, console = check(loaded, resume), Console()
    output_dir = Path(loaded.config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(output_dir / "pipeline.yaml", loaded.source)
    for number, run in enumerate(runs, start=1):
        finished = _directory(run).finished
        state = "done already" if finished else f"{run.loaded.config.stage}, {run.file}"
        title = f"stage {number} of {len(runs)}: {run.name} ({state})"
        console.print(Text(title, style="bold"), soft_wrap=True)
        if not finished:
            _train(run, loaded)
            _sum_up(output_dir, runs)
    for line in _told(runs):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(f"report: {_sum_up(output_dir, runs)}"), soft_wrap=True)


def _train(run: StageRun, loaded: Loaded) -> None:
    config, resume = run.loaded.config, _directory(run).holds_run
    try:
        preflight.check(config, resume)
    except PreflightError as error:
        raise PreflightError(_placed(error.problems, run, loaded)) from None
    verb = supervised if isinstance(config, SupervisedRun) else rl
    verb.train(config, run.loaded.source, resume)


def _placed(problems: Iterable[str], run: StageRun, loaded: Loaded) -> list[str]:
    """The problems of a stage, each at the line that causes it."""
    return [of_stage(run.loaded.placed(each), run.place, run.name, loaded) for each in problems]


def _sum_up(output_dir: Path, runs: Sequence[StageRun]) -> Path:
    return write_pipeline_report(output_dir, [summarise(r.name, _directory(r)) for r in runs])


def _told(runs: Sequence[StageRun]) -> Iterator[str]:
    """A line for every measure of every stage."""
    for run in runs:
        for gain in summarise(run.name, _directory(run)).gains:
            change = f" ({gain.change})" if gain.change else ""
            yield f"{run.name}: {gain.name} {gain.before} -> {gain.after or '?'}{change}"


def _directory(run: StageRun) -> RunDirectory:
    return RunDirectory(run.loaded.config.output_dir)


def _state(run: StageRun) -> str:
    directory = _directory(run)
    if directory.finished:
        return "done"
    return "interrupted" if directory.holds_run else "not begun"


def _troubles(run: StageRun, done: set[str]) -> Iterator[str]:
    """What would stop a stage. A model that an earlier stage has yet to make is looked at as the
    one that its line began with, which has the same tokenizer and sizes."""
    config = run.loaded.config
    pending = [section for section, stage in run.given.items() if stage not in done]
    if "model" in pending:
        config = _with_model(config, run.base)
    try:
        preflight.check(config, _directory(run).holds_run)
    except PreflightError as error:
        for problem in error.problems:
            if not problem.startswith(tuple(f"{section}." for section in pending)):
                yield problem


def _changed(run: StageRun) -> Iterator[str]:
    """A finished stage is skipped, so it must be the one that the file describes."""
    try:
        before = leaves(load(_directory(run).config).config.model_dump(mode="json"))
    except ConfigError as error:
        yield from error.problems
        return
    now = leaves(run.loaded.config.model_dump(mode="json"))
    ours = ("output_dir", *(f"{section}.path" for section in run.given))
    for key in dict.fromkeys([*now, *before]):
        if key in ours or key.partition(".")[0] in SETS_NO_WEIGHTS:
            continue
        if now.get(key) != before.get(key):
            yield (
                f"{key}: is {now.get(key)!r}, but the stage was done with {before.get(key)!r}: put "
                "that back, or choose another output_dir"
            )


def _with_model(config: RunConfig, path: str) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"path": path})})
