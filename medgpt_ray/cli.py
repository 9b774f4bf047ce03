"""The command `medgpt`: parses, imports late, calls one function. Starting it imports only typer.

A configuration, data or set-up that cannot run is told on standard error, a line a problem, with
exit status 2.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

LIBRARIES = ("torch", "vllm", "ray", "transformers", "peft", "deepspeed", "bitsandbytes")

app = typer.Typer(
    help="Train medical language models with reinforcement learning on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
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

    with _refusals():
        loaded = load(locate(config), overrides or [])
    from medgpt_ray import preflight

    if dry_run:
        from rich.console import Console

        from medgpt_ray.dry_run import describe

        describe(loaded, resume, Console())
    with _refusals():
        preflight.check(loaded.config, resume)
    if not dry_run:
        from medgpt_ray.interrupt import Interrupted

        if loaded.config.stage == "grpo":
            from medgpt_ray import rl as verb
        else:
            from medgpt_ray import supervised as verb
        try:
            verb.train(loaded.config, loaded.source, resume)
        except verb.STOPS as stop:
            print(f"{type(stop).__name__}: {stop}", file=sys.stderr)
            print(f"logs of every role: {loaded.config.output_dir}/logs", file=sys.stderr)
            raise typer.Exit(130 if isinstance(stop, Interrupted) else 1) from None


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
    import shutil

    from medgpt_ray.preflight import SHARED_MEMORY, local_gpus
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
    if SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(SHARED_MEMORY)
        free, total = usage.free / 2**30, usage.total / 2**30
        lines[str(SHARED_MEMORY)] = f"{free:.1f} of {total:.1f} GiB free"
    for name, value in lines.items():
        typer.echo(f"{name:<13} {value}")


@contextmanager
def _refusals() -> Iterator[None]:
    """Print the problems of what cannot run and exit with status 2."""
    from medgpt_ray.config.loader import ConfigError
    from medgpt_ray.preflight import PreflightError

    try:
        yield
    except (ConfigError, PreflightError) as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    app()
