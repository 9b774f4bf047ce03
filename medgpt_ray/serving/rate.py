"""Requests a minute of one key, counted in one place for all replicas."""

import time
from collections.abc import Callable


class RateLimit:
    """A token bucket a key: a minute's worth at once, then as it refills."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_seconds(self, key: str) -> float:
        """0.0 and one request is counted, or the seconds until there is room for one."""
        now = self._clock()
        level, since = self._buckets.get(key, (float(self._per_minute), now))
        level = min(self._per_minute, level + (now - since) * self._per_minute / 60)
        granted = level >= 1
        self._buckets[key] = (level - granted, now)
        return 0.0 if granted else (1 - level) * 60 / self._per_minute
