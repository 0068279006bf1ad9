"""Reads from the live edge what one poll cycle needs."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from exporter.evaluation.live.edge import newest_lag
from exporter.evaluation.live.reread_schedule import FUTURE_SECONDS, RereadSchedule
from exporter.evaluation.settings import PollSettings
from exporter.ingest.live_reader import LiveReader
from exporter.ingest.sampling import TimeSample
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import SkipReason, Telemetry
from exporter.tempo.errors import TempoError

_REPEAT_SECONDS: Final = 600
_OLDER_SECONDS: Final = 30
"""How long the first cycle reads traffic before the evaluation window. Nothing is published until it ends."""
_HALF_LIFE_SECONDS: Final = 600
"""After this time, spans count for half in ratios."""


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
        ranges: what was searched, Unix seconds, newest first; empty in the first cycle, which reads all it can.
        received: spans fetched, used or not.
        ended: spans among them that ended in the range that was searched.
        is_cut_short: whether something was left unread because the time or the budget was spent.
        searched: what was searched in any cycle, Unix seconds.
        missed: the parts of it of which nothing was read, except for series read by name.
    """

    at: float
    seconds: float
    spans: Sequence[Span]
    is_complete: bool
    sample: TimeSample
    by_name: frozenset[SeriesKey]
    ranges: Sequence[tuple[int, int]] = ()
    received: int = 0
    ended: int = 0
    is_cut_short: bool = False
    searched: Sequence[tuple[int, int]] = ()
    missed: Sequence[tuple[int, int]] = ()

    def without_spans(self) -> "CycleReading":
        """Return a copy that can be kept without the memory for the spans."""
        return replace(self, spans=())

    def is_thinner_than(self, other: "CycleReading") -> bool:
        """Whether some series is sampled at a smaller share than in another reading."""
        return self.sample.share < other.sample.share or not other.by_name <= self.by_name


class _Amplification:
    """How often spans are fetched, over the last minutes."""

    def __init__(self) -> None:
        self._at = 0.0
        self._fetched = self._wanted = self._received = self._ended = 0.0

    def add(self, reading: CycleReading, new: int, unwanted: int) -> None:
        """Add a cycle: how many spans it found that are new, and how many of series that are not evaluated."""
        factor = 0.5 ** (max(0.0, reading.at - self._at) / _HALF_LIFE_SECONDS)
        self._at = reading.at
        self._fetched = self._fetched * factor + max(0, reading.received - unwanted)
        self._wanted = self._wanted * factor + new
        self._received = self._received * factor + reading.received
        self._ended = self._ended * factor + reading.ended

    @property
    def ratio(self) -> float | None:
        """Spans fetched for each one evaluated; None until one was."""
        return self._fetched / self._wanted if self._wanted else None

    @property
    def overhead(self) -> float:
        """Spans fetched by a search for each one that ended in its range: long traces are found in others, too."""
        return self._received / self._ended if self._ended else 1.0


