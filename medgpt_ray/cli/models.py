"""A model talked to, asked in bulk, measured and handed on."""

import sys
from typing import Annotated

import typer
import typer.core

from medgpt_ray.cli.app import MaxTokens, app, known, refusals

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run directory, a model directory, embedded:NAME.")
]


DTYPES = ("float32", "bfloat16")


DtypeOption = Annotated[
    str | None, typer.Option(help="float32 or bfloat16; by default float32 on CPUs.")
]


SystemOption = Annotated[str | None, typer.Option(help="System prompt.")]


Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")]


TopP = Annotated[float, typer.Option(min=0.01, max=1, help="Share of likelihood drawn from.")]


AnswerTokens = Annotated[int, typer.Option(min=1, help="Of one answer.")]


Seed = Annotated[int, typer.Option(min=0, help="Of the sampling.")]


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
    known(dtype or "float32", DTYPES, "--dtype")
    _quietly()
    with refusals():
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
    shard_minutes: Annotated[
        float, typer.Option(min=0.1, help="A shard may take no longer.")
    ] = 60.0,
) -> None:
    """Answer every row of a file: in order, each once, continued after a kill."""
    known(dtype or "float32", DTYPES, "--dtype")
    _quietly()
    with refusals():
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
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; by default the model's own.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Quantise to 4 or 8 bits (bitsandbytes); none does not.")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="TEXT_FILE", help="Print size, speed, perplexity before and after."),
    ] = None,
    gguf: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Also a GGUF file: f32, f16, bf16 or q8_0."),
    ] = None,
    llama_cpp: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Of llama.cpp, whose converter runs.")
    ] = None,
) -> None:
    """Write MODEL as one directory to hand on: adapter merged, safetensors, a model card.

    MODEL may also be a PEFT adapter, whose base is found by its adapter_config.json.
    """
    known(dtype or "float32", (*DTYPES, "float16"), "--dtype")
    known(str(bits or 4), ("4", "8"), "--bits")
    known(gguf or "f32", ("f32", "f16", "bf16", "q8_0"), "--gguf")
    _quietly()
    with refusals():
        from medgpt_ray import export as verb

        verb.export(model, output, dtype, bits, compare, verb.Gguf.asked(gguf, llama_cpp))


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
    with refusals():
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
    known(stage, ["sft", "pt"], "--stage")
    from medgpt_ray import evaluate as verb

    with refusals():
        options = verb.Options(
            target, task or [], data, stage, max_tokens, base, tokenizer, model, limit, output, name
        )
        try:
            page, file = verb.evaluate(options)
        except verb.STOPS as stop:
            print(f"{type(stop).__name__}: {stop}", file=sys.stderr)
            raise typer.Exit(130 if isinstance(stop, verb.Interrupted) else 1) from None
    typer.echo(f"{page}\nwritten to {file}")


def _quietly() -> None:
    """Libraries warn on the standard output, which is the user's here."""
    import logging

    logging.disable(logging.WARNING)
