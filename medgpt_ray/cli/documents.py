"""`medgpt index`: passages of the user's own documents."""

from typing import Annotated

import typer
import typer.core

from medgpt_ray.cli.app import app, refusals

index_app = typer.Typer(help="Find passages of your own documents.", no_args_is_help=True)


app.add_typer(index_app, name="index")


@index_app.command("build")
def index_build(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Of pdf, docx, md, txt, jsonl.")],
    output: Annotated[str, typer.Option(help="Directory of the index, new or to be updated.")],
    embedding: Annotated[
        str, typer.Option(help="Directory of a sentence-transformers model in safetensors.")
    ] = "embedded:all-minilm-l6-v2",
) -> None:
    """Make the documents of DIR searchable; later only what changed is read again."""
    with refusals():
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
    with refusals():
        from medgpt_ray import index

        index.ask(directory, questions, count, reranker)


@index_app.command("calibrate")
def index_calibrate(
    directory: Annotated[str, typer.Argument(metavar="INDEX")],
    questions: Annotated[str, typer.Argument(help="A .jsonl file, see docs/retrieval.md.")],
) -> None:
    """Measure INDEX on questions with known answers, and fit when it says that none is there."""
    with refusals():
        from medgpt_ray import index

        index.calibrate(directory, questions)
