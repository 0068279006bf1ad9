"""What earlier searches of a reader have shown, so that later ones ask for what Tempo can answer.

Tempo may need longer for a range than a time-out allows. Then ranges that are short enough are searched, and after many
successes in a row longer ones are tried again.

Traces may last long enough that more of them overlap a second than a search returns. Then searches ask for more traces
than configured, and after many that did not need that they ask for less again.
"""

from collections.abc import Collection
from typing import Final

from exporter.model.span import SeriesKey
from exporter.runtime.locks import LockRank, new_lock

_GROWS_AFTER: Final = 32
"""Successful searches of the affordable length in a row after which a longer one is tried."""

_LONGEST_SECONDS: Final = 86_400
"""Where ranges of this length are affordable, no length is remembered."""


_LOWERED_AFTER: Final = 64
"""Searches in a row that did not need a raised limit after which it is lowered."""

_SHARE_OF_OVERLAPPING: Final = 0.5
"""Of a limit, the traces that began before the range may take this share; a higher one costs fewer searches."""

_MOST_SEEN: Final = 1000


class SearchMemory:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = new_lock(LockRank.SEARCH_MEMORY)
        self._affordable_seconds: int | None = None
        self._successes = 0
        self._raised_limit: int | None = None
        self._unneeded = 0
        self._overlapping = 0.0
        self._cap: int | None = None
        self._seen: frozenset[SeriesKey] = frozenset()
        self._broad: frozenset[SeriesKey] = frozenset()

    @property
    def raised_limit(self) -> int | None:
        """Traces that a search should ask for because long traces overlap every second; None without such traces."""
        return self._raised_limit

    @property
    def overlapping(self) -> float:
        """Traces that a search returns although they began before its range; 0 without long traces."""
        return self._overlapping if self._raised_limit is not None else 0.0

    def long_traces(self, overlapping: int, limit: int, highest: int) -> None:
        """So many traces that began before a range overlap it.

        Args:
            overlapping: their number, or a lower bound of it.
            limit: the limit of the search.
            highest: the highest limit that may be asked for.
        """
        with self._lock:
            self._unneeded = 0
            self._overlapping = max(float(overlapping), self._overlapping)
            wanted = max(limit, self._raised_limit or 0)
            while wanted * _SHARE_OF_OVERLAPPING < overlapping and wanted < highest:
                wanted *= 2
            self._raised_limit = max(limit, min(wanted, highest))

    def highest(self, limit: int) -> int:
        """The highest limit that may be asked for, if Tempo and memory allow one."""
        return limit if self._cap is None else min(limit, self._cap)

    def cannot_raise(self, limit: int) -> None:
        """A search with a higher limit than this failed, and this one succeeded."""
        with self._lock:
            self._cap = limit if self._cap is None else min(self._cap, limit)
            if self._raised_limit is not None:
                self._raised_limit = min(self._raised_limit, self._cap)

    @property
    def seen(self) -> frozenset[SeriesKey]:
        """Series found in responses that are full of long traces; some of them, if there are very many."""
        return self._seen

    def see(self, series: Collection[SeriesKey]) -> None:
        """A response that is full of long traces holds these series."""
        with self._lock:
            if len(self._seen) < _MOST_SEEN:
                self._seen |= frozenset(series)

    @property
    def broad(self) -> frozenset[SeriesKey]:
        """Series of which a search by name finds too many spans of others to be of use; some of them, if very many."""
        return self._broad

    def too_broad(self, key: SeriesKey) -> None:
        """A search for one series, where attributes decide, found too much."""
        with self._lock:
            if len(self._broad) < _MOST_SEEN:
                self._broad |= {key}

    def needed(self, traces: int, overlapping: int, limit: int) -> None:
        """A search was complete.

        Args:
            traces: traces found.
            overlapping: those that began before the range.
            limit: the configured limit.
        """
        if self._raised_limit is None:
            return
        with self._lock:
            self._overlapping += 0.2 * (overlapping - self._overlapping)
            self._unneeded = self._unneeded + 1 if traces < limit * _SHARE_OF_OVERLAPPING else 0
            if self._unneeded >= _LOWERED_AFTER and self._raised_limit is not None:
                self._unneeded = 0
                lower = self._raised_limit // 4
                self._raised_limit = lower if lower > limit else None
                self._cap = None
                self._seen = frozenset()

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
