"""Manager and poller in their own threads while a first backfill completes."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import pytest

from exporter.evaluation.flag_store import FlagStore
from exporter.evaluation.live.evaluator import LiveEvaluator
from exporter.evaluation.live.poller import Poller
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.settings import PollSettings
from exporter.evaluation.snapshot import Snapshot
from exporter.evaluation.wakeup import HistorySignal, Wakeup
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.ingest.exact_reader import Budget
from exporter.ingest.live_reader import LiveReader
from exporter.model.calendar import Calendar, HourClock
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.store import Store
from tests.support.evaluation import ledger_status
from tests.support.fakes import FakeTempo, Recorder
from tests.support.samples import DAY, HOUR, NOON, SETTINGS, Clock, around, commit_hour

NOW: Final = NOON + 1800.0
KEYS: Final = [SeriesKey("shop", f"GET /{number}") for number in range(12)]
HOURS: Final = range(NOON - 7 * DAY, NOON, HOUR)
DEADLINE_SECONDS: Final = 60.0
# The next regular cycle is an hour away.
POLL: Final = PollSettings(
    interval_seconds=3600.0, lookback_seconds=120.0, window_seconds=300.0, max_window_seconds=3600.0,
    affordable_traces=50_000, budget=Budget(20_000, 50),
)  # fmt: skip


@dataclass
class Ledger:
    """What the backfill has read so far."""

    status: BackfillStatus
    settled_until: int = HOURS.start


class Exporter:
    """A manager and a poller that run, and the snapshots that they publish."""

    def __init__(self, store: Store) -> None:
        self.ledger = Ledger(ledger_status(done=0, pending=len(HOURS)))
        self.snapshots: list[Snapshot] = []
        self._stop = threading.Event()
        log, telemetry, tempo = get_logger("test"), Recorder(), FakeTempo()
        self.signal = HistorySignal()
        poll_now = Wakeup()
        self.manager = BaselineManager(
            store,
            HourClock(Calendar()),
            SETTINGS,
            settled_until=lambda: self.ledger.settled_until,
            on_accepted=lambda: None,
            monotonic=time.monotonic,
            log=log,
            on_table_changed=poll_now.set,
            signal=self.signal,
            backfill_status=lambda: self.ledger.status,
        )
        self._poller = Poller(
            LiveReader(tempo, telemetry, POLL.budget, poll_seconds=120, hold_seconds=300),
            LiveEvaluator(SETTINGS, lambda key: key, started_at=NOW, remembered_seconds=330, flags={}),
            self.manager,
            FlagStore(store, monotonic=time.monotonic, log=log),
            self.snapshots.append,
            POLL,
            telemetry,
            clock=Clock(NOW),
            monotonic=time.monotonic,
            stop=self._stop,
            log=log,
            backfill_status=lambda: self.ledger.status,
            wakeup=poll_now,
        )
        self._threads = [
            threading.Thread(target=self.manager.run, args=(self._stop, Clock(NOW))),
            threading.Thread(target=self._poller.run),
        ]
        for thread in self._threads:
            thread.start()

    def wait_until(self, is_reached: Callable[[Snapshot], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.snapshots or not is_reached(self.snapshots[-1]):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive()


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store.in_memory()
    yield store
    store.close()


@pytest.fixture
def exporter(store: Store) -> Iterator[Exporter]:
    exporter = Exporter(store)
    yield exporter
    exporter.close()


def is_complete(snapshot: Snapshot) -> bool:
    return snapshot.backfill is not None and snapshot.backfill.progress.complete


def test_baselines_are_published_at_once_and_together_with_the_complete_ledger(
    store: Store, exporter: Exporter
) -> None:
    exporter.wait_until(lambda snapshot: snapshot.has_baselines)
    for done, start in enumerate(reversed(HOURS), 1):
        commit_hour(store, start, {key: around(0.1, 20) for key in KEYS})
        if start == HOURS.start:
            exporter.ledger.settled_until = NOON
        exporter.ledger.status = ledger_status(done=done, pending=len(HOURS) - done)
        exporter.signal.notify_windows_written()
    exporter.ledger.status = replace(exporter.ledger.status, completed_at=NOW)
    exporter.signal.notify_backfill_complete()
    exporter.wait_until(is_complete)
    for snapshot in exporter.snapshots:
        if is_complete(snapshot):
            assert snapshot.history.windows == len(HOURS)
            assert [status.key for status in snapshot.series] == sorted(KEYS)
            assert all(status.baseline is not None and status.shift is False for status in snapshot.series)
