"""Reads from the live edge what one poll cycle needs."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from exporter.evaluation.live_edge import newest_lag
from exporter.evaluation.settings import PollSettings
from exporter.ingest.live_reader import LiveReader
from exporter.ingest.sampling import TimeSample
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Telemetry
from exporter.tempo.errors import TempoError

_REPEAT_SECONDS: Final = 600
_FUTURE_SECONDS: Final = 2
"""How far beyond now a search reaches: clocks of traced services run ahead, and Tempo searches whole seconds."""


@dataclass(frozen=True, slots=True)
class CycleReading:
    """What one poll cycle read.

    Attributes:
        at: when the cycle started, Unix seconds.
        seconds: how long reading took.
        spans: the spans, some of them more than once.
        is_complete: whether everything was read that should have been.
        sample: the slices of time that were read; all of it unless the traffic is sampled.
        by_name: series that were read whole beside a sample.
    """

    at: float
    seconds: float
    spans: Sequence[Span]
    is_complete: bool
    sample: TimeSample
    by_name: frozenset[SeriesKey]

    def without_spans(self) -> "CycleReading":
        """Return a copy that can be kept without the memory for the spans."""
        return replace(self, spans=())

    def is_thinner_than(self, other: "CycleReading") -> bool:
        """Whether some series is sampled at a smaller share than in another reading."""
        return self.sample.share < other.sample.share or not other.by_name <= self.by_name


class CycleReader:
    """Decides how far back a cycle reads, and reports what could not be read."""

    def __init__(
        self,
        reader: LiveReader,
        settings: PollSettings,
        telemetry: Telemetry,
        *,
        monotonic: Callable[[], float],
        stop: threading.Event,
        log: Log,
    ) -> None:
        self._reader = reader
        self._settings = settings
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._stop = stop
        self._log = log
        self._quiet_log = log.limited(_REPEAT_SECONDS, monotonic)

    def read(
        self, now: float, last: CycleReading | None, traces_per_hour: Callable[[], Mapping[SeriesKey, float]]
    ) -> CycleReading:
        """Read the live edge.

        Args:
            now: Unix seconds.
            last: the last successful reading; without one, the whole evaluation window is read.
            traces_per_hour: the usual traffic of each series; called only if the traffic must be sampled.

        Raises:
            StoppedError: the exporter is shutting down.
            TempoError: a search failed.
        """
        settings, began = self._settings, self._monotonic()
        if last is None:
            deadline = began + 2 * settings.window_seconds
            newest = self._read(now, settings.window_seconds, deadline, traces_per_hour)
            older = self._read_older(now - settings.window_seconds, newest, deadline, traces_per_hour)
            reading = newest if older is None else replace(older, at=now, spans=[*newest.spans, *older.spans])
            return replace(reading, seconds=self._monotonic() - began, is_complete=newest.is_complete)
        # After a pause (the machine slept, Tempo was down) read what was missed, so that the window has no hole.
        missed_seconds = now - last.at - settings.interval_seconds
        back_seconds = min(settings.lookback_seconds + max(0.0, missed_seconds), settings.max_window_seconds)
        return self._read(
            now, max(settings.lookback_seconds, back_seconds), began + settings.interval_seconds, traces_per_hour
        )

    def late_trace_seconds(self, now: float, newest_at: float | None) -> float | None:
        """Return the age of the newest trace that Tempo has and no cycle found; None without such a trace.

        A failure is logged and ignored: the next measurement may succeed.

        Args:
            now: Unix seconds.
            newest_at: end of the newest trace read so far, Unix seconds.

        Raises:
            StoppedError: the exporter is shutting down.
        """
        settings = self._settings
        # Later traces may be found by the next cycle.
        until = int(now - settings.lookback_seconds - settings.interval_seconds)
        since = now - settings.max_window_seconds
        if newest_at is not None:
            since = max(since, newest_at + settings.interval_seconds)
        try:
            return newest_lag(self._reader.exists, int(now), int(since) + 1, until)
        except TempoError as error:
            self._log.debug("live_edge_not_measured", "cannot search for traces that arrived late", error=error)
            return None

    def _read_older(
        self,
        now: float,
        newest: CycleReading,
        deadline: float,
        traces_per_hour: Callable[[], Mapping[SeriesKey, float]],
    ) -> CycleReading | None:
        """Read the older traffic that series with little traffic need; a failure is logged and ignored."""
        seconds = self._settings.max_window_seconds - self._settings.window_seconds
        is_affordable = (self._reader.density or 0) * seconds <= self._settings.affordable_traces
        if seconds <= 0 or not is_affordable or not newest.sample.is_whole:
            return None
        try:
            return self._read(now, seconds, deadline, traces_per_hour)
        except TempoError as error:
            self._log.warning(
                "poll_history_failed",
                "cannot read traffic before the evaluation window; endpoints with little traffic are evaluated later",
                error=error,
            )
            return None

    def _read(
        self,
        now: float,
        back_seconds: float,
        deadline: float,
        traces_per_hour: Callable[[], Mapping[SeriesKey, float]],
    ) -> CycleReading:
        began = self._monotonic()
        reading = self._reader.read(
            int(now - back_seconds),
            int(now) + _FUTURE_SECONDS,
            lambda: self._stop.is_set() or self._monotonic() > deadline,
            traces_per_hour,
        )
        if not reading.sample.is_whole:
            self._quiet_log.info(
                "poll_sampled",
                "current traffic exceeds polling.max_traces_per_poll; an evenly spread sample is evaluated",
                traces_per_second=round(self._reader.density or 0),
                share=reading.sample.share,
            )
        if reading.splits:
            self._quiet_log.warning(
                "poll_saturated",
                "searches of current traffic hit their limit and were split; raise tempo.limit to need fewer",
                splits=reading.splits,
            )
        if reading.unread and not self._stop.is_set():
            self._telemetry.truncated("poll")
            message = (
                "current traffic cannot be read in time"
                if reading.overlap is None
                else "traces last longer than their requests, and more of them overlap one second than a search returns"
            )
            self._quiet_log.warning(
                "poll_truncated",
                f"{message}; part of current traffic is not evaluated; raise tempo.limit or lower "
                "polling.max_traces_per_poll",
                unread_ranges=reading.unread,
                traces=None if reading.overlap is None else reading.overlap.traces,
                began_there=None if reading.overlap is None else reading.overlap.began,
            )
        seconds = self._monotonic() - began
        return CycleReading(now, seconds, reading.spans, not reading.unread, reading.sample, reading.by_name)
