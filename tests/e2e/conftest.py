"""One Ray for the runs of a module."""

import os
from collections.abc import Iterator

import pytest
from runs import REWARDS

from medgpt_ray.actors.cluster import ray_cluster
from medgpt_ray.config.schema import Cluster


@pytest.fixture(scope="session", autouse=True)
def forked(warm: None) -> None:
    """Of all runs here."""


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Ray in this process, of eight CPUs however many there are, for `runs.train_here`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REWARDS.parent), prepend=os.pathsep)
        with ray_cluster(Cluster(cpus=8)):
            yield
