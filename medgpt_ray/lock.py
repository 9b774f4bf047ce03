"""One process at a time: a lock that goes with the process that holds it, however that ends."""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(file: Path, taken: Exception) -> Iterator[None]:
    """Nobody else is in a block with this `file` meanwhile; raises `taken` where one is. On a
    network file system the lock may outlive a node that crashes.
    """
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken from None
        except OSError as error:  # some network file systems have no locks
            why = error.strerror
            print(f"{file}: cannot be locked ({why}): let no other work here", file=sys.stderr)
        yield
