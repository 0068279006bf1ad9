"""Rate limit for events that may repeat thousands of times."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from exporter.runtime.locks import LockRank, new_lock


class RateLimit:
    """Admits one event per key and interval and counts the others. Thread-safe.

    Args:
        interval_seconds: time until a key is admitted again.
        clock: seconds that never go back, such as `time.monotonic`.
        max_keys: keys that are limited separately. Any beyond that share one allowance, so that keys made of hostile
            names cannot fill the memory.
    """

    def __init__(self, interval_seconds: float, clock: Callable[[], float], max_keys: int = 1000) -> None:
        self._interval = interval_seconds
        self._clock = clock
        self._max_keys = max_keys
        self._lock = new_lock(LockRank.RATE_LIMIT)
        self._pauses: dict[Hashable, _Pause] = {}  # in the order in which they end
        self._shared = _Pause()  # of the keys beyond max_keys

    def admit(self, key: Hashable) -> int | None:
        """Request admission for an event.

        Returns:
            The number of suppressed events of this key since the last admission, or None where this one is suppressed.
        """
        with self._lock:
            now = self._clock()
            pause = self._pauses.get(key) or self._begin(key, now)
            if now < pause.until:
                pause.suppressed += 1
                return None
            suppressed, pause.suppressed = pause.suppressed, 0
            pause.until = now + self._interval
            if pause is not self._shared:
                self._pauses[key] = self._pauses.pop(key)
            return suppressed

    def _begin(self, key: Hashable, now: float) -> "_Pause":
        """Return the pause of a new key, which replaces an expired one where all places are taken."""
        if len(self._pauses) >= self._max_keys:
            oldest = next(iter(self._pauses))
            if now < self._pauses[oldest].until:
                return self._shared
            self._shared.suppressed += self._pauses.pop(oldest).suppressed
        return self._pauses.setdefault(key, _Pause())


@dataclass(slots=True)
class _Pause:
    until: float = -math.inf
    suppressed: int = 0
