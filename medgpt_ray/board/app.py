"""The board as an ASGI application."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from medgpt_ray.board import chat_pages, run_pages, train_pages
from medgpt_ray.board.access import Access, Secrets
from medgpt_ray.board.chat_models import ChatSource
from medgpt_ray.board.jobs import Jobs
from medgpt_ray.board.runs import Runs, RunUnreadable
from medgpt_ray.board.site import HERE, Site, site_of, templates
from medgpt_ray.tracking.samples import SamplesError

POST = ["POST"]


def application(
    folder: Path, chat: ChatSource | None, known: Secrets, loopback: bool, training: bool
) -> Starlette:
    """`loopback`: only this machine reaches it; `training`: its form may start processes."""
    app = Starlette(
        routes=[
            Route("/", run_pages.index),
            Route("/run", run_pages.run),
            Route("/run/live", run_pages.live),
            Route("/run/events", run_pages.run_events),
            Route("/report", run_pages.report),
            Route("/samples", run_pages.samples),
            Route("/compare", run_pages.compare),
            Route("/chat", chat_pages.page),
            Route("/chat/answer", chat_pages.answer, methods=POST),
            Route("/train", train_pages.page),
            Route("/train/form", train_pages.form_page),
            Route("/train/fields", train_pages.fields, methods=POST),
            Route("/train/check", train_pages.check, methods=POST),
            Route("/job/{number:int}", train_pages.job_page),
            Route("/job/{number:int}/events", train_pages.job_events),
            Route("/job/{number:int}/train", train_pages.train, methods=POST),
            Route("/job/{number:int}/stop", train_pages.stop, methods=POST),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        middleware=[Middleware(Access, known=known, loopback=loopback)],
        exception_handlers={
            HTTPException: _error,
            RunUnreadable: _unreadable,
            SamplesError: _unreadable,
        },
    )
    jobs = Jobs(folder) if training else None
    app.state.site = Site(Runs(folder), chat, jobs, known, templates())
    return app


def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if request.method == "POST":  # asked by a script, which shows the text
        return PlainTextResponse(error.detail, error.status_code)
    page = site_of(request).page
    return page("error.html.j2", error.status_code, status=error.status_code, detail=error.detail)


def _unreadable(request: Request, error: Exception) -> Response:
    return _error(request, HTTPException(500, str(error)))
