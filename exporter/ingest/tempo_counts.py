"""How many traces Tempo says it has, window by window, where it can count.

One cheap question covers up to a day of windows. Tempo may not be able to answer it: 2.x counts only with a processor
that few run, and says "nothing" or fails; an operator may have switched it off. So nothing depends on it, "nothing" is
never taken for "no traffic", and what turns out to contradict what was read is not believed.
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
_LONGEST_PAUSE_SECONDS: Final = 6 * 3600.0
_LONGEST_RANGE_SECONDS: Final = 24 * 3600
_MOST_STEP_SECONDS: Final = 900
_MOST_POINTS: Final = 5000
_REMEMBERED_WINDOWS: Final = 5000
_BELIEVABLE_SURPLUS: Final = 1.01
_BELIEVABLE_TRACES: Final = 5


class CountSource(Protocol):
    """Counts in Tempo."""

    @property
    def max_count_range_seconds(self) -> int | None:
        """The longest range over which Tempo counts, once it has said so."""

    def count(self, start: int, end: int, step_seconds: int, *, loop: Loop, by_series: bool = False) -> SpanCounts:
        """Count the spans in scope that started in ``(start, end]``; raises TempoError."""


class TempoCounts:
    """What Tempo has counted, for any number of threads."""

    def __init__(self, counter: CountSource, telemetry: Telemetry, monotonic: Callable[[], float], log: Log) -> None:
        self._counter = counter
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._log = log
        self._asking = new_lock(LockRank.TEMPO_COUNTS)
        self._totals: dict[Window, int] = {}
        self._range_seconds = _LONGEST_RANGE_SECONDS
        self._available: bool | None = None
        self._failures = 0
        self._resume_at = monotonic()

    def of(self, window: Window) -> int | None:
        """How many traces started in a window, if that is known."""
        return self._totals.get(window)

    def learn(self, windows: Sequence[Window], others: Sequence[Window]) -> bool:
        """Make known what some adjacent windows hold, if it is not; what others near them hold comes with it.

        Says whether anything is known that was not.

        Args:
            windows: the windows, by time.
            others: windows of which it is good to know anew, too, as far as one question reaches.

        Raises:
            StoppedError: the exporter is being stopped.
        """
        with self._asking:
            if all(window in self._totals for window in windows) or self._monotonic() < self._resume_at:
                return False
            while True:
                try:
                    return self._ask([*others, *windows], windows[-1].end, windows[0].start)
                except TempoError as error:
                    if error.reason == "timeout" and self._range_seconds > windows[0].seconds:
                        # A day of dense traffic takes long to count; a part of it may not.
                        self._range_seconds = max(windows[0].seconds, self._range_seconds // 6)
                        continue
                    self._rest("Tempo cannot say how many traces it has; everything works without that", error=error)
                    return False

    def _ask(self, windows: Sequence[Window], end: int, at_least_from: int) -> bool:
        """Ask about all that one question reaches before an instant, and go on until an earlier one is reached."""
        learned = False
        while end > at_least_from:
            longest = min(self._range_seconds, self._counter.max_count_range_seconds or self._range_seconds)
            some = sorted({each for each in windows if end - longest <= each.start and each.end <= end})
            step = _step(some)
            if not some or step is None or (some[-1].end - some[0].start) // step > _MOST_POINTS:
                break
            try:
                counts = self._counter.count(some[0].start, some[-1].end, step, loop="backfill")
            except RangeTooLongError:
                if (self._counter.max_count_range_seconds or longest) >= longest:
                    raise
                continue
            if not counts.known:
                # Either nothing is there, or Tempo keeps nothing that it could count.
                break
            if len(self._totals) > _REMEMBERED_WINDOWS:
                self._totals.clear()
            for window in some:
                if count := counts.between(*window):
                    self._totals[window] = count
            self._believe()
            learned = True
            end = some[0].start
        return learned

    def by_series(self, window: Window) -> Mapping[SeriesKey, int]:
        """How many traces each series has in a window, as far as Tempo says; nothing where it cannot count.

        Raises:
            StoppedError: the exporter is being stopped.
        """
        step = _step([window])
        if self.of(window) is None or step is None:
            return {}
        try:
            return self._counter.count(*window, step, loop="backfill", by_series=True).by_series
        except TempoError as error:
            self._log.debug("series_counts_unavailable", "Tempo did not count traces by series", error=error)
            return {}

    def compare(self, window: Window, read: int) -> int | None:
        """How many traces Tempo has counted in a window of which some were read; None where that is not known.

        Where more were read than Tempo has counted, its counts are not of all that it has, and are forgotten.
        """
        count = self._totals.get(window)
        if count is None:
            if read and self._available is None:
                self._rest("Tempo has not counted what it has; everything works without that")
            return None
        if read > count * _BELIEVABLE_SURPLUS + _BELIEVABLE_TRACES:
            self._totals.clear()
            self._rest("Tempo has counted fewer traces than were read, so its counts are not used")
            return None
        return count

    def _believe(self) -> None:
        self._failures = 0
        self._available = True
        self._telemetry.source_counts_available(True)

    def _rest(self, message: str, **fields: object) -> None:
        if self._available is not False:
            self._log.info("counts_unavailable", message, **fields)
        self._available = False
        self._telemetry.source_counts_available(False)
        self._resume_at = self._monotonic() + min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 10)


def _step(windows: Sequence[Window]) -> int | None:
    """The longest step at whose multiples all windows begin and end; Tempo wants at least two of them."""
    if not windows:
        return None
    step = reduce(gcd, (edge for window in windows for edge in window), _MOST_STEP_SECONDS)
    if (windows[-1].end - windows[0].start) // step < 2:
        step = step // 2 if step % 2 == 0 else 1
    return step if (windows[-1].end - windows[0].start) // step >= 2 else None
