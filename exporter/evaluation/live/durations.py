"""Durations of every series since the start of the process, as cumulative histograms that count each span once.

The live edge brings most spans, some minutes after their end at the latest. What it missed is in the record once its
window is read into the history, or reread for late spans. The record has histograms, not spans. So of each bucket of a
window as many spans count as the live edge has brought or the record has, whichever is more. In the end the record has
all of them.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from exporter.model.accumulator import WindowContent
from exporter.model.histogram import Digest, bucket_middle_seconds, bucket_of_ns
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.span import SeriesKey, Span

_NS: Final = 1_000_000_000
_CACHED_SECONDS: Final = 8_192

_Counts = dict[int, int]
"""Number of spans by bucket of :mod:`exporter.model.histogram`."""


@dataclass(frozen=True, slots=True)
class DurationHistogram:
    """The durations of one series since the start of the process.

    Attributes:
        buckets: number of spans by bucket, ascending, of buckets that have any.
        count: number of spans.
        sum_seconds: sum of their durations; late ones count with the middle of their bucket.
    """

    buckets: tuple[tuple[int, int], ...]
    count: int
    sum_seconds: float


class _Counted:
    """How many counted spans of one bucket of a window the live edge has not brought, and the record does not have."""

    __slots__ = ("not_in_record", "not_live")

    def __init__(self) -> None:
        self.not_live = 0
        self.not_in_record = 0

    def add_live(self) -> bool:
        """Add a span of the live edge; returns whether it was not counted before, as a late one."""
        if self.not_live:
            self.not_live -= 1
            return False
        self.not_in_record += 1
        return True

    def add_record(self, spans: int) -> int:
        """Change the number of spans in the record; returns how many of them are late and were not counted before."""
        late = max(0, spans - self.not_in_record)
        self.not_in_record += late - spans
        self.not_live += late
        return late


class _WindowChange(NamedTuple):
    """A window of the record was written: the digests that it had, and those that it has now."""

    window: Window
    before: Mapping[SeriesKey, Digest]
    after: Mapping[SeriesKey, Digest]


class _Durations:
    """The histogram of one series while it grows."""

    __slots__ = ("counts", "current", "sum_seconds")

    def __init__(self) -> None:
        self.counts: _Counts = {}
        self.sum_seconds = 0.0
        self.current: DurationHistogram | None = None

    def add(self, bucket: int, seconds: float, spans: int = 1) -> None:
        self.counts[bucket] = self.counts.get(bucket, 0) + spans
        self.sum_seconds += spans * seconds
        self.current = None

    def histogram(self) -> DurationHistogram:
        if self.current is None:
            self.current = DurationHistogram(
                tuple(sorted(self.counts.items())), sum(self.counts.values()), self.sum_seconds
            )
        return self.current


class DurationHistograms:
    """The histograms of all series. Not thread-safe, except for :meth:`record_changed`.

    Counting begins with the process. Spans that are late count if they began in a window that did not begin before it.
    """

    def __init__(self, *, started_at: float, window_start: Callable[[int], int], kept_seconds: float) -> None:
        """Start without spans.

        Args:
            started_at: start of the process, Unix seconds.
            window_start: returns the start of the window of the record that contains an instant, both in whole Unix
                seconds.
            kept_seconds: how long after its start a window may still be written or bring spans.
        """
        self._started_at = started_at
        self._window_start = lru_cache(maxsize=_CACHED_SECONDS)(window_start)
        self._kept_seconds = kept_seconds
        self._series: dict[SeriesKey, _Durations] = {}
        self._windows: dict[int, dict[SeriesKey, dict[int, _Counted]]] = {}
        self._written: set[int] = set()
        self._changes: deque[_WindowChange] = deque()

    def add(self, key: SeriesKey, span: Span) -> None:
        """Count a span that the live edge has found for the first time."""
        bucket = bucket_of_ns(span.duration_ns)
        start = self._window_start(span.start_ns // _NS)
        if start >= self._started_at:
            counted = self._windows.setdefault(start, {}).setdefault(key, {}).setdefault(bucket, _Counted())
            if not counted.add_live():
                return
        self._durations(key).add(bucket, span.duration_ns / _NS)

    def record_changed(
        self,
        before: Mapping[Window, Mapping[SeriesKey, Digest]],
        contents: Sequence[WindowContent],
        entries: Sequence[LedgerEntry],
    ) -> None:
        """Take note of windows that were written; may be called from any thread.

        Args:
            before: the digests that they had.
            contents: what was written.
            entries: their entries in the ledger; a window that was not read whole is ignored.
        """
        whole = {entry.window for entry in entries if entry.state in (WindowState.DONE, WindowState.EMPTY)}
        self._changes.extend(
            _WindowChange(
                content.window,
                before.get(content.window, {}),
                {key: item.digest for key, item in content.series.items()},
            )
            for content in contents
            if content.window in whole
        )

    def current(self, now: float) -> Mapping[SeriesKey, DurationHistogram]:
        """Return the histograms at an instant, Unix seconds, with the late spans of all windows written until then."""
        while self._changes:
            self._settle(self._changes.popleft())
        oldest = now - self._kept_seconds
        for start in [start for start in self._windows if start < oldest]:
            del self._windows[start]
        self._written = {start for start in self._written if start >= oldest}
        return {key: durations.histogram() for key, durations in self._series.items()}

    def _durations(self, key: SeriesKey) -> _Durations:
        return self._series.get(key) or self._series.setdefault(key, _Durations())

    def _settle(self, change: _WindowChange) -> None:
        """Count what is late of a window of the record."""
        start = change.window.start
        # A window that was cut otherwise, under an earlier configuration, is not written again under this one.
        if start < self._started_at or self._window_start(start) != start:
            return
        before = change.before if start in self._written else {}
        self._written.add(start)
        window = self._windows.setdefault(start, {})
        for key in change.after.keys() | before.keys():
            changes = Counter(dict(change.after.get(key, ())))
            changes.subtract(dict(before.get(key, ())))
            series = window.setdefault(key, {})
            for bucket, spans in changes.items():
                late = series.setdefault(bucket, _Counted()).add_record(spans)
                if late:
                    self._durations(key).add(bucket, bucket_middle_seconds(bucket), late)
            # Once both have the same spans, there is nothing to remember.
            window[key] = {
                bucket: counted for bucket, counted in series.items() if counted.not_live or counted.not_in_record
            }
            if not window[key]:
                del window[key]
