"""The port that a group meets at."""

import socket
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from medgpt_ray.actors.rendezvous import listen


def test_nobody_takes_the_port_before_the_meeting_is_open() -> None:
    listener = listen()
    host, port = listener.getsockname()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((host, port))
    within = {"timeout": timedelta(seconds=120)}
    first = TCPStore(
        host, port, 2, True, master_listen_fd=listener.detach(), wait_for_workers=False, **within
    )
    second = TCPStore(host, port, 2, False, wait_for_workers=False, **within)
    first.set("said", "by the first")
    assert second.get("said") == b"by the first"
