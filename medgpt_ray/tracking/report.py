"""`report.html`: one file that tells a run, without scripts and without anything from the network.

Everything in it is read from the run directory, so it can be written at any time and again.
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from medgpt_ray.config.schema import RlRun
from medgpt_ray.tracking import report_rl, report_supervised
from medgpt_ray.tracking.format import duration, number, percent
from medgpt_ray.tracking.metrics import read_metrics
from medgpt_ray.tracking.rundir import RunDirectory, write_atomically

_ALARMS_SHOWN = 50
_FILES_SHOWN = 5
_LIBRARIES = ("torch", "vllm", "ray", "deepspeed", "transformers", "peft")


def write_report(rundir: RunDirectory) -> Path:
    """Write the report of a run, finished or not, and return its path."""
    config = rundir.read_config()
    records = read_metrics(rundir.metrics)
    if isinstance(config, RlRun):
        page = report_rl.page(rundir, config, records)
    else:
        page = report_supervised.page(rundir, config, records)
    lineage = json.loads(rundir.lineage.read_text(encoding="utf-8"))
    alarms = sorted(page.alarms, key=lambda alarm: alarm.step)
    html = (
        _templates()
        .get_template(page.template)
        .render(
            name=rundir.path.resolve().name,
            kind=page.kind,
            facts=page.facts,
            config=config,
            config_text=rundir.config.read_text(encoding="utf-8"),
            environment=json.loads(rundir.environment.read_text(encoding="utf-8")),
            lineage=lineage,
            files=_files(lineage["data"]),
            libraries=_LIBRARIES,
            charts=page.charts,
            alarms=alarms[:_ALARMS_SHOWN],
            alarm_count=len(alarms),
            quiet=page.quiet,
            **page.values,
        )
    )
    write_atomically(rundir.report, html)
    return rundir.report


def _templates() -> Environment:
    """Escapes every value but the SVG of the curves, which we draw ourselves."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "duration": duration,
        "drawing": Markup,
    }
    return environment


def _files(data: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Use -> its files with their hashes, the first few of many."""
    found: dict[str, list[str]] = {}
    for file in data:
        text = f"{file['path']} (sha256 {file['sha256'][:12]}…)"
        found.setdefault(file["use"], []).append(text)
    return {
        use: [*texts[:_FILES_SHOWN], f"{len(texts) - _FILES_SHOWN} more, see lineage.json"]
        if len(texts) > _FILES_SHOWN
        else texts
        for use, texts in found.items()
    }
