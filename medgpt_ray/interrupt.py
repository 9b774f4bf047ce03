"""SIGINT and SIGTERM: as an exception at the next instruction, or noted for a loop to see."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """The user or the scheduler asked the run to stop."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


@contextmanager
def as_interrupted() -> Iterator[None]:
    """In the block `Interrupted` is itself also where C code has made a SystemError of it, as
    `ray.wait` does when what it waits for comes with the signal.
    """
    try:
        yield
    except SystemError as error:
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        raise


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block the first signal raises `Interrupted`; later ones are ignored meanwhile."""

    def stop(number: int, _: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with as_interrupted():
            yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def at_once() -> Iterator[None]:
    """Inside the block a signal ends the process, with 130: there is nothing to put away yet, and
    libraries that are being imported swallow an exception, or make an error of theirs of it.
    """

    def end(number: int, _: FrameType | None) -> None:
        os.write(2, f"Interrupted: {signal.Signals(number).name}\n".encode())
        os._exit(130)

    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Around `ray.init`: SIGTERM is for this process, which then stops in order.

    Ray puts a handler in place that exits at once: ours comes back. The processes of a local Ray
    get process groups of their own (Ray does that on Windows only), or a signal to ours, as
    `timeout` and `kill %1` send it, would end them before anything is saved.
    """
    from ray._private import services

    handler, popen = signal.getsignal(signal.SIGTERM), services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)
    ours = callable(handler) and threading.current_thread() is threading.main_thread()
    try:
        yield
    except SystemExit as stop:
        if ours and stop.code == signal.SIGTERM:  # of Ray's handler
            handler(signal.SIGTERM, None)
        raise
    finally:
        services.ConsolePopen = popen
        if ours:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def finishing(seconds: dict[signal.Signals, float]) -> Iterator[None]:
    """Inside the block, within `interruptible`, a signal waits for the end of the block, but only
    so many `seconds`: what has begun is finished rather than lost.
    """
    first: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        if not first:
            first.append(number)
            signal.setitimer(signal.ITIMER_REAL, seconds[signal.Signals(number)])

    def too_late(_: int, frame: FrameType | None) -> None:
        before[signal.Signals(first[0])](first[0], frame)

    before: dict[signal.Signals, Any] = {each: signal.signal(each, hold) for each in seconds}
    alarm = signal.signal(signal.SIGALRM, too_late)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        for each, handler in before.items():
            signal.signal(each, signal.SIG_IGN if first else handler)
    if first:
        before[signal.Signals(first[0])](first[0], None)


@contextmanager
def noted() -> Iterator[list[int]]:
    """Inside the block signals raise nothing: their numbers are in the list, for a loop to see."""
    signals: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        signals.append(number)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
