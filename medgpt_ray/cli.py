"""The command `medgpt`: parses, imports late, calls one function. Starting it imports only typer.

A configuration, data or set-up that cannot run is told on standard error, a line a problem, with
exit status 2.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
import typer.core

RL_STAGES = ("grpo", "ppo")
LIBRARIES = ("torch", "vllm", "ray", "transformers", "peft", "deepspeed", "bitsandbytes")

app = typer.Typer(
    help="Train medical language models on Ray, supervised and by reinforcement learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Check, convert, show and count training data.", no_args_is_help=True)
app.add_typer(data_app, name="data")
index_app = typer.Typer(help="Find passages of your own documents.", no_args_is_help=True)
app.add_typer(index_app, name="index")


class ServeGroup(typer.core.TyperGroup):
    """`medgpt serve RUN` is `medgpt serve start RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named or not args else ["start", *args])


serve_app = typer.Typer(cls=ServeGroup, help="Serve a model as OpenAI does.", no_args_is_help=True)
app.add_typer(serve_app, name="serve")

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH", help="Files, directories, globs or hf:NAME.")
]
FormatOption = Annotated[str, typer.Option("--format", help="Format of the rows.")]
StageOption = Annotated[
    str | None, typer.Option(help="Rows as this stage takes them: pt, sft, rm, dpo, orpo or kto.")
]
ModelOption = Annotated[str, typer.Option(help="Model directory, for its tokenizer and template.")]
TemplateOption = Annotated[
    str | None, typer.Option(help="Chat template by name, in place of the model's own.")
]
MaxTokens = Annotated[int, typer.Option(min=2, help="Of one sequence, as data.max_tokens.")]
Inputs = Annotated[bool, typer.Option("--train-on-inputs", help="As data.train_on_inputs.")]
Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="NAME=DIRECTORY", help="LoRA adapter, served as NAME."),
]
SystemPrompt = Annotated[str | None, typer.Option(help="As data.system_prompt.")]


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

        if loaded.config.stage in RL_STAGES:
            from medgpt_ray import dry_run_rl as show
        else:
            from medgpt_ray import dry_run_supervised as show
        show.describe(loaded, resume, Console())
    with _refusals():
        preflight.check(loaded.config, resume)
    if not dry_run:
        from medgpt_ray.interrupt import Interrupted

        if loaded.config.stage in RL_STAGES:
            from medgpt_ray import rl as verb
        else:
            from medgpt_ray import supervised as verb
        try:
            verb.train(loaded.config, loaded.source, resume)
        except verb.STOPS as stop:
            print(f"{type(stop).__name__}: {stop}", file=sys.stderr)
            print(f"logs of every role: {loaded.config.output_dir}/logs", file=sys.stderr)
            raise typer.Exit(130 if isinstance(stop, Interrupted) else 1) from None


@serve_app.command("start")
def serve(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="What to serve.")],
    host: Annotated[str, typer.Option(help="Others than loopback need API keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    adapter: Adapters = None,
    api_keys: Annotated[
        str | None, typer.Option(help="File, a key a line (or the variable MEDGPT_API_KEYS).")
    ] = None,
    guard: Annotated[bool, typer.Option("--guard", help="Safety guard of chat answers.")] = False,
    index: Annotated[str | None, typer.Option(help="Answer from these documents.")] = None,
    request_log: Annotated[str | None, typer.Option(help="Folder; a line a request.")] = None,
    replicas: Annotated[str, typer.Option(help="MIN or MIN:MAX, scaled by load.")] = "1",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As limits.requests_per_minute=60"),
    ] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; else one here.")] = None,
) -> None:
    """Serve a model behind the OpenAI API until stopped; `start` may be left out."""
    from medgpt_ray.serving import command

    values = {"model": model, "api_keys": api_keys, "guard": guard, "index": index}
    values["request_log"] = request_log
    with _refusals():
        command.serve(values, replicas, setting or [], adapter or [], host, port, address)


@serve_app.command("update")
def serve_update(
    model: Annotated[
        str | None, typer.Argument(metavar="[RUN|MODEL]", help="In place of what is served.")
    ] = None,
    adapter: Adapters = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Change model or adapters of a running `medgpt serve`, without a failed answer."""
    from medgpt_ray.serving import command

    with _refusals():
        command.update(port, model, adapter or [])


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


@data_app.command()
def validate(
    paths: Paths,
    stage: StageOption = None,
    format: FormatOption = "auto",
    model: Annotated[str | None, typer.Option(help="Model directory: count tokens too.")] = None,
    template: TemplateOption = None,
    max_tokens: MaxTokens = 1024,
) -> None:
    """Name every bad row as file:line, then sum up each file.

    Exit status 1 where a row is bad, 2 where something cannot be read.
    """
    section = _data_section(paths, stage, format, template=template, max_tokens=max_tokens)
    from medgpt_ray import data_commands

    with _refusals():
        status = data_commands.validate(section, stage, model)
    raise typer.Exit(status)


@data_app.command()
def convert(
    paths: Paths,
    to: Annotated[str, typer.Option(help="Format to write.")],
    output: Annotated[str, typer.Option(help="A .jsonl, .json or .parquet file.")],
    format: FormatOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT.")] = False,
) -> None:
    """Write rows in another format.

    Where a row cannot be expressed, all such are named, nothing is written, and the exit status
    is 1.
    """
    section = _data_section(paths, None, format)
    from medgpt_ray import data_commands
    from medgpt_ray.data.formats import FORMATS

    _known(to, FORMATS, "--to")
    with _refusals(status=1):
        data_commands.convert(section, to, output, force)


@data_app.command()
def preview(
    paths: Paths,
    model: ModelOption,
    stage: StageOption = None,
    format: FormatOption = "auto",
    template: TemplateOption = None,
    rows: Annotated[int, typer.Option(min=1, help="So many of each file.")] = 3,
    max_tokens: MaxTokens = 1024,
    train_on_inputs: Inputs = False,
    system_prompt: SystemPrompt = None,
) -> None:
    """Show rows as the model sees them, the trained tokens marked."""
    section = _data_section(
        paths,
        stage,
        format,
        template=template,
        max_tokens=max_tokens,
        train_on_inputs=train_on_inputs,
        system_prompt=system_prompt,
    )
    from medgpt_ray import data_commands

    with _refusals():
        data_commands.preview(section, stage, model, rows)


@data_app.command()
def stats(
    paths: Paths,
    model: ModelOption,
    stage: StageOption = None,
    format: FormatOption = "auto",
    template: TemplateOption = None,
    max_tokens: MaxTokens = 1024,
    train_on_inputs: Inputs = False,
    system_prompt: SystemPrompt = None,
) -> None:
    """Count what a run would train on: tokens, trained tokens, lengths, rows cut and dropped."""
    section = _data_section(
        paths,
        stage,
        format,
        template=template,
        max_tokens=max_tokens,
        train_on_inputs=train_on_inputs,
        system_prompt=system_prompt,
    )
    from medgpt_ray import data_commands

    with _refusals():
        data_commands.stats(section, stage, model)


@index_app.command("build")
def index_build(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Of pdf, docx, md, txt, jsonl.")],
    output: Annotated[str, typer.Option(help="Directory of the index, new or to be updated.")],
    embedding: Annotated[
        str, typer.Option(help="Directory of a sentence-transformers model in safetensors.")
    ] = "embedded:all-minilm-l6-v2",
) -> None:
    """Make the documents of DIR searchable; later only what changed is read again."""
    with _refusals():
        from medgpt_ray import index

        index.build(folder, output, embedding)


@index_app.command("ask")
def index_ask(
    directory: Annotated[str, typer.Argument(metavar="INDEX")],
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION...", help="Several: turns of a conversation.")
    ],
    count: Annotated[int, typer.Option(min=1, max=20, help="Passages to show.")] = 5,
    reranker: Annotated[str | None, typer.Option(help="Directory of a cross-encoder.")] = None,
) -> None:
    """Show the passages that answer QUESTION, with source and page, or that none does."""
    with _refusals():
        from medgpt_ray import index

        index.ask(directory, questions, count, reranker)


@index_app.command("calibrate")
def index_calibrate(
    directory: Annotated[str, typer.Argument(metavar="INDEX")],
    questions: Annotated[str, typer.Argument(help="A .jsonl file, see docs/retrieval.md.")],
) -> None:
    """Measure INDEX on questions with known answers, and fit when it says that none is there."""
    with _refusals():
        from medgpt_ray import index

        index.calibrate(directory, questions)


def _data_section(paths: list[str], stage: str | None, format: str, **options: Any) -> Any:
    """What a configuration file would say of the same data."""
    from medgpt_ray.config.supervised import Source, SupervisedData
    from medgpt_ray.data.formats import FORMATS, KINDS

    _known(format, ["auto", *FORMATS], "--format")
    if stage is not None:
        _known(stage, KINDS, "--stage")
    return SupervisedData(train=[Source(path=path, format=format) for path in paths], **options)


def _known(value: str, known: Iterable[str], option: str) -> None:
    if value not in known:
        print(f"{option}: {value!r} is none of {', '.join(known)}", file=sys.stderr)
        raise typer.Exit(2)


@contextmanager
def _refusals(status: int = 2) -> Iterator[None]:
    """Print the problems of what cannot run and exit with `status`."""
    from medgpt_ray.config.loader import ConfigError
    from medgpt_ray.data.rows import DataError
    from medgpt_ray.preflight import PreflightError
    from medgpt_ray.retrieval.errors import RetrievalError

    try:
        yield
    except (ConfigError, DataError, PreflightError, RetrievalError) as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(status) from None


if __name__ == "__main__":
    app()
