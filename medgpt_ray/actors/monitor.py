"""What workers and controller of a supervised run tell its driver, and its word to stop."""

import asyncio
from typing import Any

import ray

Event = tuple[str, Any]
"""A name and what belongs to it, see `supervised.py`."""


@ray.remote(num_cpus=0)
class Monitor:
    """A mailbox that outlives restarts of the workers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.unhandled = 0
        """Events that the driver has not asked for, or may still be at work on."""
        self.changed = asyncio.Condition()
        self.stopping = False

    async def record(self, event: Event) -> bool:
        """True asks the worker who tells it to save a checkpoint and stop."""
        async with self.changed:
            self.events.append(event)
            self.unhandled += 1
            self.changed.notify_all()
        return self.stopping

    async def take(self, seconds: float) -> list[Event]:
        """All events since the last call; waits for the first one at most `seconds`.

        The driver asks again when it is done with the events of the call before.
        """
        async with self.changed:
            self.unhandled = len(self.events)
            self.changed.notify_all()
            try:
                await asyncio.wait_for(self.changed.wait_for(lambda: self.events), seconds)
            except TimeoutError:
                return []
            events, self.events = self.events, []
            return events

    async def handled(self, seconds: float) -> bool:
        """Whether the driver is done with all events, after at most `seconds`.

        A checkpoint waits for it: what comes before it must be in the log, or a driver that dies
        leaves a gap there.
        """
        async with self.changed:
            try:
                await asyncio.wait_for(self.changed.wait_for(lambda: not self.unhandled), seconds)
            except TimeoutError:
                return False
            return True

    async def stop(self) -> None:
        self.stopping = True
