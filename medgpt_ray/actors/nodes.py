"""The nodes of a running cluster: how to reach it, who would sit where, and which files all of them
see.
"""

import logging
import os
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
from medgpt_ray.actors.wait import RunFailed, wait
from medgpt_ray.config.schema import Cluster

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


def cluster_address(cluster: Cluster) -> str | None:
    """The cluster to connect to: the configured one, or else that of the Ray job we run in."""
    return cluster.address or os.environ.get("RAY_ADDRESS")


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
    roles = [role for role in plan.roles if role.name != "data"]
    group = placement_group(Plan(tuple(roles)).bundles(), strategy="PACK")
    try:
        ready, _ = ray.wait([group.ready()], timeout=PLACING_S)
        if not ready:
            return None
        bundles = placement_group_table(group)["bundles_to_node_id"]
    finally:
        remove_placement_group(group)
    nodes, found, bundle = alive(), {}, 0
    for role in roles:
        found[role.name] = [nodes[bundles[bundle + number]] for number in range(role.workers)]
        bundle += role.workers
    return found


def unshared(paths: Mapping[str, Path], folder: Path) -> Iterator[str]:
    """What other nodes do not see of this one's files, as problems by the key that names them.

    `folder` is where the run will write: a file is put there for a moment for the others to find.
    """
    own = ray.get_runtime_context().get_node_id()
    others = [node for node in alive().values() if node.id != own]
    if not others:
        return
    mark = folder.resolve() / f".medgpt-{uuid.uuid4().hex}"
    mark.touch()
    try:
        wanted = {"output_dir": mark, **paths}
        missing = _missing_on(others, list(wanted.values()))
    except RunFailed as failure:
        yield str(failure)
        return
    finally:
        mark.unlink()
    for key, path in wanted.items():
        blind = ", ".join(str(node) for node in others if path in missing[node.id])
        if blind:
            what = f"what is written to {folder}" if key == "output_dir" else str(path)
            yield (
                f"{key}: node {blind} does not see {what}: a run on several nodes needs a file "
                "system that all of them share, mounted under one path"
            )


def _missing_on(nodes: Sequence[Node], paths: Sequence[Path]) -> dict[str, list[Path]]:
    looking = {
        node.id: _missing.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(paths)
        for node in nodes
    }
    named = {f"node {node}": looking[node.id] for node in nodes}
    answers = wait(named, LOOKING_S, "looking for the files of the run on every node")
    return {node.id: answers[f"node {node}"] for node in nodes}


@ray.remote(num_cpus=0, max_retries=0)
def _missing(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if not path.exists()]
