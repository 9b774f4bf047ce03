"""Signals that wait for the end of a block, or do not."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from medgpt_ray.actors.signals import own_sigterm
from medgpt_ray.interrupt import (
    Interrupted,
    at_once,
    finishing,
    interruptible,
    noted,
    unwinding,
)

PATIENCE = {signal.SIGINT: 0.2, signal.SIGTERM: 30.0}


def test_a_block_is_finished_before_the_stop() -> None:
    done = []

    def work() -> None:
        with finishing(PATIENCE):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
            done.append("block")
        done.append("more")

    with interruptible(), pytest.raises(Interrupted, match="SIGTERM"):
        work()
    assert done == ["block"]


def test_a_long_block_is_broken_off() -> None:
    def work() -> None:
        with finishing(PATIENCE):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(600)

    began = time.monotonic()
    with interruptible(), pytest.raises(Interrupted, match="SIGINT"):
        work()
    assert 0.2 <= time.monotonic() - began < 60


def test_the_clean_up_after_a_signal_is_not_disturbed() -> None:
    with interruptible():
        with pytest.raises(Interrupted), finishing(PATIENCE):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # the impatient second one


def test_what_c_code_makes_of_it_is_the_signal() -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Interrupted as stop:
            raise SystemError("returned a result with an exception set") from stop

    with pytest.raises(Interrupted, match="SIGTERM"), interruptible():
        work()


def test_before_a_run_has_begun_nobody_can_swallow_it() -> None:
    pid = os.fork()
    if not pid:
        with at_once():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_a_run_has_begun_what_was_written_is_put_away(number: int, tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        with at_once(), unwinding(), tempfile.TemporaryDirectory(dir=tmp_path):
            os.kill(os.getpid(), number)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert list(tmp_path.iterdir()) == []


def rays_init() -> None:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("handling", [interruptible, noted])
def test_while_ray_starts_it_is_no_exit_of_rays(handling: Any) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), handling(), own_sigterm():
        rays_init()


def test_without_a_signal_all_is_as_before() -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGALRM)]
    with interruptible():
        with finishing(PATIENCE):
            pass
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGALRM)] == handlers
