"""The program `medgpt` and what its commands share."""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
import typer.core

app = typer.Typer(
    help="Train medical language models on Ray, supervised and by reinforcement learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _every_command() -> None:
    # Asked to end, a command puts away what it has begun, as at Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if shutil.which("nvidia-smi") is None:  # DeepSpeed would warn that it found none
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


MaxTokens = Annotated[int, typer.Option(min=2, help="Of one sequence, as data.max_tokens.")]


def known(value: str, known: Iterable[str], option: str) -> None:
    if value not in known:
        print(f"{option}: {value!r} is none of {', '.join(known)}", file=sys.stderr)
        raise typer.Exit(2)


@contextmanager
def stops(stops: tuple[type[BaseException], ...], logs: str) -> Iterator[None]:
    """Tell in one message how a run ended that did not finish, and exit with 1, or 130."""
    from medgpt_ray.interrupt import Interrupted

    try:
        yield
    except stops as stop:
        print(f"{type(stop).__name__}: {stop}\n{logs}", file=sys.stderr)
        raise typer.Exit(130 if isinstance(stop, Interrupted) else 1) from None


@contextmanager
def refusals(status: int = 2) -> Iterator[None]:
    """Print the problems of what cannot run and exit with `status`. A path that may not be looked
    at, or is too long to be one, is such a problem wherever it turns up."""
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
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.ENAMETOOLONG):
            raise
        print(f"{error.filename}: cannot be opened: {error.strerror}", file=sys.stderr)
        raise typer.Exit(status) from None
