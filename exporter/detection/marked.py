"""The traces of the past, by the mark of the clock at or before which they ended.

What is :class:`exporter.detection.window.RecentTraces` to the live edge, at the grain that is stored, and with the
windows of an hour found in one sweep: judging the past looks at millions of them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

from exporter.detection.parameters import FRESH_SECONDS, FRESH_TRACES, Parameters
from exporter.detection.window import RecentTraces

Swept = tuple[list[int], list[int]]
"""A window that was the same at some instants: those, in unix seconds, and the buckets of its traces, from fast to
slow."""


class MarkedTraces:
    """The traces of one series that a window can still reach, or that ended later."""

    __slots__ = ("_buckets", "_marks", "_recent", "_starts")

    def __init__(self, traces: Iterable[tuple[int, int, int]] = ()) -> None:
        """Begin with some traces, as mark, bucket and count in order: as iterating over recent traces returns them."""
        self._marks: list[int] = []
        # One after the other what ended by each mark, from fast to slow; where that starts, and where the last one
        # ends, counted in traces from an instant that does not matter.
        self._buckets: list[int] = []
        self._starts: list[int] = [0]
        self._recent: RecentTraces | None = None
        self.add((mark, [bucket] * count) for mark, bucket, count in traces)

    def __len__(self) -> int:
        return len(self._buckets)

    def add(self, more: Iterable[tuple[int, Sequence[int]]]) -> None:
        """Add traces: marks, and the buckets of what ended by them, from fast to slow."""
        self._recent = None
        marks, starts, buckets = self._marks, self._starts, self._buckets
        newest, end = marks[-1] if marks else -1, starts[-1]
        for mark, ended in more:
            if mark > newest:
                newest = mark
                marks.append(mark)
                buckets += ended
                end += len(ended)
                starts.append(end)
            else:
                self._insert(mark, ended)
                end = starts[-1]

    def _insert(self, mark: int, ended: Sequence[int]) -> None:
        marks, starts, buckets = self._marks, self._starts, self._buckets
        index = bisect_left(marks, mark)
        if marks[index] != mark:
            marks.insert(index, mark)
            starts.insert(index, starts[index])
        first, last = starts[index] - starts[0], starts[index + 1] - starts[0]
        buckets[first:last] = sorted([*buckets[first:last], *ended])
        starts[index + 1 :] = [start + len(ended) for start in starts[index + 1 :]]

    def discard(self, now: int, parameters: Parameters) -> None:
        """Forget what no window at or after ``now`` can reach."""
        marks, starts = self._marks, self._starts
        first = bisect_right(marks, now - max(parameters.window_seconds, FRESH_SECONDS))
        least = max(parameters.min_traces, FRESH_TRACES)
        enough = bisect_right(starts, starts[bisect_right(marks, now)] - least) - 1
        if enough < first:
            first = max(enough, bisect_right(marks, now - parameters.max_window_seconds))
        if first > 0:
            self._recent = None
            del self._buckets[: self._starts[first] - self._starts[0]]
            del self._marks[:first], self._starts[:first]

    def recent(self) -> RecentTraces:
        """The same traces for a closer look; not to be changed."""
        if self._recent is None:
            self._recent = RecentTraces()
            for mark, (first, last) in zip(self._marks, pairwise(self._starts), strict=True):
                self._recent.extend(mark, self._buckets[first - self._starts[0] : last - self._starts[0]])
        return self._recent

    def sweep(self, instants: Sequence[int], since: int, parameters: Parameters) -> list[Swept]:
        """The windows at some rising instants, at least one, less what ended up to ``since``."""
        marks, starts, buckets = self._marks, self._starts, self._buckets
        length, min_traces, longest = parameters.window_seconds, parameters.min_traces, parameters.max_window_seconds
        size, base, oldest = len(marks), starts[0], starts[bisect_right(marks, since)]
        windows: list[Swept] = []
        first_before = last_before = enough = -1
        # Instants rise, so the bounds only move on: up to where a window reaches, and where its length begins.
        last = bisect_right(marks, instants[0])
        recent = bisect_right(marks, instants[0] - length)
        for now in instants:
            while last < size and marks[last] <= now:
                last += 1
            while recent < last and marks[recent] <= now - length:
                recent += 1
            if last != last_before:
                enough = bisect_right(starts, starts[last] - min_traces) - 1
            first = recent
            if enough < first:
                first = bisect_right(marks, now - longest)
                if enough > first:
                    first = enough
            if first == first_before and last == last_before:
                windows[-1][0].append(now)
            else:
                first_before, last_before = first, last
                begin = starts[first]
                if begin < oldest:
                    begin = oldest
                window = buckets[begin - base : starts[last] - base]
                window.sort()
                windows.append(([now], window))
        return windows
