"""Time lost: by how much requests took longer than the p95 that is usual at their hour, over all traffic.

Of dense traffic only a sample of the seconds is read, so each span that is read stands for several. Seconds are read
more than once, and the size of the sample changes from one reading to the next. A span that is new is one of two:

- It was not searchable when its second was read last. Then it stands for as many as in the present sample.
- It was searchable, but its second was not in the sample. Then those that were represent it already.

What is known is whether the second was in the sample of the last reading that covered it. If it was, the first holds,
else the second is possible and the span must not be added. Hence a new span counts only if its second is in the smaller
one of both samples, and then as often as that one is small. Over all choices of seconds, each span then counts once on
average, whenever it became searchable: the estimate has no bias (Horvitz and Thompson, 1952). What remains is the
variance of the sample.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from exporter.baseline.levels import Baseline
from exporter.detection.window import end_second
from exporter.evaluation.baseline_table import EMPTY_TABLE, BaselineTable
from exporter.ingest.sampling import WHOLE, TimeSample
from exporter.model.span import SeriesKey, Span

SpanWeight = Callable[[Span], int]
"""Returns how many spans a span stands for; 0 if others stand for it already."""


def only_itself(span: Span) -> int:  # noqa: ARG001 - a SpanWeight
    """Return the weight of a span where all traffic is read."""
    return 1


class TimeLost(NamedTuple):
    """Time that requests have lost since an instant.

    Attributes:
        requests: requests that took longer than the usual p95, extrapolated to all traffic.
        seconds: the sum of what they took longer, extrapolated to all traffic.
        since: the instant, Unix seconds.
    """

    requests: int
    seconds: float
    since: float


class _Reading(NamedTuple):
    """How a reading of the live edge reads the seconds that it covers."""

    sample: TimeSample
    by_name: frozenset[SeriesKey]

    def sample_of(self, key: SeriesKey) -> TimeSample:
        """Return the sample in which a series is read."""
        return WHOLE if key in self.by_name else self.sample


_WHOLE_READING: Final = _Reading(WHOLE, frozenset())


class ReadingWeights:
    """The weights of the spans that a reading brings, given the readings before it. Not thread-safe."""

    def __init__(self, remembered_seconds: float) -> None:
        """Start without readings.

        Args:
            remembered_seconds: spans that ended longer ago are not counted.
        """
        self._remembered_seconds = remembered_seconds
        # The last reading that covered each second, for those of which it read a sample.
        self._before: dict[int, _Reading] = {}
        self._current = _WHOLE_READING
        self._covered: Collection[int] = ()
        self._weights: dict[tuple[SeriesKey, int], int] = {}

    def add(
        self,
        at: float,
        searched: Sequence[tuple[int, int]],
        sample: TimeSample,
        by_name: frozenset[SeriesKey],
        missed: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Add the current reading.

        Args:
            at: when it began, Unix seconds.
            searched: the ranges that it covers, Unix seconds.
            sample: the seconds in them that were read.
            by_name: series that were read whole all the same.
            missed: parts of the ranges that were not covered after all.
        """
        if self._current.sample.is_whole:
            for second in self._covered:
                self._before.pop(second, None)
        else:
            self._before.update(dict.fromkeys(self._covered, self._current))
        oldest = at - self._remembered_seconds
        self._before = {second: reading for second, reading in self._before.items() if second > oldest}
        self._current = _Reading(sample, by_name)
        self._covered = _seconds(searched) - _seconds(missed)
        self._weights.clear()

    def __call__(self, span: Span) -> int:
        """Return the weight of a span of the current reading."""
        if self._current.sample.is_whole and not self._before:
            return 1
        second = end_second(span.end_ns)
        weight = self._weights.get((span.key, second))
        if weight is None:
            weight = self._weights[span.key, second] = self._weight(span.key, second)
        return weight

    def _weight(self, key: SeriesKey, second: int) -> int:
        readings = self._current, self._before.get(second, _WHOLE_READING)
        smaller = max((each.sample_of(key) for each in readings), key=lambda sample: sample.one_in)
        # Smaller samples are parts of larger ones.
        return smaller.one_in if smaller.includes(second - 1) else 0


def _seconds(ranges: Sequence[tuple[int, int]]) -> set[int]:
    """Return the seconds of ranges: second ``s`` is ``(s - 1, s]``."""
    return {second for start, end in ranges for second in range(start + 1, end + 1)}


class HourlyP95:
    """The usual p95 of each series in the hour in which a span ended: the present or the previous one."""

    def __init__(self, remembered_seconds: float) -> None:
        """Start without a table.

        Args:
            remembered_seconds: how long after an hour its spans may still arrive.
        """
        self._remembered_seconds = remembered_seconds
        self._table = EMPTY_TABLE
        self._before: dict[SeriesKey, float] = {}

    def turn(self, table: BaselineTable, now: float) -> None:
        """Use a table from now on, and that of the previous hour for spans that arrive late."""
        if table.start != self._table.start:
            self._before = {
                key: each.baseline.p95_seconds
                for key, each in self._table.series.items()
                if each.baseline is not None and self._table.is_built
            }
        self._table = table
        if now > table.start + self._remembered_seconds:
            self._before = {}

    def seconds(self, key: SeriesKey, baseline: Baseline | None, ended_at: float) -> float | None:
        """Return the usual p95 for a span; None without a baseline.

        Args:
            key: its series.
            baseline: the baseline of the series in the table.
            ended_at: its end, Unix seconds.
        """
        if ended_at < self._table.start and key in self._before:
            return self._before[key]
        return None if baseline is None else baseline.p95_seconds
