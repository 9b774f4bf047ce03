"""What every page of the board has at hand, and how it is drawn."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse

from medgpt_ray.board.access import Secrets
from medgpt_ray.board.chat_models import ChatSource
from medgpt_ray.board.jobs import Jobs
from medgpt_ray.board.runs import Runs
from medgpt_ray.tracking import report
from medgpt_ray.tracking.format import duration
from medgpt_ray.tracking.rundir import RunDirectory

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Site:
    runs: Runs
    chat: ChatSource | None
    """None where the command named no model."""
    jobs: Jobs | None
    """None where others can reach the board and training was not allowed."""
    secrets: Secrets
    templates: Environment

    def run(self, request: Request, key: str = "run") -> tuple[str, RunDirectory]:
        """The run that the query names, out of those that are there."""
        name = request.query_params.get(key, "")
        found = self.runs.find().get(name)
        if found is None:
            raise HTTPException(404, f"no run {name!r} in {self.runs.folder}")
        return name, found

    def page(self, template: str, code: int = 200, **values: Any) -> HTMLResponse:
        text = self.templates.get_template(template).render(
            site=self, form_token=self.secrets.form, **values
        )
        return HTMLResponse(text, code)


def site_of(request: Request) -> Site:
    found: Site = request.app.state.site
    return found


def templates() -> Environment:
    """Those of the report, whose style and curves the board shows, and its own."""
    environment = report.templates()
    environment.loader = FileSystemLoader([HERE / "templates", Path(report.__file__).parent])
    environment.filters["ago"] = _ago
    return environment


def _ago(then: float) -> str:
    seconds = time.time() - then
    if seconds > 86_400:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(then))
    return f"{duration(max(round(seconds), 0))} ago"
