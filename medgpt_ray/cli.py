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


serve_app = typer.Typer(
    cls=ServeGroup, help="Serve a model behind the OpenAI API: medgpt serve RUN|MODEL.",
    no_args_is_help=True,
)  # fmt: skip
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
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run directory, a model directory, embedded:NAME.")
]
DTYPES = ("float32", "bfloat16", "float16")
DtypeOption = Annotated[str | None, typer.Option(help=f"One of {', '.join(DTYPES)}.")]
SystemOption = Annotated[str | None, typer.Option(help="System prompt.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")]
TopP = Annotated[float, typer.Option(min=0.01, max=1, help="Share of likelihood drawn from.")]
AnswerTokens = Annotated[int, typer.Option(min=1, help="Of one answer.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the sampling.")]
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
    if loaded.config.stage == "pipeline":
        _pipeline(loaded, dry_run, resume)
        return
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
        if loaded.config.stage in RL_STAGES:
            from medgpt_ray import rl as verb
        else:
            from medgpt_ray import supervised as verb
        with _stops(verb.STOPS, f"logs of every role: {loaded.config.output_dir}/logs"):
            verb.train(loaded.config, loaded.source, resume)


def _pipeline(loaded: Any, dry_run: bool, resume: bool) -> None:
    from medgpt_ray import pipeline

    with _refusals():
        if dry_run:
            from rich.console import Console

            pipeline.describe(loaded, Console())
            pipeline.check(loaded, resume)
            return
        with _stops(pipeline.STOPS, f"each stage has logs/ in {loaded.config.output_dir}"):
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

    with _refusals():
        if config:
            flags = [*["--dry-run"] * dry_run, *["--resume"] * resume]
            raise typer.Exit(verb.run(config, overrides or [], flags, address, detach))
        client = verb.connect(address)
        if status:
            verb.status(client, status)
        else:
            raise typer.Exit(verb.follow(client, follow) if follow else verb.stop(client, stop))


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
    from medgpt_ray.serving.settings import pairs, settings_from

    with _refusals():
        settings = settings_from(
            {"model": model, "api_keys": api_keys, "guard": guard, "index": index,
             "request_log": request_log},
            replicas,
            setting or [],
        )  # fmt: skip
        command.serve(settings, pairs(adapter), host, port, address)


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
    from medgpt_ray.serving.settings import pairs

    with _refusals():
        command.update(port, model, pairs(adapter))


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="Directory of a run with dump.every_steps.")],
    step: Annotated[int | None, typer.Option(help="A dumped step; the last one.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Relative difference allowed.")] = 1e-5,
) -> None:
    """Make the update of a dumped step again; exit status 1 where it differs."""
    from medgpt_ray import replay as verb

    with _refusals(), _stops(verb.STOPS, "the learners' logs are gone with them"):
        same = verb.replay(run, step, tolerance)
    raise typer.Exit(0 if same else 1)


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


@app.command()
def chat(
    model: ModelArgument,
    system: SystemOption = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    max_tokens: AnswerTokens = 512,
    seed: Seed = 0,
    dtype: DtypeOption = None,
) -> None:
    """Talk to MODEL in the terminal, or pipe a line a turn through it."""
    _known(dtype or "float32", DTYPES, "--dtype")
    _quietly()
    with _refusals():
        from medgpt_ray import chat as verb
        from medgpt_ray.models.chat_model import Sampling

        verb.chat(model, system, Sampling(temperature, top_p, max_tokens), dtype, seed)


@app.command()
def generate(
    model: ModelArgument,
    input: Annotated[
        str, typer.Option(help="Rows with question, prompt or messages; of .txt, each line.")
    ],
    output: Annotated[str, typer.Option(help="A .jsonl file to make.")],
    system: SystemOption = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    max_tokens: AnswerTokens = 512,
    seed: Seed = 0,
    dtype: DtypeOption = None,
    workers: Annotated[int, typer.Option(min=1, help="vLLM engines.")] = 1,
    rows_per_shard: Annotated[
        int, typer.Option(min=1, help="Rows that are generated and kept together.")
    ] = 256,
    kv_cache_gib: Annotated[float, typer.Option(min=0.01, help="Of an engine, on CPUs.")] = 1.0,
    shard_minutes: Annotated[float, typer.Option(help="A shard may take no longer.")] = 60.0,
) -> None:
    """Answer every row of a file: in order, each once, continued after a kill."""
    _known(dtype or "float32", DTYPES, "--dtype")
    _quietly()
    with _refusals():
        from medgpt_ray import generate as verb

        settings = verb.Settings(
            system, temperature, top_p, max_tokens, seed, dtype, rows_per_shard
        )
        fleet = verb.Fleet(workers, kv_cache_gib, shard_minutes * 60)
        status = verb.run(model, input, output, settings, fleet)
    raise typer.Exit(status)


