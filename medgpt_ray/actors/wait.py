"""Waiting for actors: every wait has an owner, a deadline, and a post-mortem when it runs out."""

import time
from collections.abc import Mapping
from typing import Any

import ray


class RunFailed(RuntimeError):
    """The run cannot go on; the message is the post-mortem."""


def wait(calls: Mapping[str, ray.ObjectRef], seconds: float, what: str) -> dict[str, Any]:
    """Results of the calls by the name of who was called.

    Raises:
        RunFailed: someone failed (its error is chained) or did not answer within `seconds`; names
        who,
            and who had answered by then.
    """
    started = time.monotonic()
    names = {ref: name for name, ref in calls.items()}
    results: dict[str, Any] = {}
    pending = list(names)
    while pending:
        left = seconds - (time.monotonic() - started)
        ready, pending = ray.wait(pending, num_returns=1, timeout=max(left, 0))
        if not ready:
            waiting = ", ".join(names[ref] for ref in pending)
            raise RunFailed(
                f"{what}: no answer from {waiting} within {seconds:g} s "
                f"(answered: {', '.join(results) or 'nobody'})"
            )
        for ref in ready:
            try:
                results[names[ref]] = ray.get(ref, timeout=60)
            except ray.exceptions.RayError as error:
                raise RunFailed(f"{what}: {names[ref]} failed: {_cause(error)}") from error
    return results


def _cause(error: ray.exceptions.RayError) -> str:
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {cause}"
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
