"""The nodes of a running cluster: how to reach it, who would sit where, and which files all of them
see.
"""

import logging
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medgpt_ray.actors.plan import Plan
from medgpt_ray.actors.signals import own_sigterm
from medgpt_ray.actors.wait import RunFailed, wait
from medgpt_ray.interrupt import unwinding

CONNECT_TIMEOUT_S = 10.0
PLACING_S = 10.0
LOOKING_S = 120.0
"""For a process to start on every node; a job's working directory is unpacked there first."""


class ClusterError(RuntimeError):
    """A cluster that cannot be used, and what to do about it."""


@dataclass(frozen=True)
class Node:
    """Example: `Node("4f0c...", "gpu-3", "10.0.0.7")`"""

    id: str
    host: str
    address: str

    def __str__(self) -> str:
        return f"{self.host} ({self.address}, {self.id[:6]})"


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Inside the block this process is connected to the cluster. Raises `ClusterError`."""
    if ray.is_initialized():
        yield
        return
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{address} is where jobs are submitted: run `medgpt submit` in place of `medgpt "
            "train`, or unset RAY_ADDRESS"
        )
    try:
        host, colon, port = address.rpartition("://")[2].rpartition(":")
        if colon:  # ray itself waits much longer for a host that does not answer
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        with own_sigterm():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise ClusterError(f"{address} cannot be reached: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def alive() -> dict[str, Node]:
    """The nodes that take work, by id."""
    return {
        node["NodeID"]: Node(
            node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"]
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def places(plan: Plan) -> dict[str, list[Node]] | None:
    """Role -> the node of each of its workers, where Ray would put them now; None while others
    hold what they need.

    The bundles are really reserved and given back at once. Ray Data reads wherever there is room.
    """
    placed = Plan(tuple(role for role in plan.roles if role.name != "data"))
    group = placement_group(placed.bundles(), strategy="PACK")
    try:
        ready, _ = ray.wait([group.ready()], timeout=PLACING_S)
        if not ready:
            return None
        bundles = placement_group_table(group)["bundles_to_node_id"]
    finally:
        remove_placement_group(group)
    nodes = alive()
    return {
        role.name: [nodes[bundles[placed.bundle(role, n)]] for n in range(role.workers)]
        for role in placed.roles
    }


def unshared(paths: Mapping[str, Path], folder: Path) -> Iterator[str]:
    """What a node does not see of this one's files, as problems by the key that names them.

    `folder` is where the run will write: a file is put there for a moment for the others to find.
    """
    mark = folder.resolve() / f".medgpt-{uuid.uuid4().hex}"
    wanted = {"output_dir": mark, **paths}
    try:
        with unwinding(), _touched(mark):
            missing = _missing(list(alive().values()), list(wanted.values()))
    except RunFailed as failure:
        yield str(failure)
        return
    for key, path in wanted.items():
        blind = ", ".join(str(node) for node, absent in missing.items() if path in absent)
        if blind:
            what = f"what is written to {folder}" if path == mark else str(path)
            fix = "mount one file system on all nodes, under the same path"
            if not path.is_absolute():
                fix = f"its processes start in another directory: name an absolute path, or {fix}"
            yield f"{key}: node {blind} does not see {what}: {fix}"


@contextmanager
def _touched(file: Path) -> Iterator[None]:
    file.touch()
    try:
        yield
    finally:
        file.unlink()


def _missing(nodes: Sequence[Node], paths: Sequence[Path]) -> dict[Node, list[Path]]:
    looking = {
        f"node {node}": _absent.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(paths)
        for node in nodes
    }
    answers = wait(looking, LOOKING_S, "looking for the files of the run on every node")
    return {node: answers[f"node {node}"] for node in nodes}


@ray.remote(num_cpus=0, max_retries=0)
def _absent(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if not path.exists()]