@app.command()
def export(
    model: ModelArgument,
    output: Annotated[str, typer.Option(help="Directory to make; it must not be there yet.")],
    dtype: DtypeOption = None,
    bits: Annotated[
        int | None, typer.Option(help="Quantise to 4 or 8 bits (bitsandbytes); none does not.")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="TEXT_FILE", help="Print size, speed, perplexity before and after."),
    ] = None,
) -> None:
    """Write MODEL as one directory to hand on: adapter merged, safetensors, a model card.

    MODEL may also be a PEFT adapter, whose base is found by its adapter_config.json.
    """
    _known(dtype or "float32", DTYPES, "--dtype")
    _known(str(bits or 4), ("4", "8"), "--bits")
    _quietly()
    with _refusals():
        from medgpt_ray import export as verb

        verb.export(model, output, dtype, bits, compare)


@app.command()
def board(
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="With runs in it.")] = "runs",
    model: Annotated[
        str | None, typer.Option(metavar="RUN|MODEL", help="Chat with it, in this process.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Chat with this server: http://HOST:8000/v1.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8500,
    host: Annotated[str, typer.Option(help="Others than loopback reach it too.")] = "127.0.0.1",
    allow_training: Annotated[
        bool, typer.Option("--allow-training", help="On other hosts: start runs from the form.")
    ] = False,
) -> None:
    """Look at runs, chat, and start a run, in the browser."""
    _quietly()
    with _refusals():
        from medgpt_ray.board import command

        command.board(folder, model, url, host, port, allow_training)


@app.command(name="eval")
def evaluate_model(
    target: Annotated[str, typer.Argument(help="Run, model directory, or URL of a served model.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME=FILE, shipped or a .yaml file; repeat for several."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Rows for perplexity and token accuracy.")
    ] = None,
    stage: Annotated[str, typer.Option(help="Of --data: sft, or pt for plain texts.")] = "sft",
    max_tokens: MaxTokens = 1024,
    base: Annotated[
        str | None,
        typer.Option(help="Run or model to compare with; none: no comparison. [a run's own base]"),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Of a URL: run or directory with the model's tokenizer.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of a URL that serves several: which.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many questions and rows.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder. [RUN/evaluation]")] = None,
    name: Annotated[str | None, typer.Option(help="Of the result's files. [the time]")] = None,
) -> None:
    """Measure a model on questions and texts, and what it was trained from beside it."""
    _known(stage, ["sft", "pt"], "--stage")
    from medgpt_ray import evaluate as verb

    with _refusals():
        options = verb.Options(
            target, task or [], data, stage, max_tokens, base, tokenizer, model, limit, output, name
        )
        try:
            page, file = verb.evaluate(options)
        except verb.STOPS as stop:
            print(f"{type(stop).__name__}: {stop}", file=sys.stderr)
            raise typer.Exit(130 if isinstance(stop, verb.Interrupted) else 1) from None
    typer.echo(f"{page}\nwritten to {file}")


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


def _quietly() -> None:
    """Libraries warn on the standard output, which is the user's here."""
    import logging

    logging.disable(logging.WARNING)


@contextmanager
def _stops(stops: tuple[type[BaseException], ...], logs: str) -> Iterator[None]:
    """Tell in one message how a run ended that did not finish, and exit with 1, or 130."""
    from medgpt_ray.interrupt import Interrupted

    try:
        yield
    except stops as stop:
        print(f"{type(stop).__name__}: {stop}\n{logs}", file=sys.stderr)
        raise typer.Exit(130 if isinstance(stop, Interrupted) else 1) from None


@contextmanager
def _refusals(status: int = 2) -> Iterator[None]:
    """Print the problems of what cannot run and exit with `status`."""
    from medgpt_ray.config.loader import ConfigError
    from medgpt_ray.data.rows import DataError
    from medgpt_ray.models.errors import ModelError
    from medgpt_ray.preflight import PreflightError
    from medgpt_ray.retrieval.errors import RetrievalError

    try:
        yield
    except (ConfigError, DataError, ModelError, PreflightError, RetrievalError) as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(status) from None


if __name__ == "__main__":
    app()
