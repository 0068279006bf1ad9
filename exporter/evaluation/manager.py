"""Keeps the baseline table of the current hour up to date, in a thread beside the poller.

The table of the current hour comes first. Once it is there, settled hours are evaluated and the table is renewed as
history arrives, at a bounded share of one processor. Shortly before the hour ends, the next table is prepared.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from exporter import __version__
from exporter.evaluation.baseline_table import BaselineCache, BaselineTable
from exporter.evaluation.history import HistoryEvaluator
from exporter.evaluation.service_history import ServiceHistory
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import HistoryFacts
from exporter.evaluation.table_builder import BaselineTableBuilder
from exporter.evaluation.wakeup import HistorySignal
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.calendar import HourClock, LocalHour
from exporter.model.time_mark import NO_MARKS, TimeMarks
from exporter.runtime.logs import Log
from exporter.store import Store, StoreError

_PREPARE_SECONDS: Final = 300
"""The next table is prepared this long before its hour starts."""
_LOOK_SECONDS: Final = 2.0
_PAUSE_AFTER_FAILURE_SECONDS: Final = 60.0
_PAUSE_WITHOUT_TABLE_SECONDS: Final = 10.0
"""Shorter, because after a failure the poller has no table for the hour."""
_MAX_PAUSE_SECONDS: Final = 300.0
_REPEAT_SECONDS: Final = 600.0
_WORK_SHARE: Final = 0.1
"""Renewals during a backfill use at most this share of one processor."""


def _never() -> bool:
    return False


class BaselineManager:
    """Schedules the work on baseline tables and hands out the current one.

    :meth:`run` and the methods it calls belong to one thread; everything else is thread-safe.
    """

    def __init__(
        self,
        store: Store,
        hour_clock: HourClock,
        settings: EvaluationSettings,
        *,
        settled_until: Callable[[], int],
        on_accepted: Callable[[], None],
        monotonic: Callable[[], float],
        log: Log,
        basis: str = "",
        patience_seconds: float = 0.0,
        on_table_changed: Callable[[], None] = lambda: None,
        backfill_status: Callable[[], BackfillStatus | None] = lambda: None,
        signal: HistorySignal | None = None,
        marks: Callable[[], TimeMarks] = lambda: NO_MARKS,
    ) -> None:
        """Count the stored history; nothing is evaluated and there is no table yet.

        Args:
            store: the history.
            hour_clock: local hours.
            settings: what a verdict depends on.
            settled_until: the instant before which the ledger has no gap, Unix seconds; later hours are not evaluated.
            on_accepted: called for each lasting change that was accepted as the new baseline.
            monotonic: seconds that never jump.
            log: receives the progress of the evaluation.
            basis: identifies what a table depends on besides the history and the settings: the calendar.
            patience_seconds: how long :meth:`table` waits in total for the table of each hour.
            on_table_changed: called when a table should be published without waiting for the next poll: a reader has
                missed it, or it is the first that covers a complete ledger. Not for every renewal: during a backfill
                those may follow each other within seconds, and each poll costs Tempo several searches.
            backfill_status: the present state of the ledger; None if backfill is disabled.
            signal: announces changes of the history and of marks, and ends the pauses of :meth:`run`.
            marks: returns what people know about ranges of time.
        """
        self._hour_clock = hour_clock
        self._monotonic = monotonic
        self._log = log
        self._quiet_log = log.limited(_REPEAT_SECONDS, monotonic)
        detector = settings.detector(hour_clock)
        services = ServiceHistory(store, hour_clock)
        self._builder = BaselineTableBuilder(
            store,
            detector,
            HistoryEvaluator(
                store,
                detector,
                on_accepted,
                log,
                self._quiet_log,
                marks=marks,
                on_evaluated=services.note_evaluated,
                on_deleted=services.note_deleted,
            ),
            settings,
            settled_until=settled_until,
            basis=f"{__version__} {settings!r} {basis}",
            quiet_log=self._quiet_log,
            marks=marks,
            services=services,
        )
        self._on_table_changed = on_table_changed
        self._backfill_status = backfill_status
        self._signal = HistorySignal() if signal is None else signal
        self._cache = BaselineCache(patience_seconds, monotonic, self._log_missed)
        self._facts = HistoryFacts()
        self._count_history()

    # For the poller

    def table(self, now: float) -> BaselineTable:
        """The baseline table for an instant.

        If the table of its hour is not there within the patience, the table of another hour stays in use; before the
        first one it is :data:`.baseline_table.EMPTY_TABLE`.

        Args:
            now: Unix seconds.
        """
        return self._cache.get(self._hour_clock.hour(int(now)).start)

    def has_table(self, now: float) -> bool:
        """Whether the table of the hour of an instant is in use or prepared."""
        return self._has_table(now)

    def facts(self) -> HistoryFacts:
        """Totals of the stored history; at least as recent as the table in use."""
        return self._facts

    # The scheduler

    def run(self, stop: threading.Event, clock: Callable[[], float]) -> None:
        """Keep the table up to date until stopped.

        Args:
            stop: ends the loop soon once set.
            clock: Unix seconds.
        """
        try:
            self._run(stop, clock)
        finally:
            self._cache.close()

    def _run(self, stop: threading.Event, clock: Callable[[], float]) -> None:
        def has_table() -> bool:
            return self._has_table(clock())

        resume_at = retry_at = self._monotonic()
        while True:
            began = self._monotonic()
            is_renewed = False
            try:
                if began < retry_at:
                    pass
                elif not has_table():
                    self.open_table(clock(), stop.is_set)
                elif (began >= resume_at or self._signal.is_urgent) and self._is_behind(clock()):
                    # This may take minutes. If the hour turns in between, its table comes first.
                    is_renewed = self.catch_up(clock(), lambda: stop.is_set() or not has_table())
                else:
                    self.prepare_next_table(clock(), stop.is_set)
            except StoreError as error:
                self._quiet_log.error(
                    "baseline_failed", "cannot build baselines; keeping the previous ones", error=error
                )
                retry_at = began + (_PAUSE_AFTER_FAILURE_SECONDS if has_table() else _PAUSE_WITHOUT_TABLE_SECONDS)
            except Exception:  # noqa: BLE001 - a bug must neither end the loop nor go unnoticed
                self._log.exception("baseline_crashed", "building baselines failed unexpectedly")
                retry_at = began + _PAUSE_AFTER_FAILURE_SECONDS
            if is_renewed:
                ended = self._monotonic()
                resume_at = ended + min(_MAX_PAUSE_SECONDS, (ended - began) * (1 / _WORK_SHARE - 1))
            self._signal.wakeup.wait(_LOOK_SECONDS, stop)
            if stop.is_set():
                return

    def open_table(self, now: float, should_stop: Callable[[], bool] = _never) -> None:
        """Put the table of the current hour into use unless it is: the stored one, or a new one.

        Args:
            now: Unix seconds.
            should_stop: asked before each series; once true, nothing changes.

        Raises:
            StoreError: the database cannot be read.
        """
        if self._has_table(now):
            return
        hour = self._hour(now)
        began = self._monotonic()
        backfill = self._backfill_status()
        is_counted = self._count_history()
        # A restart need not wait for a new build: the next catch-up renews the stored table. That covers what was read
        # when it was built, which may be less than what was stored when the process ended.
        table = stored = self._load(hour, backfill)
        if stored is not None:
            backfill = stored.backfill
        else:
            is_urgent = self._signal.take()
            try:
                table = self._builder.build(hour, should_stop)
            except BaseException:
                self._signal.put_back(is_urgent=is_urgent)
                raise
        if stored is not None or table is None or not self._builder.is_evaluated(hour):
            self._signal.notify_windows_written()
        if table is None:
            return
        table = self._labelled(table, backfill, is_counted=is_counted)
        covers_more = self._is_first_complete(table)
        is_missed = self._cache.put(table)
        if is_missed:
            seconds = round(self._monotonic() - began, 1)
            self._log.info("baseline_ready", "baseline for this hour is ready", seconds=seconds)
        if is_missed or covers_more:
            self._on_table_changed()
        if stored is None:
            self._builder.save(table)

    def catch_up(self, now: float, should_stop: Callable[[], bool] = _never) -> bool:
        """Evaluate the hours that have settled, and renew the table of the current hour.

        Args:
            now: Unix seconds.
            should_stop: once true, what is evaluated by then is kept and the table is not renewed.

        Returns:
            Whether everything was done.

        Raises:
            StoreError: the database failed.
        """
        backfill = self._backfill_status()
        is_urgent = self._signal.take()
        table: BaselineTable | None = None
        try:
            table = self._builder.evaluate_and_build(self._hour(now), should_stop)
        finally:
            if table is None:
                self._signal.put_back(is_urgent=is_urgent)
        if table is None:
            return False
        # Counted before the table is put into use, so that no snapshot shows new baselines beside old totals.
        table = self._labelled(table, backfill, is_counted=self._count_history())
        covers_more = self._is_first_complete(table)
        if not self._cache.renew(table):
            # The hour has turned, and the table in use was built from older history.
            self._signal.notify_windows_written()
        elif covers_more:
            self._on_table_changed()
        self._builder.save(table)
        return True

    def prepare_next_table(self, now: float, should_stop: Callable[[], bool] = _never) -> None:
        """Build the table of the next hour if that starts soon.

        Args:
            now: Unix seconds.
            should_stop: asked before each series; once true, nothing is prepared.

        Raises:
            StoreError: the database cannot be read.
        """
        hour = self._hour(now)
        if hour.end - now > _PREPARE_SECONDS or self._has_table(hour.end):
            return
        backfill = self._backfill_status()
        table = self._builder.build(self._hour_clock.hour(hour.end), should_stop)
        if table is None:
            return
        table = self._labelled(table, backfill, is_counted=self._count_history())
        self._cache.prepare(table)
        self._builder.save(table)

    def _load(self, hour: LocalHour, backfill: BackfillStatus | None) -> BaselineTable | None:
        """Load the stored table of an hour; None if it does not tell what it covers of a ledger."""
        table = self._builder.load(hour)
        if table is None or backfill is None:
            return table
        if table.backfill is None:
            return None
        # The times are those of this process.
        covered = replace(table.backfill, started_at=backfill.started_at, completed_at=backfill.completed_at)
        return replace(table, backfill=covered)

    def _hour(self, now: float) -> LocalHour:
        return self._hour_clock.hour(int(now))

    def _has_table(self, now: float) -> bool:
        return self._cache.has(self._hour(now).start)

    def _is_behind(self, now: float) -> bool:
        """Whether there is history that the table in use does not cover."""
        status = self._backfill_status()
        if status is not None and status.progress.complete and not self._cache.current.covers(status):
            return True
        # If backfill is disabled, hours settle without a notification.
        return self._signal.has_news or not self._builder.is_evaluated(self._hour(now))

    def _labelled(self, table: BaselineTable, backfill: BackfillStatus | None, *, is_counted: bool) -> BaselineTable:
        """Record in a table which state of the ledger it covers; without new totals, no newer one than before."""
        return replace(table, backfill=backfill if is_counted else self._cache.current.backfill)

    def _is_first_complete(self, table: BaselineTable) -> bool:
        """Whether a table covers a complete ledger and the table in use does not."""
        status = table.backfill
        return status is not None and status.progress.complete and not self._cache.current.covers(status)

    def _count_history(self) -> bool:
        try:
            self._facts = self._builder.count_history()
        except StoreError as error:
            self._quiet_log.error("history_stats_failed", "cannot count the stored history", error=error)
            return False
        return True

    def _log_missed(self, table: BaselineTable) -> None:
        self._log.info(
            "baseline_pending",
            "the baselines for this hour are being built; until then the previous ones are used"
            if table.is_built
            else "the baselines for this hour are being built; until then there are no baselines and no verdicts",
        )
