"""The newest traces of one series, keyed by the second in which they ended, and the window that is judged.

Keyed by when they started, the newest minutes of a window would be missing exactly their slow traces.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import compress
from math import ceil
from typing import Final

from exporter.detection.parameters import FRESH_SECONDS, FRESH_TRACES, MIN_EXCEEDANCES, Parameters
from exporter.model.histogram import bucket_middle_seconds
from exporter.model.hours import QUANTILES

_NANOSECONDS: Final = 1_000_000_000
_ROUNDING: Final = 1e-9


def end_second(end_ns: int) -> int:
    """The whole second at or before which a span ended: second s stands for all that ended in (s - 1, s]."""
    return -(-end_ns // _NANOSECONDS)


@lru_cache(maxsize=4096)
def rank_of(q: float, n: int) -> int:
    """The nearest rank, from 1, of the quantile ``q`` among ``n`` traces."""
    return max(1, ceil(q * n - _ROUNDING))


@lru_cache(maxsize=4096)
def quantile_positions(n: int) -> tuple[int, ...]:
    """Where in a sorted window of ``n`` traces the quantiles are that a verdict looks at."""
    return tuple(rank_of(q, n) - 1 for q in QUANTILES)


@lru_cache(maxsize=4096)
def gated_positions(n: int) -> tuple[int, ...]:
    """Where in a sorted window of ``n`` traces that is which must lie above the gate of each quantile for a shift.

    It is the quantile itself, or the least of the slowest traces that make a shift, whichever is faster. With fewer
    traces than those there is none.
    """
    least = n - MIN_EXCEEDANCES
    return tuple(min(position, least) for position in quantile_positions(n)) if least >= 0 else ()


class RecentTraces:
    """The recent traces of one series, in order of their ends: ten bytes each."""

    __slots__ = ("_buckets", "_seconds")

    def __init__(self, entries: Iterable[tuple[int, int, int]] = ()) -> None:
        """Take traces as second, bucket and count, as iterating returns them."""
        self._seconds = array("q")
        self._buckets = array("h")
        for second, bucket, count in entries:
            self.add(second, bucket, count)

    def __len__(self) -> int:
        return len(self._seconds)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Second, bucket and count, in order and each pair of second and bucket once."""
        entries = Counter(zip(self._seconds, self._buckets, strict=True))
        return ((second, bucket, count) for (second, bucket), count in sorted(entries.items()))

    def add(self, second: int, bucket: int, count: int = 1) -> None:
        """Add traces that ended in a second (see :func:`end_second`); they may come in any order."""
        seconds = self._seconds
        if not seconds or second >= seconds[-1]:
            seconds.extend([second] * count)
            self._buckets.extend([bucket] * count)
            return
        position = bisect_right(seconds, second)
        seconds[position:position] = array("q", [second]) * count
        self._buckets[position:position] = array("h", [bucket]) * count

    def extend(self, second: int, buckets: Sequence[int]) -> None:
        """Add traces that ended in a second, by their buckets."""
        if self._seconds and second < self._seconds[-1]:
            for bucket in buckets:
                self.add(second, bucket)
        else:
            self._buckets.extend(buckets)
            self._seconds.extend([second] * len(buckets))

    def discard(self, now: float, parameters: Parameters) -> None:
        """Forget what no window at or after ``now`` can reach."""
        seconds = self._seconds
        first = bisect_right(seconds, now - max(parameters.window_seconds, FRESH_SECONDS))
        spare = bisect_right(seconds, now) - max(parameters.min_traces, FRESH_TRACES)
        first = min(first, self._whole_second(spare))
        first = max(first, bisect_right(seconds, now - parameters.max_window_seconds))
        if first > 0:
            del seconds[:first]
            del self._buckets[:first]

    def keep(self, holds: Callable[[int], bool]) -> None:
        """Forget the traces that ended in seconds that are not to be kept; a second is known by when it begins."""
        seconds = self._seconds
        kept = {second for second in set(seconds) if holds(second - 1)}
        stays = [second in kept for second in seconds]
        self._seconds = array("q", compress(seconds, stays))
        self._buckets = array("h", compress(self._buckets, stays))

    def view(self, now: float, parameters: Parameters) -> "View":
        """The current window: the last minutes, extended back until they hold enough traces."""
        return self.between(*self.bounds(now, parameters))

    def fresh(self, now: float, parameters: Parameters) -> "View":
        """The newest part of it, which tells whether something is still going on."""
        return self.between(*self._bounds(now, FRESH_SECONDS, FRESH_TRACES, parameters.max_window_seconds))

    def bounds(self, now: float, parameters: Parameters) -> tuple[int, int]:
        """The positions at which the current window begins and ends.

        Until traces are added or discarded, it is the same window as long as these are the same.
        """
        return self._bounds(now, parameters.window_seconds, parameters.min_traces, parameters.max_window_seconds)

    def between(self, first: int, last: int) -> "View":
        """The traces at the positions from ``first`` to before ``last``."""
        return View(self._seconds, self._buckets, first, last)

    def _bounds(self, now: float, length_seconds: int, min_traces: int, max_seconds: int) -> tuple[int, int]:
        seconds = self._seconds
        last = bisect_right(seconds, ceil(now))
        first = bisect_right(seconds, now - length_seconds, 0, last)
        if last - first < min_traces and first > 0:
            oldest = bisect_right(seconds, now - max_seconds, 0, first)
            first = max(oldest, self._whole_second(last - min_traces))
        return first, last

    def _whole_second(self, position: int) -> int:
        """The position of the first trace of the second that the given position lies in.

        A second is taken whole or not at all, so that it does not matter in which order its traces came.
        """
        return bisect_left(self._seconds, self._seconds[position]) if position > 0 else 0


class View:
    """The traces in one window of :class:`RecentTraces`; valid until those change."""

    __slots__ = ("_buckets", "_first", "_last", "_seconds", "_sorted")

    def __init__(self, seconds: "array[int]", buckets: "array[int]", first: int, last: int) -> None:
        self._seconds = seconds
        self._buckets = buckets
        self._sorted: list[int] | None = None
        self._first = first
        self._last = last

    @property
    def traces(self) -> int:
        """How many traces it holds."""
        return self._last - self._first

    @property
    def first_second(self) -> int:
        """The second in which its first trace ended; it must not be empty."""
        return self._seconds[self._first]

    @property
    def buckets(self) -> list[int]:
        """The buckets of its traces, from fast to slow."""
        if self._sorted is None:
            self._sorted = sorted(self._buckets[self._first : self._last])
        return self._sorted

    def quantile_bucket(self, q: float) -> int:
        """The bucket of the quantile ``q`` (nearest rank); the window must not be empty."""
        return self.buckets[rank_of(q, self.traces) - 1]

    def quantile_seconds(self, q: float) -> float:
        """The quantile ``q`` in seconds; the window must not be empty."""
        return bucket_middle_seconds(self.quantile_bucket(q))

    def after(self, second: int) -> "View":
        """The part of it that ended after a second."""
        if not self.traces or self._seconds[self._first] > second:
            return self
        return View(
            self._seconds, self._buckets, bisect_right(self._seconds, second, self._first, self._last), self._last
        )

    def split(self, instants: Sequence[int]) -> list[list[int]]:
        """The buckets of what ended after each of some falling instants, up to the instant before it, sorted.

        What ended at or before the last of them is left out.
        """
        parts = []
        last = self._last
        for instant in instants:
            middle = bisect_right(self._seconds, instant, self._first, last)
            parts.append(sorted(self._buckets[middle:last]))
            last = middle
        return parts
