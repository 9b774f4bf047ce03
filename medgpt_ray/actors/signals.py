"""SIGTERM while Ray starts."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ray._private import services

from medgpt_ray.interrupt import Interrupted


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Around `ray.init`: SIGTERM is for this process, which then stops in order.

    Ray puts a handler in place that exits at once: ours comes back. The processes of a local Ray
    get process groups of their own (Ray does that on Windows only), or a signal to ours, as
    `timeout` and `kill %1` send it, would end them before anything is saved.
    """
    handler, popen = signal.getsignal(signal.SIGTERM), services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)
    ours = callable(handler) and threading.current_thread() is threading.main_thread()
    try:
        yield
    except SystemExit as stop:
        if ours and stop.code == signal.SIGTERM:  # of Ray's handler
            handler(signal.SIGTERM, None)
            raise Interrupted(signal.SIGTERM) from None  # where the handler only notes it
        raise
    finally:
        services.ConsolePopen = popen
        if ours:
            signal.signal(signal.SIGTERM, handler)
