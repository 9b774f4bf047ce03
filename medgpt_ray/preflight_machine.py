"""Whether the machine, or the cluster, has what a run needs; part of the preflight."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from medgpt_ray.actors.plan import (
    GIB,
    ModelFacts,
    Plan,
    PlanError,
    kv_bytes_per_token,
    plan,
    without_memory,
)
from medgpt_ray.config.paths import EVERYWHERE, named_paths
from medgpt_ray.config.run import RunConfig
from medgpt_ray.config.schema import RlRun


def resources(config: RunConfig) -> Iterator[str]:
    """CPUs, GPUs and, on a cluster, the folders that its nodes must share."""
    planned = without_memory(config)
    if address := config.cluster.in_use:
        yield from _cluster(address, config, planned)
        return
    cpus = config.cluster.cpus or os.cpu_count() or 1
    place = "cluster.cpus says" if config.cluster.cpus else "this machine has"
    yield from _too_many(planned, "cpus", cpus, place)
    yield from _too_many(planned, "gpus", len(local_gpus()), "this machine has")


def kv_cache(config: RlRun, facts: ModelFacts) -> Iterator[str]:
    """The engine's cache must hold the longest sequence."""
    longest = config.data.max_prompt_tokens + config.rollout.max_completion_tokens
    needed = longest * kv_bytes_per_token(config, facts)
    if needed > config.rollout.kv_cache_gib * GIB:
        yield (
            f"rollout.kv_cache_gib: {config.rollout.kv_cache_gib} GiB do not hold one sequence of "
            f"{longest} tokens, which takes {needed / GIB:.3f} GiB"
        )


def whole_plan(config: RunConfig, facts: ModelFacts) -> Plan:
    """With the size of the reward model, where there is one that can be opened."""
    from medgpt_ray.models.load import ModelError, resolve_model

    scorer = None
    if isinstance(config, RlRun) and config.reward_model:
        with suppress(ModelError, PlanError):  # told where the models are looked at
            scorer = ModelFacts.from_directory(resolve_model(config.reward_model.path))
    return plan(config, facts, scorer)


def memory(config: RunConfig, facts: ModelFacts) -> Iterator[str]:
    """Roles on the CPUs of this machine must fit into its memory: what does not is killed by the
    kernel, without a word. GPUs say so themselves, and other nodes are not looked at."""
    if config.cluster.in_use:
        return
    roles = [role for role in whole_plan(config, facts).roles if not role.gpus]
    needed = sum(role.workers * role.memory.sure for role in roles)
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > has:
        shares = ", ".join(
            f"{role.name} {role.workers} x {role.memory.sure / GIB:.1f}" for role in roles
        )
        caches = "rollout.kv_cache_gib, " if isinstance(config, RlRun) else ""
        yield (
            f"memory: weights, gradients, optimizer states and caches take {needed / GIB:.1f} GiB "
            f"({shares}), this machine has {has / GIB:.1f}: lower {caches}the workers of a role or "
            "the size of the model, or train an adapter (model.adaptation)"
        )


def _too_many(planned: Plan, resource: str, available: float, place: str) -> Iterator[str]:
    needed = getattr(planned, resource)
    if needed > available:
        shares = ", ".join(
            f"{role.name} {role.workers} x {getattr(role, resource):g}" for role in planned.roles
        )
        yield (
            f"{resource}: the run needs {needed:g} {resource.upper()[:-1]}s ({shares}), {place} "
            f"{available:g}: lower the workers of a role, or their {resource}"
        )


def _cluster(address: str, config: RunConfig, planned: Plan) -> Iterator[str]:
    import ray

    from medgpt_ray.actors import nodes

    try:
        with nodes.connected(address):
            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
            few = [
                *_too_many(planned, "cpus", resources.get("CPU", 0), "the cluster has"),
                *_too_many(planned, "gpus", resources.get("GPU", 0), "the cluster has"),
            ]
            yield from few
            yield from nodes.unshared(
                _shared_paths(config), nearest_folder(Path(config.output_dir))
            )
            if isinstance(config, RlRun) and config.sync.backend == "shm" and not few:
                yield from _one_host(planned)
    except nodes.ClusterError as error:
        yield f"cluster.address: {error}"


def _shared_paths(config: RunConfig) -> dict[str, Path]:
    """What workers on any node open, by key: of a glob or a folder the first file, of a model of
    the hub where it is kept. What is not even here is another problem.
    """
    from medgpt_ray.data.files import find
    from medgpt_ray.data.rows import DataError
    from medgpt_ray.models.load import ModelError, resolve_model

    found: dict[str, Path] = {}
    for key, path in (named_paths(config, EVERYWHERE) | {"model.path": config.model.path}).items():
        with suppress(ModelError, DataError):
            if key.startswith("data."):
                found[key] = Path(find(path)[0].path)
            elif key.endswith(".path"):
                found[key] = resolve_model(path).resolve()
            else:
                found[key] = Path(path)
    return {key: path for key, path in found.items() if path.exists()}


def _one_host(planned: Plan) -> Iterator[str]:
    from medgpt_ray.actors.nodes import places

    found = places(planned) or {}
    hosts = {node.host for role in ("policy", "rollout") for node in found.get(role, [])}
    if len(hosts) > 1:
        yield (
            f"sync.backend: shm works within one host, and the learner and the engines would be on "
            f"{', '.join(sorted(hosts))}: use gloo, or nccl on GPUs"
        )


def local_gpus() -> list[str]:
    """One line for each GPU that this process may use; none where there is no NVIDIA driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(
        ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=False
    )
    found = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    return found[: len([device for device in visible.split(",") if device.strip()])]


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that there is."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
