"""What earlier searches of a reader have shown, so that later ones ask for what Tempo can answer.

Tempo may need longer for a range than a time-out allows. Then ranges that are short enough are searched, and after many
successes in a row longer ones are tried again.
"""

from typing import Final

from exporter.runtime.locks import LockRank, new_lock

_GROWS_AFTER: Final = 32
"""Successful searches of the affordable length in a row after which a longer one is tried."""

_LONGEST_SECONDS: Final = 86_400
"""Where ranges of this length are affordable, no length is remembered."""


class SearchMemory:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = new_lock(LockRank.SEARCH_MEMORY)
        self._affordable_seconds: int | None = None
        self._successes = 0

    @property
    def affordable_seconds(self) -> int | None:
        """Length of a range that Tempo can search in time; None while no search took too long."""
        return self._affordable_seconds

    def too_slow(self, seconds: int) -> None:
        """A search of a range of this length took too long."""
        with self._lock:
            self._successes = 0
            self._affordable_seconds = min(-(-seconds // 2), self._affordable_seconds or seconds)

    def not_even(self, before: int | None) -> None:
        """The shortest searches failed as well, so the length is not the reason: back to what was known before."""
        with self._lock:
            self._affordable_seconds = before

    def in_time(self, seconds: int) -> None:
        """A search of a range of this length was answered."""
        with self._lock:
            affordable = self._affordable_seconds
            # Ranges are divided evenly, so that most are a little shorter than they might be.
            if affordable is None or 2 * seconds <= affordable:
                return
            self._successes += 1
            if self._successes >= _GROWS_AFTER:
                self._successes = 0
                self._affordable_seconds = None if 2 * affordable > _LONGEST_SECONDS else 2 * affordable
