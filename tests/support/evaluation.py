"""A baseline manager over a store that tests control, and a sleep that only moves clocks."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from exporter.evaluation.baseline_table import BaselineTable
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import HistoryFacts
from exporter.evaluation.wakeup import HistorySignal, Wakeup
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.calendar import Calendar, HourClock
from exporter.model.ledger import LedgerProgress
from exporter.model.span import SeriesKey
from exporter.model.time_mark import NO_MARKS
from exporter.runtime.logs import get_logger
from exporter.store import SeriesEvaluation, Store, StoredSeries, StoreError
from tests.support.samples import DAY, HOUR, KEY, NOON, SETTINGS, Clock, Durations, around, commit_hour

UTC_CALENDAR: Final = Calendar()
STRICTER: Final = replace(SETTINGS, outlier=replace(SETTINGS.outlier, factor=3.0, k=100.0))
"""Settings under which stored tables of the default settings cannot be used."""


def ledger_status(done: int, pending: int = 0) -> BackfillStatus:
    """The state of a ledger in which some windows were read and some were not."""
    progress = LedgerProgress(
        pending=pending, done=done, empty=0, partial=0, failed=0, expired=0, traces_read=done, traces_there=done
    )
    return BackfillStatus(progress, progress, NOON - 7 * DAY, started_at=NOON - 60.0, completed_at=None)


class ScriptedWakeup(Wakeup):
    """Moves clocks instead of sleeping, and stops the loop after so many sleeps.

    Attributes:
        slept: the length of each sleep, in seconds; 0 where a wake-up was pending.
    """

    def __init__(
        self, clocks: Sequence[Clock], sleeps: int = 0, between: Callable[[int], None] = lambda sleep: None
    ) -> None:
        super().__init__()
        self._clocks = clocks
        self.sleeps = sleeps
        self.between = between
        self.slept: list[float] = []

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        is_woken = super().wait(0.0, stop)
        self.slept.append(0.0 if is_woken else seconds)
        for clock in self._clocks:
            clock.now += self.slept[-1]
        if len(self.slept) > self.sleeps:
            stop.set()
        else:
            self.between(len(self.slept))
        return is_woken


class WatchedStore(Store):
    """A store that remembers what was recorded, and fails on demand."""

    recorded: list[SeriesEvaluation]
    refuses_reads = False
    refuses_writes = False

    def history(
        self, keys: Iterable[SeriesKey], start: int, end: int, *, marks_from: int | None = None, at_once: int = 20
    ) -> Iterator[StoredSeries]:
        if self.refuses_reads:
            raise StoreError("locked", "reading the history failed")
        return super().history(keys, start, end, marks_from=marks_from, at_once=at_once)

    def save_evaluations(self, findings: Iterable[SeriesEvaluation]) -> None:
        if self.refuses_writes:
            raise StoreError("full", "recording failed")
        found = list(findings)
        self.__dict__.setdefault("recorded", []).extend(found)
        super().save_evaluations(found)

    def save_flags(
        self,
        flags: Mapping[SeriesKey, str | None],
        suspects: Mapping[SeriesKey, Collection[int]],
        firing: Mapping[SeriesKey, Mapping[str, float]] | None = None,
        at: float = 0.0,
    ) -> None:
        if self.refuses_writes:
            raise StoreError("full", "saving flags failed")
        super().save_flags(flags, suspects, firing, at)

    def take_recorded(self) -> list[SeriesEvaluation]:
        """The findings recorded since the last call."""
        taken = self.__dict__.pop("recorded", [])
        assert isinstance(taken, list)
        return taken


class ManagerBench:
    """A baseline manager with a ledger that has no gap before an instant.

    Attributes:
        settled_until: that instant; may be changed at any time.
        on_evaluation: called whenever the manager asks for that instant, before it evaluates or decides to.
        backfill: the state of the ledger; may be changed at any time.
        marks: marks on time; may be changed at any time.
        accepted: number of accepted changes.
        changes: number of calls of ``on_table_changed``.
    """

    def __init__(
        self,
        store: Store,
        settings: EvaluationSettings = SETTINGS,
        settled_until: int = NOON,
        patience_seconds: float = 0.0,
        calendar: Calendar = UTC_CALENDAR,
        monotonic: Clock | None = None,
    ) -> None:
        self.store = store
        self.settled_until = settled_until
        self.on_evaluation: Callable[[], None] = lambda: None
        self.backfill: BackfillStatus | None = None
        self.marks = NO_MARKS
        self.accepted = 0
        self.changes = 0
        self.monotonic = Clock(0.0) if monotonic is None else monotonic
        self.wakeup = ScriptedWakeup([self.monotonic])
        self.signal = HistorySignal(self.wakeup)
        self.manager = BaselineManager(
            store,
            HourClock(calendar),
            settings,
            settled_until=self._settled_until,
            on_accepted=self._accept,
            monotonic=self.monotonic,
            log=get_logger("test"),
            patience_seconds=patience_seconds,
            on_table_changed=self._change,
            backfill_status=lambda: self.backfill,
            signal=self.signal,
            marks=lambda: self.marks,
        )

    def _settled_until(self) -> int:
        self.on_evaluation()
        return self.settled_until

    def _accept(self) -> None:
        self.accepted += 1

    def _change(self) -> None:
        self.changes += 1

    def write(self, start: int, durations: Durations) -> None:
        """Commit an hour and notify the manager, as the backfill does."""
        commit_hour(self.store, start, durations)
        self.signal.notify_windows_written()

    def write_days(self, days: int, *, median: float = 0.1, until: int = NOON) -> None:
        """Write days of hours with even traffic of one series."""
        for start in range(until - days * DAY, until, HOUR):
            self.write(start, {KEY: around(median, 60)})

    def table(self, now: float) -> BaselineTable:
        """What the poller gets at an instant, after the manager had time to open the table."""
        self.manager.open_table(now)
        return self.manager.table(now)

    def facts(self) -> HistoryFacts:
        return self.manager.facts()

    def run(self, sleeps: int, clock: Clock, between: Callable[[int], None] = lambda sleep: None) -> None:
        """Run the manager's loop through so many sleeps; ``between`` is called during each."""
        self.wakeup.slept.clear()
        self.wakeup.sleeps, self.wakeup.between = sleeps, between
        self.manager.run(threading.Event(), clock)
