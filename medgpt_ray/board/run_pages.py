"""Pages of runs: the list, one run as it goes, its samples, and held-out answers side by side."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from medgpt_ray.board import sse
from medgpt_ray.board.runs import RunUnreadable
from medgpt_ray.board.site import Site, site_of
from medgpt_ray.tracking import report_rl
from medgpt_ray.tracking.rundir import RunDirectory, by_step
from medgpt_ray.tracking.samples import SamplesError, read_samples
from medgpt_ray.types import Sample

POLL_SECONDS = 1.0
REFRESH_SECONDS = 3.0
"""A page draws its curves anew no more often."""
SAMPLES_SHOWN = 32
QUESTIONS_SHOWN = 50
ALARMS_SHOWN = 50
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"


def index(request: Request) -> Response:
    site = site_of(request)
    found, broken = [], {}
    for name, run in site.runs.find().items():
        try:
            found.append(site.runs.summary(name, run))
        except RunUnreadable as error:  # of another version, or edited by hand
            broken[name] = str(error)
    found.sort(key=lambda summary: summary.written, reverse=True)
    return site.page("runs.html.j2", runs=found, broken=broken)


def run(request: Request) -> Response:
    site = site_of(request)
    name, found = site.run(request)
    return site.page("run.html.j2", **_live(site, name, found), run=found)


def live(request: Request) -> Response:
    """What changes on the page of a run, for its script."""
    site = site_of(request)
    return site.page("live.html.j2", **_live(site, *site.run(request)))


def _live(site: Site, name: str, found: RunDirectory) -> dict[str, Any]:
    page = site.runs.page(found)
    summary = site.runs.summary(name, found)
    alarms = sorted(page.alarms, key=lambda alarm: alarm.step, reverse=True)
    return {
        "name": name,
        "page": page,
        "summary": summary,
        "alarms": alarms[:ALARMS_SHOWN],
        "alarm_count": len(alarms),
        "samples": list(by_step(found.samples)),
        "heldout": list(by_step(found.heldout)),
        "has_report": found.report.is_file(),
    }


async def run_events(request: Request) -> Response:
    """Says when there is something new."""
    _, found = site_of(request).run(request)
    return sse.stream(_changes(found))


async def _changes(found: RunDirectory) -> AsyncIterator[dict[str, Any]]:
    before = _sizes(found)
    yield {"metrics": before[0]}
    while True:
        await asyncio.sleep(POLL_SECONDS)
        now = _sizes(found)
        if now != before:
            yield {"metrics": now[0]}
            before = now
            await asyncio.sleep(REFRESH_SECONDS)


def _sizes(found: RunDirectory) -> tuple[int, bool, bool]:
    size = found.metrics.stat().st_size if found.metrics.exists() else 0
    return size, found.report.exists(), found.failure.exists()


def report(request: Request) -> Response:
    _, found = site_of(request).run(request)
    if not found.report.is_file():
        raise HTTPException(404, "this run has no report yet: it is written when training ends")
    return FileResponse(found.report, headers={"Content-Security-Policy": REPORT_POLICY})


def samples(request: Request) -> Response:
    site = site_of(request)
    name, found = site.run(request)
    kind = request.query_params.get("set", "samples")
    if kind not in ("samples", "heldout"):
        raise HTTPException(400, "set: samples or heldout")
    files = by_step(found.samples if kind == "samples" else found.heldout)
    step = _number(request, "step", max(files, default=0))
    page = _number(request, "page", 1)
    rows = read_samples(_step_file(files, step)) if files else []
    first = (max(page, 1) - 1) * SAMPLES_SHOWN
    groups: dict[str, list[Sample]] = {}
    for sample in rows[first : first + SAMPLES_SHOWN]:
        groups.setdefault(sample.prompt.id, []).append(sample)
    return site.page(
        "samples.html.j2",
        name=name,
        kind=kind,
        steps=list(files),
        step=step,
        page=page,
        pages=-(-len(rows) // SAMPLES_SHOWN),
        count=len(rows),
        groups=groups,
        question=report_rl.last_user_message,
    )


def compare(request: Request) -> Response:
    """Two held-out evaluations, of one run or of two, question by question."""
    site = site_of(request)
    runs = site.runs.find()
    steps = {name: list(by_step(run.heldout)) for name, run in runs.items()}
    steps = {name: found for name, found in steps.items() if found}
    if not steps:
        return site.page("compare.html.j2", steps=steps, chosen=None)
    left = request.query_params.get("run") or next(iter(steps))
    right = request.query_params.get("other") or left
    for name in (left, right):
        if name not in steps:
            raise HTTPException(404, f"run {name!r} has no held-out answers")
    before = _number(request, "step", steps[left][0])
    after = _number(request, "other_step", steps[right][-1])
    evaluations, problem = [], ""
    try:
        evaluations = [
            report_rl.read_evaluation(step, _step_file(by_step(runs[name].heldout), step))
            for name, step in ((left, before), (right, after))
        ]
    except SamplesError as error:  # the page still offers the others
        problem = str(error)
    rows = report_rl.shown_answers(evaluations, QUESTIONS_SHOWN)
    return site.page(
        "compare.html.j2",
        500 if problem else 200,
        problem=problem,
        steps=steps,
        chosen=((left, before), (right, after)),
        measures=report_rl.compare(evaluations),
        answers=rows,
        counts=[len(evaluation.answers) for evaluation in evaluations],
    )


def _number(request: Request, key: str, default: int) -> int:
    text = request.query_params.get(key, "")
    if not text:
        return default
    if not text.isdecimal() or len(text) > 12:
        raise HTTPException(400, f"{key}: a number, not {text!r}")
    return int(text)


def _step_file(files: dict[int, Path], step: int) -> Path:
    if step not in files:
        raise HTTPException(404, f"nothing of step {step}: there are {', '.join(map(str, files))}")
    return files[step]
