"""SIGINT and SIGTERM: an exception at the next instruction, noted for a loop to see, or the end."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """The user or the scheduler asked the run to stop."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {each: signal.signal(each, handler) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, former in before.items():
            signal.signal(each, former)


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

    with _handled_by(stop), as_interrupted():
        yield


def _end(number: int, _: FrameType | None) -> None:
    os.write(2, f"Interrupted: {signal.Signals(number).name}\n".encode())
    os._exit(130)


@contextmanager
def at_once() -> Iterator[None]:
    """Inside the block a signal ends the process, with 130: libraries that are being imported
    swallow an exception, or make an error of theirs of it. What leaves something behind that is to
    be put away is `unwinding`.
    """
    with _handled_by(_end):
        try:
            yield
        except Interrupted as stop:
            _end(stop.signal, None)


@contextmanager
def unwinding() -> Iterator[None]:
    """Within `at_once`: in the block a signal raises `Interrupted`. Elsewhere it does nothing."""
    if signal.getsignal(signal.SIGINT) is not _end:
        yield
        return
    with interruptible():
        yield


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

    with _handled_by(note):
        yield signals
