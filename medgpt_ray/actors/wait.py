"""Waiting for actors: every wait has an owner, a deadline, and a post-mortem when it runs out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

LAST_WORDS_S = 5.0
"""When one fails, so long the others are listened to: who broke a collective may have died."""

_GONE = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
)
"""How a call to a process that no longer is there fails; its answer goes down with its node, and
Ray itself kills it where memory runs out."""


def died(error: ray.exceptions.RayError) -> bool:
    """Whether who was called is gone, and another can take its place. One whose constructor raised
    is not: the next would raise as well.
    """
    return isinstance(error, _GONE) and not getattr(error, "actor_init_failed", False)


class RunFailed(RuntimeError):
    """The run cannot go on; the message is the post-mortem."""


class RoleDied(RunFailed):
    """A process or its node is gone: started anew, the run can go on from its last checkpoint."""


def wait(calls: Mapping[str, ray.ObjectRef], seconds: float, what: str) -> dict[str, Any]:
    """Results of the calls by the name of who was called, in the order of `calls`.

    Raises:
        RoleDied: someone's process is gone; names who.
        RunFailed: someone failed (its error is chained) or did not answer within `seconds`; names
            who, and who had answered by then.
    """
    started = time.monotonic()
    names = {ref: name for name, ref in calls.items()}
    results: dict[str, Any] = {}
    pending = list(names)
    while pending:
        left = seconds - (time.monotonic() - started)
        ready = first_and_more(pending, max(left, 0))
        pending = [ref for ref in pending if ref not in ready]
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
                rest = [late for late in calls.values() if names[late] not in results]
                if dead := gone({late: names[late] for late in rest}):
                    raise RoleDied(f"{what}: {dead}") from error
                raise RunFailed(f"{what}: {names[ref]} failed: {cause(error)}") from error
    return {name: results[name] for name in calls}


def first_and_more(refs: Sequence[ray.ObjectRef], seconds: float) -> list[ray.ObjectRef]:
    """All that are ready once the first is, which is waited for up to `seconds`; none if none is.
    One look at thousands of calls costs as much as a look at each of them.
    """
    first, _ = ray.wait(list(refs), num_returns=1, timeout=seconds)
    if not first:
        return []
    ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
    return list(dict.fromkeys([*first, *ready]))


@dataclass(frozen=True)
class Pending:
    """Calls on their way."""

    calls: Mapping[str, ray.ObjectRef]
    seconds: float
    what: str
    combine: Callable[[Any], Any]
    """Makes the result of the answers, which come in the order of the calls."""

    def result(self) -> Any:
        """As `wait`, and raises as it does."""
        return self.combine(wait(self.calls, self.seconds, self.what).values())


def gone(names: Mapping[ray.ObjectRef, str]) -> str:
    """Who of those called is gone; empty when nobody is. The ranks of a collective fail with it
    when one of them dies, often before the death itself is known.
    """
    ready, _ = ray.wait(list(names), num_returns=len(names), timeout=LAST_WORDS_S)
    dead = []
    for ref in ready:
        try:
            ray.get(ref, timeout=60)
        except ray.exceptions.RayError as error:
            if died(error):
                dead.append(f"{names[ref]} is gone: {cause(error)}")
            elif isinstance(getattr(error, "cause", None), RoleDied):
                dead.append(cause(error))  # it waited for one that died
    return "; ".join(dead)


def cause(error: Exception) -> str:
    """The error in one line; of one that was raised inside an actor, that error."""
    inner = getattr(error, "cause", None)
    if inner is not None:
        return f"{type(inner).__name__}: {inner}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, ray.exceptions.OutOfMemoryError) else lines[-1]
