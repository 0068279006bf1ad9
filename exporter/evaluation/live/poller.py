"""The poll cycle: read the live edge, evaluate every series, publish a snapshot.

Seconds are read several times because traces arrive late; each span is counted once. A cycle that takes longer than the
interval skips ticks instead of queueing them. While Tempo does not answer, nothing is evaluated and flags stay as they
are.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from exporter.detection.flag import SeriesFlags
from exporter.detection.regression.verdict import Regression
from exporter.evaluation.baseline_table import BaselineTable
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.evaluation.live.cycle_reader import CycleReader, CycleReading
from exporter.evaluation.live.edge import (
    MIN_LATE_TRACES,
    UNKNOWN_EDGE,
    EdgeReading,
    advance_edge,
    expected_traces,
)
from exporter.evaluation.live.evaluator import LiveEvaluator
from exporter.evaluation.live.flag_log import FlagLog
from exporter.evaluation.live.services import LiveServices
from exporter.evaluation.live.time_lost import ReadingWeights
from exporter.evaluation.regression_version import RegressionVersion
from exporter.evaluation.settings import PollSettings
from exporter.evaluation.snapshot import HistoryFacts, SeriesStatus, ServiceStatus, Snapshot
from exporter.evaluation.wakeup import Wakeup
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.ingest.live_reader import LiveReader
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Telemetry
from exporter.tempo.errors import StoppedError, TempoError

_REPEAT_SECONDS: Final = 600
_MEASURE_SECONDS: Final = 60
"""Minimum time between two searches for traces that arrived late."""
_JUMP_SECONDS: Final = 10
"""If the clock gains or loses more than this between cycles, it was set or the machine slept."""


class BaselineSource(Protocol):
    """What the poller needs of the stored history."""

    def table(self, now: float) -> BaselineTable:
        """The baseline table for an instant. Must not raise, and must return within a few seconds."""

    def facts(self) -> HistoryFacts:
        """Totals of the stored history, at least as recent as the table."""


class FlagSink(Protocol):
    """Where the poller saves flags."""

    def save(
        self, flags: Mapping[SeriesKey, SeriesFlags], suspects: Mapping[SeriesKey, tuple[int, ...]], at: float
    ) -> None:
        """Save changed flags and suspect hours. Must not raise."""


class VersionSource(Protocol):
    """What looks for the versions with which regressions began, in a thread of its own."""

    def of(self, key: SeriesKey, regression: Regression) -> RegressionVersion | None:
        """What is known of a present regression. Must not block."""

    def observe(self, regressions: Mapping[SeriesKey, Regression]) -> None:
        """Take the present regressions. Must not block."""


class CauseSource(Protocol):
    """What looks for the causes of shifts, in a thread of its own."""

    @property
    def causes(self) -> Mapping[SeriesKey, ShiftCause]:
        """The causes that are known by now. Must not block."""

    @property
    def pending(self) -> AbstractSet[SeriesKey]:
        """The shifts whose cause is being looked for. Must not block."""

    def observe(self, shifts: Sequence[Shift]) -> None:
        """Take the shifts that fire now. Must not block."""


class IncidentSink(Protocol):
    """What keeps the incidents."""

    def observe(self, statuses: Sequence[SeriesStatus], now: float) -> tuple[SeriesStatus, ...]:
        """Continue the incidents with the flags that fire, and return the series with their parts in them."""

    def save(self) -> None:
        """Save what has changed. Must not raise."""


class _History(NamedTuple):
    """The stored history's part of a snapshot, taken at one moment."""

    table: BaselineTable
    facts: HistoryFacts
    backfill: BackfillStatus | None


