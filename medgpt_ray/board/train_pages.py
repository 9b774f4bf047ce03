"""From a form to a run: all mistakes at once, the dry run, then the training to watch and stop."""

import json
import shutil
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from medgpt_ray.board import form, sse
from medgpt_ray.board.jobs import Busy, Job, Jobs
from medgpt_ray.board.site import Site, site_of
from medgpt_ray.config import keys
from medgpt_ray.config.loader import ConfigError
from medgpt_ray.config.presets import locate, presets


def _jobs(site: Site) -> Jobs:
    if site.jobs is None:
        raise HTTPException(403, "others can reach this board: --allow-training allows it")
    return site.jobs


def page(request: Request) -> Response:
    """What to begin from, and the processes of this board."""
    site = site_of(request)
    jobs = sorted(site.jobs.all.values(), key=lambda job: -job.number) if site.jobs else []
    runs = list(site.runs.find()) if site.jobs else []
    return site.page("train.html.j2", presets=presets(), stages=keys.stages(), runs=runs, jobs=jobs)


def form_page(request: Request) -> Response:
    """The form, filled from a preset, from a run, or with a stage only."""
    site = site_of(request)
    _jobs(site)
    texts = _beginning(site, request)
    return site.page("form.html.j2", **_shown(texts, []), title=_title(request))


def _beginning(site: Site, request: Request) -> dict[str, str]:
    query = request.query_params
    try:
        if "preset" in query:
            if query["preset"] not in {preset.name for preset in presets()}:
                raise HTTPException(404, f"no preset {query['preset']!r}")
            return form.opened(locate(query["preset"]))
        if "run" in query:
            _, run = site.run(request)
            return form.opened(run.config)
    except ConfigError as error:
        raise HTTPException(400, str(error)) from error
    if query.get("stage") not in keys.stages():
        raise HTTPException(404, f"stage: one of {', '.join(keys.stages())}")
    return {"stage": query["stage"]}


def _title(request: Request) -> str:
    kind, name = next(iter(request.query_params.items()))
    return f"{kind} {name}"


def _shown(texts: dict[str, str], problems: list[tuple[str, str]]) -> dict[str, Any]:
    tree, _ = form.tree_of(texts)
    fields = form.fields(tree)
    names = {field.name for field in fields}
    sections: dict[str, list[form.Field]] = {}
    for field in fields:
        sections.setdefault(field.section, []).append(field)
    told: dict[str, list[str]] = {}
    for name, problem in problems:
        told.setdefault(name, []).append(problem)
    return {
        "sections": sections,
        "texts": texts,
        "problems": told,
        "elsewhere": {name: what for name, what in told.items() if name not in names},
    }


async def _texts(request: Request) -> dict[str, str]:
    try:
        texts = json.loads(await request.body())
        json.dumps(texts, ensure_ascii=False).encode()  # no half of a surrogate pair
    except ValueError as error:
        raise HTTPException(400, f"no JSON: {error}") from None
    sound = isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
    if not sound or not all(all(name.split(".")) for name in texts):
        raise HTTPException(400, "expected an object of texts by key")
    return dict(texts)


async def fields(request: Request) -> Response:
    """The form again after a choice that other fields depend on."""
    site = site_of(request)
    _jobs(site)
    return site.page("fields.html.j2", **_shown(await _texts(request), []))


async def check(request: Request) -> Response:
    """Starts a dry run of a form without mistakes; else the form again, with all of them."""
    site = site_of(request)
    jobs = _jobs(site)
    texts = await _texts(request)
    config = jobs.new_folder() / "config.yaml"
    problems = await run_in_threadpool(form.check, texts, config)
    if problems:
        shutil.rmtree(config.parent)
        return site.page("fields.html.j2", 422, **_shown(texts, problems))
    return _started(jobs, "dry run", config)


def _started(jobs: Jobs, kind: str, config: Path) -> Response:
    try:
        job = jobs.start(kind, config)
    except Busy as busy:
        return JSONResponse({"told": str(busy)}, 409)
    return JSONResponse({"location": f"/job/{job.number}"})


def _job(request: Request) -> tuple[Site, Jobs, Job]:
    site = site_of(request)
    jobs = _jobs(site)
    job = jobs.all.get(request.path_params["number"])
    if job is None:
        raise HTTPException(404, "this board started no such process")
    return site, jobs, job


def job_page(request: Request) -> Response:
    site, _, job = _job(request)
    config = job.config.read_text(encoding="utf-8")
    output = form.opened(job.config).get("output_dir", "")
    known = {run.path.resolve(): name for name, run in site.runs.find().items()}
    return site.page(
        "job.html.j2", job=job, config=config, run=known.get(Path(output).resolve()), output=output
    )


async def job_events(request: Request) -> Response:
    _, _, job = _job(request)
    return sse.stream(job.follow())


async def train(request: Request) -> Response:
    """The training of a dry run that found nothing wrong."""
    _, jobs, job = _job(request)
    if job.kind != "dry run" or job.status != 0:
        return JSONResponse({"told": "only after a dry run that found nothing wrong"}, 409)
    return _started(jobs, "training", job.config)


async def stop(request: Request) -> Response:
    _, _, job = _job(request)
    if job.status is not None:
        return JSONResponse({"told": f"it has ended already ({job.state})"}, 409)
    job.stop()
    return JSONResponse({"told": "asked to stop; a training saves what it has first"})
