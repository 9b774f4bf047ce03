"""`medgpt data`: training data checked, converted, shown and counted."""

import sys
from typing import Annotated, Any

import typer
import typer.core

from medgpt_ray.cli.app import MaxTokens, app, known, refusals

data_app = typer.Typer(help="Check, convert, show and count training data.", no_args_is_help=True)


app.add_typer(data_app, name="data")


Paths = Annotated[
    list[str], typer.Argument(metavar="PATH", help="Files, directories, globs or hf:NAME.")
]


FormatOption = Annotated[str, typer.Option("--format", help="Format of the rows.")]


ColumnsOption = Annotated[
    str, typer.Option(help="Other names of columns, such as question=Question,answer=Response.")
]


StageOption = Annotated[
    str | None, typer.Option(help="Rows as this stage takes them: pt, sft, rm, dpo, orpo or kto.")
]


ModelOption = Annotated[str, typer.Option(help="Model directory, for its tokenizer and template.")]


TemplateOption = Annotated[
    str | None, typer.Option(help="Chat template by name, in place of the model's own.")
]


Inputs = Annotated[bool, typer.Option("--train-on-inputs", help="As data.train_on_inputs.")]


SystemPrompt = Annotated[str | None, typer.Option(help="As data.system_prompt.")]


@data_app.command()
def validate(
    paths: Paths,
    stage: StageOption = None,
    format: FormatOption = "auto",
    columns: ColumnsOption = "",
    model: Annotated[str | None, typer.Option(help="Model directory: count tokens too.")] = None,
    template: TemplateOption = None,
    max_tokens: MaxTokens = 1024,
) -> None:
    """Name every bad row as file:line, then sum up each file.

    Exit status 1 where a row is bad, 2 where something cannot be read.
    """
    section = _data_section(paths, stage, format, columns, template=template, max_tokens=max_tokens)
    from medgpt_ray import data_commands

    with refusals():
        status = data_commands.validate(section, stage, model)
    raise typer.Exit(status)


@data_app.command()
def convert(
    paths: Paths,
    to: Annotated[str, typer.Option(help="Format to write.")],
    output: Annotated[str, typer.Option(help="A .jsonl, .json or .parquet file.")],
    format: FormatOption = "auto",
    columns: ColumnsOption = "",
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT.")] = False,
) -> None:
    """Write rows in another format.

    Where a row cannot be expressed, all such are named, nothing is written, and the exit status
    is 1.
    """
    section = _data_section(paths, None, format, columns)
    from medgpt_ray import data_commands
    from medgpt_ray.data.formats import FORMATS

    known(to, FORMATS, "--to")
    with refusals(status=1):
        data_commands.convert(section, to, output, force)


@data_app.command()
def preview(
    paths: Paths,
    model: ModelOption,
    stage: StageOption = None,
    format: FormatOption = "auto",
    columns: ColumnsOption = "",
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
        columns,
        template=template,
        max_tokens=max_tokens,
        train_on_inputs=train_on_inputs,
        system_prompt=system_prompt,
    )
    from medgpt_ray import data_commands

    with refusals():
        data_commands.preview(section, stage, model, rows)


@data_app.command()
def stats(
    paths: Paths,
    model: ModelOption,
    stage: StageOption = None,
    format: FormatOption = "auto",
    columns: ColumnsOption = "",
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
        columns,
        template=template,
        max_tokens=max_tokens,
        train_on_inputs=train_on_inputs,
        system_prompt=system_prompt,
    )
    from medgpt_ray import data_commands

    with refusals():
        data_commands.stats(section, stage, model)


def _data_section(
    paths: list[str], stage: str | None, format: str, columns: str, **options: Any
) -> Any:
    """What a configuration file would say of the same data."""
    from medgpt_ray.config.supervised import COLUMNS, Source, SupervisedData
    from medgpt_ray.data.formats import FORMATS, KINDS

    known(format, ["auto", *FORMATS], "--format")
    if stage is not None:
        known(stage, KINDS, "--stage")
    pairs = [pair.partition("=") for pair in columns.split(",")] if columns else []
    for name, _, column in pairs:
        known(name, COLUMNS, "--columns")
        if not column:
            print(f"--columns: {name} has no name in the file: {name}=NAME", file=sys.stderr)
            raise typer.Exit(2)
    names: dict[str, str | list[str]] = {}
    for name, _, column in pairs:
        if name == "unused":
            names[name] = [*names.get(name, []), column]
        elif name in names:
            print(f"--columns: {name} is given twice: keep one", file=sys.stderr)
            raise typer.Exit(2)
        else:
            names[name] = column
    train = [Source(path=path, format=format, columns=names) for path in paths]
    return SupervisedData(train=train, **options)
