"""A run of any stage, told apart by `stage`."""

from typing import Annotated

from pydantic import Field

from medgpt_ray.config.schema import GrpoRun, PpoRun
from medgpt_ray.config.supervised import DpoRun, KtoRun, OrpoRun, PtRun, RmRun, SftRun

RunConfig = Annotated[
    PtRun | SftRun | RmRun | DpoRun | OrpoRun | KtoRun | GrpoRun | PpoRun,
    Field(discriminator="stage"),
]