class Poller:
    """Runs poll cycles."""

    def __init__(
        self,
        reader: LiveReader,
        live: LiveEvaluator,
        baselines: BaselineSource,
        flags: FlagSink,
        publish: Callable[[Snapshot], None],
        settings: PollSettings,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        stop: threading.Event,
        log: Log,
        on_clock_jump: Callable[[], None] = lambda: None,
        on_new_table: Callable[[], None] = lambda: None,
        backfill_status: Callable[[], BackfillStatus | None] = lambda: None,
        wakeup: Wakeup | None = None,
        causes: CauseSource | None = None,
        versions: VersionSource | None = None,
        incidents: IncidentSink | None = None,
        services: LiveServices | None = None,
    ) -> None:
        """Connect the parts; nothing is read yet.

        Args:
            reader: reads the live edge.
            live: evaluates it.
            baselines: the baselines and totals of the stored history.
            flags: saves flags over a restart.
            publish: swaps a snapshot in.
            settings: how the live edge is read.
            telemetry: counts what is left out.
            clock: Unix seconds.
            monotonic: seconds that never jump.
            stop: ends :meth:`run` soon once set.
            log: receives flags, outages and shortfalls.
            on_clock_jump: called when the clock was set or the machine slept.
            on_new_table: called after the first snapshot that uses a new baseline table.
            backfill_status: the present state of the ledger; None if backfill is disabled.
            wakeup: ends the pauses of :meth:`run`.
            causes: looks for the causes of shifts; None where that is disabled.
            versions: looks for the versions with which regressions began; None where that is disabled.
            incidents: keeps the incidents; None where there are none.
            services: judges services as a whole; None where they are not judged.
        """
        self._incidents = incidents
        self._services = services
        self._causes = causes
        self._versions = versions
        self._reader = CycleReader(reader, settings, telemetry, monotonic=monotonic, stop=stop, log=log)
        self._live = live
        self._baselines = baselines
        self._flags = flags
        self._publish = publish
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._monotonic = monotonic
        self._stop = stop
        self._log = log
        self._quiet_log = log.limited(_REPEAT_SECONDS, monotonic)
        self._flag_log = FlagLog(log, monotonic)
        self._on_clock_jump = on_clock_jump
        self._on_new_table = on_new_table
        self._backfill_status = backfill_status
        self._wakeup = Wakeup() if wakeup is None else wakeup
        self._published_table: BaselineTable | None = None
        self._published_backfill: BackfillStatus | None = None
        self._clock_ahead = clock() - monotonic()
        self._last_reading: CycleReading | None = None
        self._weights = ReadingWeights(settings.remembered_seconds)
        self._edge = UNKNOWN_EDGE
        self._measured_at: float | None = None
        self._outage_began: float | None = None
        self._is_outage_logged = False

    # The loop

    def run(self) -> None:
        """Run cycles until stopped."""
        due = self._monotonic()
        while not self._stop.is_set():
            self._check_clock()
            try:
                self.cycle()
            except Exception:  # noqa: BLE001 - a bug must neither end the loop nor go unnoticed
                if self._stop.is_set():
                    return
                self._log.exception("poll_crashed", "a poll cycle failed unexpectedly")
            due = self._next_due(due)
            if self._wakeup.wait(max(0.0, due - self._monotonic()), self._stop):
                # What was published is out of date. Later ticks count from here.
                due = self._monotonic()

    def wake(self) -> None:
        """Run the next cycle at once: the baselines or the ledger have changed. Thread-safe."""
        self._wakeup.set()

    def _next_due(self, due: float) -> float:
        interval = self._settings.interval_seconds
        due += interval
        late = self._monotonic() - due
        if late > 0:
            skipped = int(late // interval) + 1
            due += skipped * interval
            self._quiet_log.warning(
                "poll_skipped",
                "a poll cycle took longer than polling.tempo_interval; cycles are skipped",
                skipped=skipped,
                interval=interval,
            )
        return due

    def _check_clock(self) -> None:
        """Detect a clock that was set and a machine that slept: the monotonic clock does not move with either."""
        ahead = self._clock() - self._monotonic()
        jumped, self._clock_ahead = ahead - self._clock_ahead, ahead
        if abs(jumped) > _JUMP_SECONDS:
            self._log.warning(
                "clock_jumped", "the clock jumped, or this machine slept; the gap is read", seconds=jumped
            )
            self._on_clock_jump()

    def cycle(self) -> bool:
        """Run one cycle; returns whether all of the live edge was read."""
        # Reading may need the table. Waiting for it here keeps the wait out of the time that reading takes.
        self._baselines.table(self._clock())
        began, now = self._monotonic(), self._clock()
        try:
            reading = self._reader.read(now, lambda: self._live.traces_per_hour(self._baselines.table(now)))
        except StoppedError:
            return False
        except TempoError as error:
            self._log_outage(began, error)
            self._publish_unevaluated(now, str(error))
            return False
        if self._stop.is_set():
            return False
        self._log_recovery()
        try:
            self._evaluate(reading)
        except StoppedError:
            return False
        return reading.is_complete

    def _log_outage(self, began: float, error: TempoError) -> None:
        if self._outage_began is None:
            self._outage_began, self._is_outage_logged = began, False
        self._is_outage_logged |= self._quiet_log.warning(
            "poll_failed", "cannot read current traffic; nothing is evaluated until Tempo answers", error=error
        )

    def _log_recovery(self) -> None:
        """Log the end of an outage whose beginning was logged."""
        if self._outage_began is not None and self._is_outage_logged:
            self._log.info(
                "poll_recovered",
                "Tempo answers again; current traffic is evaluated",
                after_seconds=round(self._monotonic() - self._outage_began),
            )
        self._outage_began = None

    # Evaluation

    def _evaluate(self, reading: CycleReading) -> None:
        began = self._monotonic()
        last, self._last_reading = self._last_reading, reading.without_spans()
        history = self._history(reading.at)
        if last is not None and reading.is_thinner_than(last):
            self._live.thin(reading.sample, reading.by_name)
        self._weights.add(reading.at, reading.searched, reading.sample, reading.by_name, reading.missed)
        skipped = self._live.add_spans(reading.spans, reading.at, history.table, self._weights)
        for reason, count in skipped.items():
            self._telemetry.traces_skipped("poll", reason, count)
        self._reader.finish(reading, self._live.arrivals.new, skipped)
        self._live.traffic.cover(reading.searched, reading.missed, reading.sample.share)
        self._follow_edge(reading, history.table, last)
        if self._edge.blind:
            statuses = self._live.hold_blind(reading.at, history.table)
            self._publish_snapshot(statuses, self._held_services(), reading.at, began, history)
            self._announce(history.table)
            return
        result = self._live.tick(reading.at, history.table, lag_seconds=self._reader.searchable_seconds)
        self._flag_log.write(result.changes)
        self._flags.save(result.flags, result.suspects, reading.at)
        services: tuple[ServiceStatus, ...] = ()
        if self._services is not None:
            services = self._services.tick(result.statuses, history.table, reading.at)
        self._publish_snapshot(result.statuses, services, reading.at, began, history)
        self._announce(history.table)

    def _announce(self, table: BaselineTable) -> None:
        if table is not self._published_table:
            self._published_table = table
            self._on_new_table()

    def _follow_edge(self, reading: CycleReading, table: BaselineTable, last: CycleReading | None) -> None:
        """Find out whether current traffic is found at all, and log a change."""
        settings, arrivals = self._settings, self._live.arrivals
        expected = expected_traces(table, settings.window_seconds, reading.at - settings.stale_after_seconds)
        seen = EdgeReading(
            at=reading.at,
            ended=self._live.ended_in_window(reading.at),
            expected=None if expected is None else expected * reading.sample.share,
            newest_at=arrivals.newest_at,
        )
        if seen.is_dark:
            # A cycle after a pause, as the first one, reads far back, so old traces are no surprise.
            was_paused = last is None or reading.at - last.at > settings.max_pause_seconds
            seen = replace(seen, lag_seconds=self._lag(reading.at, was_paused=was_paused))
        before, self._edge = (
            self._edge,
            advance_edge(
                self._edge,
                seen,
                hold_seconds=2 * settings.interval_seconds,
                silence_seconds=settings.max_window_seconds,
            ),
        )
        if self._edge.blind and not before.blind:
            lag = self._edge.lag_seconds
            self._log.warning(
                "live_edge_blind",
                "reading Tempo succeeds, but next to nothing of the usual traffic is current; shifts are not "
                "detected. If Tempo finds traces late, raise polling.tempo_lookback above it, and "
                "detection.window if the lag exceeds it; otherwise check whether traces reach Tempo, and the clocks",
                lag_seconds=None if lag is None else round(lag),
                lookback_seconds=round(settings.lookback_seconds),
                traces=seen.ended,
                usual_traces=None if seen.expected is None else round(seen.expected),
            )
        elif before.blind and not self._edge.blind:
            self._log.info("live_edge_recovered", "current traffic is found again; it is evaluated", traces=seen.ended)

    def _lag(self, now: float, *, was_paused: bool) -> float | None:
        """How late traces become searchable, if the last cycle or a search for them proves that they do."""
        arrivals = self._live.arrivals
        if arrivals.newest_new_at is not None and sum(arrivals.new.values()) >= MIN_LATE_TRACES and not was_paused:
            lag = now - arrivals.newest_new_at
            if lag > self._settings.window_seconds:
                return lag
        if self._measured_at is not None and 0 <= now - self._measured_at < _MEASURE_SECONDS:
            return None
        self._measured_at = now
        return self._reader.late_trace_seconds(now, arrivals.newest_at)

    def _history(self, now: float) -> _History:
        """Take the table, the totals and the state of the ledger that belong together."""
        # Every change that caused a wake-up by now is in what follows.
        self._wakeup.clear()
        # The ledger first: every window that it counts is in the store already, and in any table built from now on.
        backfill = self._backfill_status()
        table = self._baselines.table(now)
        facts = self._baselines.facts()
        self._published_backfill = self._consistent(backfill, table)
        return _History(table, facts, self._published_backfill)

    def _consistent(self, backfill: BackfillStatus | None, table: BaselineTable) -> BackfillStatus | None:
        """The state of the ledger that may be published beside a table.

        A complete ledger is published only beside a table that covers it. Until then the state published before stays,
        or that of the table itself.
        """
        if backfill is None:
            return None
        for status in (backfill, self._published_backfill):
            if status is not None and (not status.progress.complete or table.covers(status)):
                return status
        return table.backfill

    # Publishing

    def _publish_unevaluated(self, now: float, read_error: str) -> None:
        """Publish baselines while Tempo does not answer, with the last verdicts as long as their window counts."""
        began = self._monotonic()
        last_read_at = None if self._last_reading is None else self._last_reading.at
        is_recent = last_read_at is not None and now - last_read_at <= self._settings.window_seconds
        history = self._history(now)
        statuses = self._live.hold(last_read_at if is_recent else None, now, history.table)
        self._publish_snapshot(statuses, self._held_services(), last_read_at, began, history, read_error)

    def _held_services(self) -> tuple[ServiceStatus, ...]:
        """Return the services whose flags fire, while nothing is evaluated."""
        return () if self._services is None else self._services.hold()

    def _publish_snapshot(
        self,
        statuses: tuple[SeriesStatus, ...],
        services: tuple[ServiceStatus, ...],
        evaluated_at: float | None,
        began: float,
        history: _History,
        read_error: str | None = None,
    ) -> None:
        reading = self._last_reading
        statuses = _with_services(statuses, services)
        if self._causes is not None:
            statuses = _with_causes(statuses, self._causes.causes)
        if self._versions is not None:
            statuses = _with_versions(statuses, self._versions)
        if self._incidents is not None:
            statuses = self._incidents.observe(statuses, self._clock())
        if self._causes is not None:
            at = self._clock() if evaluated_at is None else evaluated_at
            self._causes.observe(_shifts(statuses, at, 1.0 if reading is None else reading.sample.share))
            statuses = _with_pending(statuses, self._causes.pending)
        source = self._live.traffic.source if read_error is None and not self._edge.blind else None
        snapshot = Snapshot(
            evaluated_at=evaluated_at,
            build_seconds=self._monotonic() - began,
            series=statuses,
            poll_seconds=None if reading is None else reading.seconds,
            poll_share=None if reading is None else reading.sample.share,
            poll_read_amplification=self._reader.amplification,
            history=history.facts,
            read_error=read_error,
            edge=self._edge,
            source_traffic_ratio=None if source is None else source.ratio,
            has_baselines=history.table.is_built,
            backfill=history.backfill,
            durations=self._live.durations(self._clock()),
            services=services,
        )
        self._publish(snapshot)
        if self._incidents is not None:
            self._incidents.save()


def _with_services(statuses: tuple[SeriesStatus, ...], services: Sequence[ServiceStatus]) -> tuple[SeriesStatus, ...]:
    """Add the shifts of whole services to their series."""
    shifted = {service.key: service for service in services if service.firing}
    if not shifted:
        return statuses
    return tuple(
        status if (service := shifted.get(ServiceKey.of(status.key))) is None else replace(status, service=service)
        for status in statuses
    )


def _with_causes(statuses: tuple[SeriesStatus, ...], known: Mapping[SeriesKey, ShiftCause]) -> tuple[SeriesStatus, ...]:
    """Add the causes that are known to the firing flags; the cause of an earlier shift is not that of this one."""
    if not known:
        return statuses
    return tuple(
        replace(status, cause=cause)
        if status.shift and (cause := known.get(status.key)) is not None and cause.shift.since == status.since
        else status
        for status in statuses
    )


def _with_versions(statuses: tuple[SeriesStatus, ...], versions: VersionSource) -> tuple[SeriesStatus, ...]:
    """Add with which version each regression began, and have those looked for that are new."""
    regressions = {status.key: status.regression for status in statuses if status.regression is not None}
    versions.observe(regressions)
    if not regressions:
        return statuses
    return tuple(
        status
        if status.regression is None
        else replace(status, regression_version=versions.of(status.key, status.regression))
        for status in statuses
    )


def _with_pending(statuses: tuple[SeriesStatus, ...], pending: AbstractSet[SeriesKey]) -> tuple[SeriesStatus, ...]:
    """Mark the firing flags that may still turn out to belong to an incident."""
    if not pending:
        return statuses
    return tuple(
        replace(status, is_cause_pending=True)
        if status.shift and status.incident is None and status.key in pending
        else status
        for status in statuses
    )


def _shifts(statuses: Sequence[SeriesStatus], at: float, share: float) -> list[Shift]:
    """Return the shifts that fire; ``share`` is the share of the traces that is read."""
    return [
        Shift(
            status.key,
            at,
            status.since,
            status.score or 0.0,
            None if status.current_traces is None else status.current_traces / share,
            in_incident=status.incident is not None,
            traffic_ratio=None if status.current_traffic is None else status.current_traffic.verdict.evidence.ratio,
        )
        for status in statuses
        if status.shift and status.since is not None
    ]
