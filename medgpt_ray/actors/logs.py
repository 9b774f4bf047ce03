"""An actor's own log file in the run directory."""

import os
from pathlib import Path


def log_to(path: str) -> None:
    """Send everything this process prints, C libraries included, to the end of `path`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
