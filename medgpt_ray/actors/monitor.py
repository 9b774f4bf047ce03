"""What the workers of a supervised run tell the driver, and the driver's word to stop."""

import asyncio
from collections import deque
from typing import Any

import ray

Event = tuple[str, Any]
"""A name and what belongs to it, see `supervised.py`."""


@ray.remote(num_cpus=0)
class Monitor:
    """A mailbox that outlives restarts of the workers."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.arrived = asyncio.Event()
        self.stopping = False

    async def record(self, event: Event) -> bool:
        """Called by rank 0; True asks it to save a checkpoint and stop."""
        self.events.append(event)
        self.arrived.set()
        return self.stopping

    async def take(self, seconds: float) -> list[Event]:
        """All events since the last call; waits for the first one at most `seconds`."""
        try:
            await asyncio.wait_for(self.arrived.wait(), seconds)
        except TimeoutError:
            return []
        events = list(self.events)
        self.events.clear()
        self.arrived.clear()
        return events

    async def stop(self) -> None:
        self.stopping = True
