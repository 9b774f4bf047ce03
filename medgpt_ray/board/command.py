"""`medgpt board`: the pages, until a signal to stop."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from medgpt_ray.board.access import LOOPBACK, Secrets
from medgpt_ray.board.app import application
from medgpt_ray.board.chat_models import ChatSource, InProcess, Server
from medgpt_ray.board.site import Site
from medgpt_ray.preflight import PreflightError

STOP_SECONDS = 2
"""For answers in work: pages that listen for news would never end by themselves."""


def board(
    folder: str, model: str | None, url: str | None, host: str, port: int, allow_training: bool
) -> None:
    """Raises `PreflightError` or `ModelError` for what cannot be shown."""
    problems = list(_problems(folder, model, url))
    try:
        # It listens before the address is told: who comes early waits.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        problems.append(f"--host {host} --port {port}: {error.strerror}, choose another")
    if problems:
        raise PreflightError(problems)
    chat: ChatSource | None = None
    if model:
        chat = InProcess(model)
    elif url:
        chat = Server(url)
    known, loopback = Secrets(port), host in LOOPBACK
    app = application(Path(folder), chat, known, loopback, loopback or allow_training)
    site: Site = app.state.site
    shown = f"[{host}]" if ":" in host else host
    there = "" if Path(folder).is_dir() else ", which does not exist yet"
    print(f"{len(site.runs.find())} runs in {folder}{there}")
    print(f"open http://{shown}:{port}/?token={known.token}", flush=True)
    server = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would hold the token
        timeout_graceful_shutdown=STOP_SECONDS,
        server_header=False,
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(server).run(sockets=[listener])
    for job in site.jobs.end() if site.jobs else ():
        print(f"training {job.number} goes on: process {job.process.pid}, log {job.log}")


def _problems(folder: str, model: str | None, url: str | None) -> Iterator[str]:
    if model and url:
        yield "--model and --url: give one, the chat has one source"
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        yield f"--url {url}: expected http://HOST:PORT/v1"
    if Path(folder).exists() and not Path(folder).is_dir():
        yield f"{folder}: is no folder"
