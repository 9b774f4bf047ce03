"""A model behind vLLM's own OpenAI server, on loopback, for as long as a block lasts."""

import ctypes
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MODEL_NAME = "evaluated"
START_S, STOP_S = 600.0, 15.0
LAST_LINES = 15
PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


class ServerFailed(RuntimeError):
    """The server did not come up, or went away: the end of its log says why."""


@contextmanager
def serve(directory: Path, max_model_len: int, log: Path) -> Iterator[tuple[str, str]]:
    """Yields the server's address, such as http://127.0.0.1:40123/v1, and the key that it wants; it
    knows one model, `MODEL_NAME`. Raises `ServerFailed`; the server ends with the block.
    """
    key = secrets.token_urlsafe()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(directory), "--served-model-name", MODEL_NAME),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", str(max_model_len)),
        "--disable-uvicorn-access-log",
        *([] if _gpu() else ["--enforce-eager"]),
    ]
    with log.open("wb") as output:
        process = start(command, _environment() | {"VLLM_API_KEY": key}, output)
        try:
            _wait_until_up(process, port, log)
            yield f"http://127.0.0.1:{port}/v1", key
        finally:
            _stop(process)


def start(command: list[str], env: dict[str, str], output: BinaryIO) -> subprocess.Popen[bytes]:
    """A process that ends with this one, however that ends; its own process group."""
    return subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _environment() -> dict[str, str]:
    """The CPU backend asks for its cache and its cores by variables; the user's own stand."""
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {"VLLM_NO_USAGE_STATS": "1", **({} if _gpu() else cpu), **os.environ}


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(
                f"the model server ended with status {process.returncode}{_end(log)}"
            )
        if _healthy(port):
            return
        time.sleep(0.25)
    raise ServerFailed(f"the model server was not up after {START_S:g} s{_end(log)}")


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:  # not listening yet
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The server and its engine: asked first, killed where they do not go."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
            process.wait(STOP_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(STOP_S)


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    return f", see {log}:\n" + "\n".join(f"  {line}" for line in lines)
