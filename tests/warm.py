"""Ray's worker processes for the tests, forked from one that has imported the large libraries.

A run of the tiny model computes for a second, and each of its processes imports for five to ten.
Ray lets `py_executable` of a runtime environment stand in for Python: here it is a small program
that has the worker forked by the process that holds the libraries. What runs is the same code with
the same arguments, environment and output. Ray itself is imported after the fork: it reads its
settings when it is loaded.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOCKET = "MEDGPT_TESTS_WARM_SOCKET"
STARTS_S = 300
ASKS_S = 30

LIBRARIES = (
    "deepspeed",
    "peft",
    "transformers.models.auto.modeling_auto",
    "vllm.entrypoints.llm",
    "vllm.v1.worker.cpu_worker",
)

SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""Read while libraries are loaded, so the same for all; as in the workers of a run on CPUs."""


@contextlib.contextmanager
def forked_workers(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which drivers have their workers forked; `folder` takes the log."""
    from medgpt_ray.actors.cluster import KEEPS_MEMORY

    log, short = folder / "warm.log", tempfile.TemporaryDirectory(prefix="mg")
    path = Path(short.name) / "socket"  # a longer path would not do
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, __file__, str(path)],
            env=os.environ | KEEPS_MEMORY | SETTINGS,
            stdin=subprocess.PIPE,  # it ends when this process does
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + STARTS_S
        while not path.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        importable = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        yield {
            SOCKET: str(path),
            "RAY_RUNTIME_ENV_HOOK": "warm.hook",
            "PYTHONPATH": os.pathsep.join(filter(None, importable)),
        }
    finally:
        process.communicate(timeout=120)
        short.cleanup()


def hook(runtime_env: dict[str, Any] | None) -> dict[str, Any]:
    """What Ray calls in a driver to complete its runtime environment."""
    command = f"{sys.executable} -I -S {os.path.abspath(__file__)} {os.environ[SOCKET]}"
    return {**(runtime_env or {}), "py_executable": command}


def ask(path: str, arguments: list[str]) -> int:
    """In place of Python: have it forked, and wait; returns its exit status."""
    request = {"argv": arguments, "env": dict(os.environ), "cwd": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [b"."], [0, 1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        return int(connection.recv(16) or b"1")


def serve(path: str) -> str:
    """Fork for whoever asks until standard input ends. Returns in each child the script to run."""
    libraries = _import()
    children: dict[int, socket.socket] = {}
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(64)
    os.rename(path + ".new", path)
    while True:
        ready, _, _ = select.select([listener, wake, 0], [], [])
        if 0 in ready:
            sys.exit()
        if wake in ready:
            os.read(wake, 4096)
            _reap(children)
        if listener in ready:
            connection, _ = listener.accept()
            connection.settimeout(ASKS_S)
            _, files, _, _ = socket.recv_fds(connection, 1, 3)
            with connection.makefile() as lines:
                asked = lines.readline()
            if not asked.endswith("\n"):  # killed while it asked
                connection.close()
                for file in files:
                    os.close(file)
                continue
            request = json.loads(asked)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in (listener, connection, *children.values()):
                    other.close()
                os.close(wake)
                os.close(waker)
                return _become(request, files, libraries)
            for file in files:
                os.close(file)
            children[pid] = connection


def _import() -> list[str]:
    """Returns where Python finds the libraries."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    found = [entry for entry in sys.path[1:] if entry not in given]
    sys.modules["ray"] = None  # type: ignore[assignment]  # vLLM would import it
    for library in LIBRARIES:
        importlib.import_module(library)
    del sys.modules["ray"]
    gc.freeze()  # or every child would look through a million objects, and copy their pages
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has none of the other threads"
    return found


def _reap(children: dict[int, socket.socket]) -> None:
    """Tell those who asked how their children ended."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as connection, contextlib.suppress(BrokenPipeError):
            connection.sendall(b"%d" % (os.waitstatus_to_exitcode(status) & 255))


def _become(request: dict[str, Any], files: list[int], libraries: list[str]) -> str:
    """Take over environment, folder, arguments and output of a request; returns its script."""
    import torch

    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [os.path.dirname(sys.argv[0]), *given, *libraries]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    return sys.argv[0]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        os._exit(ask(sys.argv[1], sys.argv[2:]))
    runpy.run_path(serve(sys.argv[1]), run_name="__main__")
