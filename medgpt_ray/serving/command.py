"""`medgpt serve` and `medgpt serve update`: deploy on Ray, and change what is deployed."""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medgpt_ray.interrupt import at_once
from medgpt_ray.lock import alone
from medgpt_ray.models.load import CACHE
from medgpt_ray.preflight import PreflightError
from medgpt_ray.serving.preflight import Adapter, check
from medgpt_ray.serving.settings import KEYS_VARIABLE, Settings, pairs, settings_from
from medgpt_ray.tracking.rundir import write_atomically

APPLICATION = "medgpt"
MODEL, INDEX = "RUN|MODEL", "--index"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FAILING = ("UNHEALTHY", "DEPLOY_FAILED")
START_SECONDS = 900.0
"""Until the replicas of a deployment must be ready."""
POLL_SECONDS = 0.5
RAY_SERVE = {
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # Not for the throughput: errors of the proxy itself.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "medgpt_ray.serving.proxy:middlewares",
}
"""Of a Ray Serve of our own: what it does beside generation, at its own settings, takes a tenth of
the throughput on two cores. Its controller would look around every 0.1 s, and a streamed chunk go
through Ray's object store and from thread to thread, in the replica and in the proxy."""
OWN_ERROR = re.compile(r"^medgpt_ray\.[\w.]+: ", re.MULTILINE)
"""What Ray Serve tells of a replica ends with the error that ended it, below its traceback."""
AUTH_MODE = "RAY_AUTH_MODE"
"""A Ray of our own asks for the user's token: a process that joins must say that it sends it."""


Served = tuple[str | Path | None, str | None]
"""Path and version."""


class DeployFailed(PreflightError):
    """Ray Serve could not start what was asked for."""


def serve(
    values: Mapping[str, Any],
    replicas: str,
    assignments: Sequence[str],
    adapters: Sequence[str],
    host: str,
    port: int,
    address: str | None,
) -> None:
    """Serve until a signal to stop. Without `address` (or RAY_ADDRESS) on a Ray of its own.

    `values`, `replicas` and `assignments` are for `settings_from`, `adapters` for `pairs`.
    """
    with at_once():
        settings, found = check(settings_from(values, replicas, assignments), pairs(adapters))
    if settings.api_keys is None and host not in LOOPBACK:
        raise PreflightError(
            [
                f"--host {host}: is open to others, and there are no API keys: set "
                f"{KEYS_VARIABLE} or --api-keys FILE"
            ]
        )
    _free(host, port)
    print("starting Ray Serve ...", flush=True)
    with _ray(settings, address), _started(settings, host, port):
        print(f"loading {settings.model} ...", flush=True)
        _deploy(settings, found)
        record = _record(port)
        _write(record, settings, found)
        try:
            print(
                f"serving {settings.name} ({settings.version}) at http://{host}:{port}/v1",
                flush=True,
            )
            _watch()
        except KeyboardInterrupt:
            print("stopping", flush=True)
        finally:
            record.unlink(missing_ok=True)


def update(
    port: int,
    model: str | None,
    adapters: Sequence[str],
    dropped: Sequence[str],
    index: Path | None,
) -> None:
    """Change what the server on `port` serves; returns when every answer comes from the new.
    `dropped` are names of adapters that it is to serve no longer."""
    record = _record(port)
    record.parent.mkdir(parents=True, exist_ok=True)
    # Another update meanwhile would go back to what this one replaces.
    taken = PreflightError([f"--port {port}: another update is at work, wait for it"])
    with alone(record.with_suffix(".lock"), taken):
        running = _running(record, port)
        before = Settings.model_validate(running["settings"])
        adapters_before = [Adapter(**adapter) for adapter in running["adapters"]]
        paths = {adapter.name: adapter.path for adapter in adapters_before} | pairs(adapters)
        for name in dropped:
            if name in pairs(adapters) or paths.pop(name, None) is None:
                there = ", ".join(adapter.name for adapter in adapters_before) or "none"
                raise PreflightError([f"--drop {name}: adapters to drop are those served: {there}"])
        # The name stays: callers go on asking for it.
        changes = {"model": model or before.model, "index": index or before.index}
        settings, found = check(before.model_copy(update=changes), paths, running=True)
        asked = {f"--adapter {name}" for name in pairs(adapters)}
        asked |= {what for what, value in ((MODEL, model), (INDEX, index)) if value}
        _only_what_is_asked(asked, _versions(before, adapters_before), _versions(settings, found))
        if running[AUTH_MODE]:
            os.environ[AUTH_MODE] = running[AUTH_MODE]
        with _ray(settings, running["address"]):
            if settings != before:
                _room_for_one_more(settings)
            try:
                _deploy(settings, found)
                _write(record, settings, found)
            except BaseException:  # what serves is what the record says
                print(f"going back to {before.model}", file=sys.stderr, flush=True)
                _deploy(before, adapters_before)
                raise
    print(f"serving {settings.name} ({settings.version})", flush=True)


def _only_what_is_asked(
    asked: Collection[str], before: Mapping[str, Served], now: Mapping[str, Served]
) -> None:
    """Refuse to deploy what has changed on the disk and was not named."""
    problems = [
        f"{what}: {path} has changed since it was deployed as {version}: name it too, to deploy "
        "what it is now"
        for what, (path, version) in before.items()
        if what not in asked
        and version is not None
        and now.get(what) not in (None, (path, version))
    ]
    if problems:
        raise PreflightError(problems)


