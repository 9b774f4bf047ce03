"""Train, submit and replay; what there is to configure."""

import sys
from typing import Annotated, Any

import typer
import typer.core

from medgpt_ray.cli.app import app, refusals, stops
from medgpt_ray.interrupt import at_once

RL_STAGES = ("grpo", "ppo")


LIBRARIES = ("torch", "vllm", "ray", "transformers", "peft", "deepspeed", "bitsandbytes")


@app.command()
@at_once()
def train(
    config: Annotated[str, typer.Argument(help="YAML file, or a preset such as demo/grpo.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="As learner.workers=2 rewards.0.weight=0.5"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, start nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last complete checkpoint.")
    ] = False,
) -> None:
    """Train as CONFIG says."""
    from medgpt_ray.config.loader import load
    from medgpt_ray.config.presets import locate

    with refusals():
        loaded = load(locate(config), overrides or [])
    if loaded.config.stage == "pipeline":
        _pipeline(loaded, dry_run, resume)
        return
    from medgpt_ray import preflight

    with refusals():
        if dry_run:
            from rich.console import Console

            if loaded.config.stage in RL_STAGES:
                from medgpt_ray import dry_run_rl as show
            else:
                from medgpt_ray import dry_run_supervised as show
            show.describe(loaded, resume, Console())
        try:
            preflight.check(loaded.config, resume)
        except preflight.PreflightError as error:
            raise preflight.PreflightError(map(loaded.placed, error.problems)) from None
    for warning in preflight.warnings(loaded.config):
        print(f"warning: {warning}", file=sys.stderr)
    if dry_run:
        return
    if resume and preflight.nothing_left(loaded.config):
        print(f"{loaded.config.output_dir} is finished: more `steps` would continue it")
        return
    if loaded.config.stage in RL_STAGES:
        from medgpt_ray import rl as verb
    else:
        from medgpt_ray import supervised as verb
    with stops(verb.STOPS, f"logs of every role: {loaded.config.output_dir}/logs"):
        verb.train(loaded.config, loaded.source, resume)


def _pipeline(loaded: Any, dry_run: bool, resume: bool) -> None:
    from medgpt_ray import pipeline

    with refusals():
        if dry_run:
            from rich.console import Console

            pipeline.describe(loaded, Console())
            pipeline.check(loaded, resume)
            return
        with stops(pipeline.STOPS, f"each stage has logs/ in {loaded.config.output_dir}"):
            pipeline.train(loaded, resume)


@app.command()
def submit(
    config: Annotated[str | None, typer.Argument(help="As of train, in this directory.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Of the cluster: http://HEAD:8265."),
    ] = "http://127.0.0.1:8265",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="As of train, there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="As of train, there.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start it, print its id.")] = False,
    status: Annotated[str | None, typer.Option(metavar="JOB", help="Tell how it is.")] = None,
    follow: Annotated[str | None, typer.Option(metavar="JOB", help="Print its log.")] = None,
    stop: Annotated[str | None, typer.Option(metavar="JOB", help="Stop it, saving.")] = None,
) -> None:
    """Train as CONFIG says as a job of a Ray cluster; with JOB, ask about one.

    The exit status is the job's. Ctrl-C leaves the job running; on a terminal it asks first. Where
    the cluster wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH.
    """
    if sum(each is not None for each in (config, status, follow, stop)) != 1:
        raise typer.BadParameter("give one of CONFIG, --status, --follow and --stop")
    from medgpt_ray import submit as verb

    with refusals():
        if config:
            flags = [*["--dry-run"] * dry_run, *["--resume"] * resume]
            raise typer.Exit(verb.run(config, overrides or [], flags, address, detach))
        client = verb.connect(address)
        if status:
            verb.status(client, status)
        else:
            raise typer.Exit(verb.follow(client, follow) if follow else verb.stop(client, stop))


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="Directory of a run with dump.every_steps.")],
    step: Annotated[int | None, typer.Option(help="A dumped step; the last one.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Relative difference allowed.")] = 1e-5,
) -> None:
    """Make the update of a dumped step again; exit status 1 where it differs."""
    from medgpt_ray import replay as verb

    with refusals(), stops(verb.STOPS, "the learners' logs are gone with them"):
        same = verb.replay(run, step, tolerance)
    raise typer.Exit(0 if same else 1)


@app.command()
def scale(
    run: Annotated[str, typer.Argument(help="Directory of a run that is under way.")],
    workers: Annotated[int, typer.Argument(help="Rollout workers, up to rollout.max_workers.")],
) -> None:
    """Ask a running run for more or fewer rollout workers; it obeys at its next weight sync."""
    from medgpt_ray import scale as verb

    with refusals():
        verb.scale(run, workers)
    typer.echo(f"{run} comes to {workers} rollout workers at its next weight sync")


@app.command()
def presets() -> None:
    """List the configurations that come with medgpt."""
    from rich.console import Console
    from rich.table import Table

    from medgpt_ray.config.presets import presets as shipped

    table = Table("preset", "what it does", box=None)
    for preset in shipped():
        table.add_row(preset.name, preset.description)
    Console().print(table)


@app.command()
def schema(
    stage: Annotated[
        str | None, typer.Argument(help="Of this stage only: grpo, sft, ... (all of them).")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON schema, for editors and other programs.")
    ] = False,
) -> None:
    """Print every key of a configuration: type, default, where it exists, what it means."""
    from medgpt_ray.config import keys

    if as_json:
        import json

        typer.echo(json.dumps(keys.json_schema(), indent=2))
        return
    if stage not in (None, *keys.stages()):
        raise typer.BadParameter(f"{stage!r} is none of {', '.join(keys.stages())}")
    if stage is None:
        typer.echo(f"stage: one of {', '.join(keys.stages())}, required")
    for key in keys.every_key(stage):
        default = "required" if key.default is None else f"default {key.default}"
        facts = [key.type, default if key.default != "" else "", f"when {key.when}"]
        shown = [fact for fact in facts[: 3 if key.when else 2] if fact]
        typer.echo(f"{key.name}: {', '.join(shown)}")
        for line in key.doc.splitlines():
            typer.echo(f"    {line}")


@app.command()
def env() -> None:
    """Print versions and the machine, for a bug report."""
    import os
    import shutil

    from medgpt_ray.preflight_machine import local_gpus
    from medgpt_ray.tracking.rundir import describe_environment

    found = describe_environment()
    machine, versions = found["machine"], found["libraries"]
    lines = {"python": found["python"]}
    for name in LIBRARIES:
        builds = [build for build in (name, f"{name}-cpu") if build in versions]
        lines[name] = ", ".join(f"{versions[build]} ({build})" for build in builds) or "none"
    lines["system"] = machine["system"]
    lines["CPUs"] = f"{machine['cpus']} ({machine['processor']})"
    lines["memory"] = f"{machine['memory_gib']} GiB"
    lines["GPUs"] = "; ".join(local_gpus()) or "none"
    compilers = (shutil.which(compiler) for compiler in ("c++", "g++", "clang++"))
    lines["compiler"] = next(filter(None, compilers), "none")
    if os.path.isdir("/dev/shm"):  # where Ray keeps its objects
        usage = shutil.disk_usage("/dev/shm")
        free, total = usage.free / 2**30, usage.total / 2**30
        lines["/dev/shm"] = f"{free:.1f} of {total:.1f} GiB free"
    for name, value in lines.items():
        typer.echo(f"{name:<13} {value}")
