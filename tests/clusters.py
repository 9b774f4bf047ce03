"""A Ray cluster started by hand for the end-to-end tests: `ray start`, a token, two nodes with
addresses, names and file systems of their own.
"""

import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

STARTS_S, STOPS_S = 300, 5
UNSHARE = "unshare --map-root-user --mount --uts"


@dataclass(frozen=True)
class ByHand:
    address: str
    """For drivers."""
    url: str
    """For jobs."""
    environment: dict[str, str]
    """With the token, for whoever talks to it."""
    private: Path
    """A folder of which the second node sees another one."""
    nodes: int


@contextmanager
def by_hand(cpus: int) -> Iterator[ByHand]:
    """Two nodes of so many CPUs, as an administrator would start them; one of twice as many where
    we may not mount anything."""
    nodes = 2 if can_unshare() else 1
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="mg"))  # a longer path would not do for sockets
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        token, private, rays = folder / "token", folder / "private", folder / "ray"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        private.mkdir()
        rays.mkdir()
        port, dashboard, *rest = free_ports(8)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        head = f"--head --port={port} --dashboard-port={dashboard} --temp-dir={rays}"
        for number, which in enumerate((head, f"--address=127.0.0.1:{port}")[:nodes]):
            options = (
                f"ray start {which} --num-cpus={2 * cpus // nodes} "
                f"--node-ip-address=127.0.0.{number + 1} --metrics-export-port={rest.pop()} "
                f"--dashboard-agent-listen-port={rest.pop()} "
                f"--dashboard-agent-grpc-port={rest.pop()} --min-worker-port=0 --max-worker-port=0 "
                "--object-store-memory=150000000 --disable-usage-stats --block"
            )
            if number:  # one shared working directory of a job, and each node would unpack it anew
                mounts = " && ".join(f"mount -t tmpfs none {each}" for each in (private, rays))
                options = f"{UNSHARE} sh -c '{mounts} && hostname second && exec {options}'"
            stack.enter_context(_node(shlex.split(options), environment, folder / f"{number}.log"))
        yield ByHand(
            f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment, private, nodes
        )


@contextmanager
def _node(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        node = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
    try:
        deadline = time.monotonic() + STARTS_S
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, _told(log)
            assert time.monotonic() < deadline, _told(log)
            time.sleep(0.1)
        yield
    finally:
        alive = node.poll() is None
        family = psutil.Process(node.pid).children(recursive=True) if alive else []
        node.terminate()  # it ends its processes first, for minutes while some are at work
        with suppress(subprocess.TimeoutExpired):
            node.wait(STOPS_S)
        for process in [node, *family]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()


def _told(log: Path) -> str:
    """What this node has printed, and those before it."""
    return "\n".join(each.read_text() for each in sorted(log.parent.glob("*.log")))


def can_unshare() -> bool:
    """Whether a process of ours may have mounts of its own."""
    mount = [*shlex.split(UNSHARE), "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mount, check=False, capture_output=True).returncode == 0


def free_ports(count: int) -> list[int]:
    """Nothing listens there, and the kernel gives nobody one of them before it is used: a head of
    Ray whose port is taken does not start."""
    found: set[int] = set()
    while len(found) < count:
        port = 20_000 + secrets.randbelow(12_000)  # the first that it gives is 32,768
        with socket.socket() as each, suppress(OSError):
            each.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)