def _versions(settings: Settings, adapters: Sequence[Adapter]) -> dict[str, Served]:
    """What is served, by the option that names it."""
    return {
        MODEL: (settings.model, settings.version),
        INDEX: (settings.index, settings.index_version),
        **{f"--adapter {each.name}": (each.path, each.version) for each in adapters},
    }


def _running(record: Path, port: int) -> dict[str, Any]:
    """What is deployed, as far as its Ray still answers."""
    if not record.is_file():
        raise PreflightError([f"--port {port}: no `medgpt serve` runs there (no {record})"])
    running: dict[str, Any] = json.loads(record.read_text())
    host, _, gcs = running["address"].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(gcs)), timeout=10).close()
    except OSError as error:
        raise PreflightError(
            [
                f"--port {port}: the `medgpt serve` of there is gone, or cannot be reached from "
                f"here: its Ray at {running['address']} does not answer ({error.strerror or error})"
            ]
        ) from None
    return running


@contextmanager
def _ray(settings: Settings, address: str | None) -> Iterator[None]:
    import ray

    from medgpt_ray.actors.signals import own_sigterm
    from medgpt_ray.actors.start import start_ray
    from medgpt_ray.actors.wait import RunFailed

    address = address or os.environ.get("RAY_ADDRESS")
    with own_sigterm():
        if address:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        else:
            for name, value in RAY_SERVE.items():
                os.environ.setdefault(name, value)
            # CPUs are only counted: an update needs the room of every replica twice.
            try:
                start_ray(2 * settings.cpus * settings.max_replicas + 2)
            except RunFailed as failure:
                raise PreflightError([str(failure)]) from None
    try:
        yield
    finally:
        ray.shutdown()


def _deploy(settings: Settings, adapters: list[Adapter]) -> None:
    """As `serve deploy` would, so that Serve itself sees what changed; waits until it runs."""
    from ray import serve as ray_serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    from medgpt_ray.serving.deployment import APPLICATION as IMPORT_PATH
    from medgpt_ray.serving.deployment import NAME

    config = {a.name: {"path": a.path, "version": a.version} for a in adapters}
    application = {
        "name": APPLICATION,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": settings.model_dump(mode="json"),
        "deployments": [{"name": NAME, "user_config": {"adapters": config}}],
    }
    began = time.time()
    schema = ServeDeploySchema.model_validate({"applications": [application]})
    _get_global_client().deploy_apps(schema)
    while time.time() < began + START_SECONDS:
        status = ray_serve.status().applications.get(APPLICATION)
        if status and status.status == "DEPLOY_FAILED":
            raise DeployFailed([_reason(status)])
        if status and status.status == "RUNNING" and _settled(status):
            return
        time.sleep(POLL_SECONDS)
    raise DeployFailed([f"not running after {START_SECONDS:.0f} s: {_reason(status)}"])


def _settled(status: Any) -> bool:
    """No replica is starting or still ends its answers."""
    deployments = status.deployments.values()
    return all(set(deployment.replica_states) == {"RUNNING"} for deployment in deployments)


def _reason(status: Any) -> str:
    if status is None:
        return "Ray Serve knows nothing of it"
    messages = [status.message, *(d.message for d in status.deployments.values())]
    whole = "\n".join(message for message in messages if message)
    return OWN_ERROR.split(whole)[-1].strip()


@contextmanager
def _started(settings: Settings, host: str, port: int) -> Iterator[None]:
    from ray import serve as ray_serve
    from ray.serve.context import _get_global_client

    if _get_global_client(raise_if_no_controller_running=False) is not None:
        raise PreflightError(
            [
                "--address: Ray Serve runs there already, and `medgpt serve` would end its other "
                "applications: add this one with `serve deploy`, as docs/serving.md shows"
            ]
        )
    options = {"host": host, "port": port, "request_timeout_s": settings.limits.request_seconds}
    ray_serve.start(proxy_location="HeadOnly", http_options=options)
    try:
        yield
    finally:
        ray_serve.shutdown()


def _watch() -> None:
    """Until a signal, or until Ray Serve cannot be asked any more. Tells of replicas that cannot
    start."""
    from ray import serve as ray_serve

    told = ""
    while True:
        time.sleep(5)
        status = ray_serve.status().applications.get(APPLICATION)
        reason = _reason(status) if status and status.status in FAILING else ""
        if reason not in ("", told):
            print(reason, file=sys.stderr, flush=True)
        told = reason


def _free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PreflightError([f"--host {host} --port {port}: {error.strerror}"]) from error


def _room_for_one_more(settings: Settings) -> None:
    """A rolling update starts a new replica before an old one stops."""
    import ray

    free = ray.available_resources()  # type: ignore[no-untyped-call]
    for name, needed in (("CPU", settings.cpus), ("GPU", settings.gpus)):
        if free.get(name, 0) < needed:
            raise PreflightError(
                [
                    f"an update needs {needed} {name} free beside what serves now, and there are "
                    f"{free.get(name, 0):g}: add a node, or stop `medgpt serve` and start it anew"
                ]
            )


def _record(port: int) -> Path:
    """What `medgpt serve update` reads: where Ray is and what is deployed. No keys are in it."""
    return CACHE / "serve" / f"{port}.json"


def _write(record: Path, settings: Settings, adapters: list[Adapter]) -> None:
    import ray

    record.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "address": ray.get_runtime_context().gcs_address,
        AUTH_MODE: os.environ.get(AUTH_MODE),
        "settings": settings.model_dump(mode="json"),
        "adapters": [asdict(adapter) for adapter in adapters],
    }
    write_atomically(record, json.dumps(content, indent=2) + "\n")
