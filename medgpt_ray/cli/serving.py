"""`medgpt serve`: a model behind the OpenAI API."""

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from medgpt_ray.cli.app import app, refusals


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


Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="NAME=DIRECTORY", help="LoRA adapter, served as NAME."),
]


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
    with refusals():
        command.serve(values, replicas, setting or [], adapter or [], host, port, address)


@serve_app.command("update")
def serve_update(
    model: Annotated[
        str | None, typer.Argument(metavar="[RUN|MODEL]", help="In place of what is served.")
    ] = None,
    adapter: Adapters = None,
    drop: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Serve this adapter no longer.")
    ] = None,
    index: Annotated[Path | None, typer.Option(help="In place of what is served.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Change model, adapters or index of a running `medgpt serve`, without a failed answer."""
    from medgpt_ray.serving import command

    with refusals():
        command.update(port, model, adapter or [], drop or [], index)