class CycleReader:
    """Decides what a cycle reads, and reports what could not be read."""

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
        self._schedule = RereadSchedule(
            settings.interval_seconds,
            settings.lookback_seconds,
            max(settings.max_window_seconds, settings.remembered_seconds),
        )
        self._amplification = _Amplification()

    @property
    def amplification(self) -> float | None:
        """Spans fetched for each one evaluated, over the last minutes; None until one was."""
        return self._amplification.ratio

    @property
    def searchable_seconds(self) -> float:
        """Age at which nearly all spans are searchable."""
        return self._schedule.searchable_seconds + self._settings.interval_seconds

    def read(self, now: float, traces_per_hour: Callable[[], Mapping[SeriesKey, float]]) -> CycleReading:
        """Read what is due of the live edge; before the first :meth:`finish`, the whole evaluation window.

        Args:
            now: Unix seconds.
            traces_per_hour: the usual traffic of each series; called only if the traffic must be sampled.

        Raises:
            StoppedError: the exporter is shutting down.
            TempoError: a search failed.
        """
        settings, began = self._settings, self._monotonic()
        if self._schedule.settled is None:
            deadline = began + 2 * settings.window_seconds
            newest = self._read(now, _back(now, settings.window_seconds), deadline, traces_per_hour)
            older = self._read_older(now - settings.window_seconds, newest, traces_per_hour)
            if older is not None:
                newest = replace(
                    newest,
                    spans=[*newest.spans, *older.spans],
                    sample=older.sample,
                    by_name=older.by_name,
                    received=newest.received + older.received,
                    ended=newest.ended + older.ended,
                    searched=[*newest.searched, *older.searched],
                    missed=[*newest.missed, *older.missed],
                )
            return replace(newest, ranges=(), seconds=self._monotonic() - began)
        # After a pause (the machine slept, Tempo was down) this is all that was missed, so that the window has no hole.
        return self._read(now, self._schedule.ranges(now), began + settings.interval_seconds, traces_per_hour)

    def finish(self, reading: CycleReading, new: Mapping[int, int], skipped: Mapping[SkipReason, int]) -> None:
        """Note that a cycle's spans are counted, so that they need not be read again, and learn how late they were.

        Args:
            reading: what the cycle read.
            new: number of spans that were new, by the second in which they ended.
            skipped: number of skipped spans by reason.
        """
        unwanted = skipped.get("filtered", 0) + skipped.get("series_limit", 0)
        self._amplification.add(reading, sum(new.values()), unwanted)
        if not reading.ranges:
            self._schedule.start(reading.at, reading.at - self._settings.window_seconds)
            return
        delays = self._schedule.finish(
            reading.at,
            reading.ranges,
            new,
            is_complete=not reading.is_cut_short,
            share=reading.sample.share,
            overhead=self._amplification.overhead,
        )
        if delays:
            self._telemetry.searchable_delays(delays)

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
        # Later traces may be found by a later cycle.
        until = int(now - settings.lookback_seconds - settings.interval_seconds)
        if self._schedule.settled is not None:
            until = min(until, self._schedule.settled - 1)
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
        traces_per_hour: Callable[[], Mapping[SeriesKey, float]],
    ) -> CycleReading | None:
        """Read the older traffic that series with little traffic need, as far as time allows.

        A failure is logged and ignored.
        """
        seconds = self._settings.max_window_seconds - self._settings.window_seconds
        is_affordable = (self._reader.density or 0) * seconds <= self._settings.affordable_traces
        if seconds <= 0 or not is_affordable or not newest.sample.is_whole:
            return None
        deadline = self._monotonic() + _OLDER_SECONDS
        try:
            return self._read(now, _back(now, seconds), deadline, traces_per_hour, kind="older traffic")
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
        ranges: Sequence[tuple[int, int]],
        deadline: float,
        traces_per_hour: Callable[[], Mapping[SeriesKey, float]],
        kind: str = "current traffic",
    ) -> CycleReading:
        began = self._monotonic()
        reading = self._reader.read(
            ranges,
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
                f"{kind} cannot be read in time"
                if reading.overlap is None
                else "traces last longer than their requests, and more of them overlap one second than a search returns"
            )
            self._quiet_log.warning(
                "poll_truncated",
                f"{message}; part of {kind} is not evaluated; raise tempo.limit or lower polling.max_traces_per_poll",
                per=kind,
                unread_ranges=reading.unread,
                traces=None if reading.overlap is None else reading.overlap.traces,
                began_there=None if reading.overlap is None else reading.overlap.began,
            )
        seconds = self._monotonic() - began
        return CycleReading(
            at=now,
            seconds=seconds,
            spans=reading.spans,
            is_complete=not reading.unread,
            sample=reading.sample,
            by_name=reading.by_name,
            ranges=ranges,
            received=reading.received,
            ended=reading.ended,
            is_cut_short=reading.is_cut_short,
            searched=ranges,
            missed=reading.missed,
        )


def _back(now: float, seconds: float) -> list[tuple[int, int]]:
    return [(int(now - seconds), int(now) + FUTURE_SECONDS)]
