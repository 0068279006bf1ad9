"""How many traces Tempo counts in each window, where it can count.

One cheap request covers up to a day of windows. Tempo may be unable to answer it: 2.x counts only with a processor that
few run, and otherwise returns nothing or fails; an operator may have switched it off. So nothing depends on counts,
"nothing" is never taken for "no traffic", and counts that contradict what was read are discarded.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from math import gcd
from typing import Final, Protocol

from exporter.model.ledger import Window
from exporter.model.span import SeriesKey
from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Loop, Telemetry
from exporter.tempo.counts import SpanCounts
from exporter.tempo.errors import RangeTooLongError, TempoError

_FIRST_PAUSE_SECONDS: Final = 900.0
_MAX_PAUSE_SECONDS: Final = 6 * 3600.0
_MAX_RANGE_SECONDS: Final = 24 * 3600
_MAX_STEP_SECONDS: Final = 900
_MAX_POINTS: Final = 5000
_MAX_CACHED_WINDOWS: Final = 5000
_TOLERATED_SHARE: Final = 1.01
_TOLERATED_TRACES: Final = 5


class CountClient(Protocol):
    """Asks Tempo for counts."""

    @property
    def max_count_range_seconds(self) -> int | None:
        """The longest range over which Tempo counts; known once it has refused a longer one."""

    def count(self, start: int, end: int, step_seconds: int, *, loop: Loop, by_series: bool = False) -> SpanCounts:
        """Count the spans in scope that started in ``(start, end]``; raises TempoError."""


class TempoCounts:
    """Cache of Tempo's counts, for any number of threads."""

    def __init__(self, client: CountClient, telemetry: Telemetry, monotonic: Callable[[], float], log: Log) -> None:
        self._client = client
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._log = log
        self._requesting = new_lock(LockRank.TEMPO_COUNTS)
        self._totals: dict[Window, int] = {}
        self._left_out: dict[Window, int] = {}
        self._range_seconds = _MAX_RANGE_SECONDS
        self._is_available: bool | None = None
        self._failures = 0
        self._resume_at = monotonic()

    def of(self, window: Window) -> int | None:
        """The number of traces that started in a window, if known, without those that are known to be left out."""
        count = self._totals.get(window)
        return None if count is None else max(0, count - self._left_out.get(window, 0))

    def leave_out(self, window: Window, spans: int) -> None:
        """Remember that Tempo counts some spans in a window that no read will find.

        These are duplicates and invalid spans, and those on the edges: Tempo counts a span that starts on an edge in
        the window before it. The number is negative if more spans start at the start than at the end of the window.
        """
        if len(self._left_out) > _MAX_CACHED_WINDOWS:
            self._left_out.clear()
        if spans:
            self._left_out[window] = spans
        else:
            self._left_out.pop(window, None)

    def learn(self, windows: Sequence[Window], others: Sequence[Window]) -> bool:
        """Request the counts of adjacent windows unless they are known; returns whether any count was received.

        Args:
            windows: the windows, by time.
            others: windows whose counts are to be renewed as well, as far as the request reaches.

        Raises:
            StoppedError: the exporter is being stopped.
        """
        with self._requesting:
            if all(window in self._totals for window in windows) or self._monotonic() < self._resume_at:
                return False
            while True:
                try:
                    return self._request([*others, *windows], windows[-1].end, windows[0].start)
                except TempoError as error:
                    if error.reason == "timeout" and self._range_seconds > windows[0].seconds:
                        # A day of dense traffic takes long to count; a part of it may not.
                        self._range_seconds = max(windows[0].seconds, self._range_seconds // 6)
                        continue
                    if error.reason == "connection":
                        message = "Tempo could not be asked how many traces it has; it will be asked again later"
                    else:
                        message = "Tempo cannot say how many traces it has; everything works without that"
                    self._pause(message, error=error)
                    return False

    def renew(self, windows: Sequence[Window]) -> None:
        """Request the counts of some windows, by time; afterwards they are as Tempo counts now, or unknown.

        Raises:
            StoppedError: the exporter is being stopped.
        """
        with self._requesting:
            for window in windows:
                self._totals.pop(window, None)
        self.learn(windows, ())

    def _request(self, windows: Sequence[Window], end: int, start: int) -> bool:
        """Request the counts of all windows that one request covers before an instant, until a start is reached."""
        has_learned = False
        while end > start:
            longest = min(self._range_seconds, self._client.max_count_range_seconds or self._range_seconds)
            covered = sorted({each for each in windows if end - longest <= each.start and each.end <= end})
            step = _step(covered)
            if not covered or step is None or (covered[-1].end - covered[0].start) // step > _MAX_POINTS:
                break
            try:
                counts = self._client.count(covered[0].start, covered[-1].end, step, loop="backfill")
            except RangeTooLongError:
                if (self._client.max_count_range_seconds or longest) >= longest:
                    raise
                continue
            if not counts.known:
                # Either there is no traffic, or Tempo does not count.
                break
            if not counts.complete:
                self._pause("Tempo has not counted everything, so its counts are not used")
                break
            if len(self._totals) > _MAX_CACHED_WINDOWS:
                self._totals.clear()
            for window in covered:
                if count := counts.between(*window):
                    self._totals[window] = count
            self._resume()
            has_learned = True
            end = covered[0].start
        return has_learned

    def by_series(self, window: Window) -> Mapping[SeriesKey, int]:
        """The number of traces of each series in a window; empty where Tempo does not count.

        Raises:
            StoppedError: the exporter is being stopped.
        """
        step = _step([window])
        if self.of(window) is None or step is None:
            return {}
        try:
            counts = self._client.count(*window, step, loop="backfill", by_series=True)
        except TempoError as error:
            self._log.debug("series_counts_unavailable", "Tempo did not count traces by series", error=error)
            return {}
        # A series that is left out would be read neither by name nor among those that no count mentions.
        return counts.by_series if counts.complete else {}

    def verified(self, window: Window, read: int) -> int | None:
        """The number of traces in a window of which some were read, if known.

        If more traces were read than Tempo counts, its counts are incomplete, and all of them are discarded.

        Args:
            window: the window.
            read: number of traces read.
        """
        count = self._totals.get(window)
        if count is None:
            if read and self._is_available is None:
                self._pause("Tempo has not counted what it has; everything works without that")
            return None
        if read > count * _TOLERATED_SHARE + _TOLERATED_TRACES:
            self._totals.clear()
            self._pause("Tempo has counted fewer traces than were read, so its counts are not used")
            return None
        return count

    def _resume(self) -> None:
        self._failures = 0
        self._is_available = True
        self._telemetry.source_counts_available(True)

    def _pause(self, message: str, **fields: object) -> None:
        if self._is_available is not False:
            self._log.info("counts_unavailable", message, **fields)
        self._is_available = False
        self._telemetry.source_counts_available(False)
        self._resume_at = self._monotonic() + min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 10)


def _step(windows: Sequence[Window]) -> int | None:
    """The longest step at whose multiples all windows begin and end; Tempo requires at least two steps."""
    if not windows:
        return None
    step = reduce(gcd, (edge for window in windows for edge in window), _MAX_STEP_SECONDS)
    if (windows[-1].end - windows[0].start) // step < 2:
        step = step // 2 if step % 2 == 0 else 1
    return step if (windows[-1].end - windows[0].start) // step >= 2 else None
