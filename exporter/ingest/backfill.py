"""The ledger's loop: reads every settled window once, newest first, and goes on doing so for ever.

First start, restart after an outage and steady state are the same: whatever the ledger lacks of the wanted range is
read. A few workers take batches of windows, newest first; each batch is committed with its digests in one transaction.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from itertools import compress
from typing import Final, Protocol

from exporter.ingest.backfill_log import BackfillLog
from exporter.ingest.backfill_queue import OpenWork, Plan
from exporter.ingest.backfill_status import BackfillStatus
from exporter.ingest.exact_reader import Searcher
from exporter.ingest.ledger_entries import failed_entries, read_entries, skipped
from exporter.ingest.retention import RetentionProber
from exporter.ingest.series_filter import SeriesFilter
from exporter.ingest.settings import BackfillSettings
from exporter.ingest.tempo_counts import CountSource, TempoCounts
from exporter.ingest.window_reader import BatchResult, WindowReader
from exporter.model.calendar import HOUR_SECONDS, Calendar
from exporter.model.ledger import (
    LONGEST_SEARCH_SECONDS,
    Batch,
    BatchRules,
    LedgerEntry,
    Wanted,
    Window,
    WindowState,
    wanted,
)
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Telemetry
from exporter.store import Store, StoreError
from exporter.tempo.errors import StoppedError, TempoError

_LONGEST_WAIT_SECONDS: Final = 60
"""How long an idle worker sleeps at most: a clock that was set, or a machine that slept, is noticed by then."""

_LOOK_SECONDS: Final = 1.0
_SHORTEST_WAIT_SECONDS: Final = 0.05
_COUNTED_SECONDS: Final = 24 * HOUR_SECONDS
"""How far back one question for counts reaches, where Tempo lets it: also over windows that were read, to see whether
more has come since."""


class BackfillSource(Searcher, CountSource, Protocol):
    """Tempo, as far as the ledger's loop needs it."""


class CommitListener(Protocol):
    """Is told of windows that were written, from a worker's thread."""

    def __call__(self, entries: Sequence[LedgerEntry], /) -> None:
        """Take note; must not raise."""


class Backfill:
    """Fills the ledger."""

    def __init__(
        self,
        searcher: BackfillSource,
        store: Store,
        admission: SeriesFilter,
        calendar: Calendar,
        settings: BackfillSettings,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        stop: threading.Event,
        log: Log,
        on_commit: CommitListener = lambda entries: None,  # noqa: ARG005
    ) -> None:
        """Load the ledger; :meth:`run` does the work.

        Args:
            searcher: Tempo.
            store: the history.
            admission: decides which series are kept.
            calendar: where the local hours begin.
            settings: what is wanted.
            telemetry: is told what happens.
            clock: Unix seconds.
            monotonic: seconds that never jump, for durations and pauses.
            stop: ends :meth:`run` soon once set.
            log: takes a line for every window.
            on_commit: is told of windows that were written.

        Raises:
            StoreError: the ledger cannot be read.
        """
        self._searcher = searcher
        self._counts = TempoCounts(searcher, telemetry, monotonic, log)
        self._reader = WindowReader(searcher, self._counts, admission, telemetry, settings.budget)
        self._store = store
        self._admission = admission
        self._calendar = calendar
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._monotonic = monotonic
        self._stop = stop
        self._report = BackfillLog(log, calendar, monotonic)
        self._on_commit = on_commit
        range_ = self._wanted()
        plan = Plan(range_, store.ledger(range_.start, range_.end), calendar)
        self._work = OpenWork(plan, store, self._report, clock=clock, monotonic=monotonic)
        self._absence = RetentionProber(searcher, self._work, self._report, clock)

    @property
    def status(self) -> BackfillStatus:
        """Where the ledger stood after the last change."""
        return self._work.status

    def settled_until(self) -> int:
        """Up to when the ledger has no gap, Unix seconds."""
        with self._work.changed:
            return self._work.plan.settled_until

    def run(self, *, patience: int | None = None) -> None:
        """Read what the ledger lacks.

        Args:
            patience: by default it goes on until stopped, as windows settle. With a number it returns as soon as
                there is nothing left that can be read now, or after so many failed batches in a row.
        """
        with self._work.changed:
            self._work.publish()
        workers = [
            threading.Thread(target=self._worker, args=(patience,), name=f"backfill-{number}", daemon=True)
            for number in range(self._settings.max_concurrency)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            # In steps: a signal that comes as a wait begins is not handled before the wait is over.
            while worker.is_alive():
                worker.join(_LOOK_SECONDS)

    def wake(self) -> None:
        """Let idle workers look around now: it is time to stop, or a clock was moved."""
        with self._work.changed:
            self._work.changed.notify_all()

    # A worker's life

    def _worker(self, patience: int | None) -> None:
        while not self._stop.is_set():
            self._follow_clock()
            with self._work.changed:
                # Asked once more, since whoever says stop wakes only those who are waiting already.
                if self._stop.is_set():
                    return
                if patience is not None and self._nothing_to_wait_for(patience):
                    self._work.changed.notify_all()
                    return
                batch: Batch | None = None
                doubtful: Sequence[LedgerEntry] = ()
                unprobed = self._absence.take()
                if not unprobed and not self._work.resting_seconds:
                    if patience is None and (late := self._work.plan.reread(self._clock())):
                        self._report.read_again(late)
                    batch = self._work.plan.take(self._clock(), self._batch_rules(), self._counts.of)
                    if batch is None and patience is None:
                        doubtful = self._work.plan.doubt(self._clock())
                if not (unprobed or batch or doubtful):
                    self._work.changed.wait(self._pause_seconds())
                    continue
            if batch is not None:
                self._read(batch)
            elif doubtful:
                self._absence.ask_again(doubtful)
            else:
                self._absence.find_oldest(unprobed)

    def _follow_clock(self) -> None:
        """What is wanted moves on with the clock, and what is too old is forgotten."""
        try:
            with self._work.changed:
                range_, before = self._wanted(), self._work.plan.range
                if range_ == before:
                    return
                set_back = range_.start < before.start
                known = self._store.ledger(range_.start, before.start) if set_back else ()
                self._work.plan.advance(range_, known, now=self._clock())
                self._work.publish()
            pruned = self._store.prune(int(self._clock() - self._settings.retention_seconds))
            self._admission.forget(pruned.series)
        except StoreError as error:
            self._report.not_followed(error)

    def _nothing_to_wait_for(self, patience: int) -> bool:
        if self._work.plan.in_hand or self._absence.probing:
            return False
        return self._work.failures_in_a_row >= patience or not self._work.plan.readable(self._clock())

    def _batch_rules(self) -> BatchRules:
        return BatchRules(
            limit=self._searcher.max_limit,
            most_traces=self._settings.budget.traces,
            usual_windows=max(1, int(self._settings.batch_seconds) // HOUR_SECONDS),
            longest_seconds=self._searcher.max_range_seconds or LONGEST_SEARCH_SECONDS,
        )

    def _pause_seconds(self) -> float:
        due = self._work.plan.seconds_until_due(self._clock(), self._settings.settle_seconds)
        return min(_LONGEST_WAIT_SECONDS, max(_SHORTEST_WAIT_SECONDS, self._work.resting_seconds or due))

    # Reading

    def _read(self, batch: Batch) -> None:
        began = self._monotonic()
        unread = set(batch.windows)
        try:
            for part in self._reader.read(self._counted(batch), self._stop.is_set):
                if self._stop.is_set():
                    break
                self._keep(part, self._monotonic() - began)
                unread.difference_update(content.window for content in part.contents)
                began = self._monotonic()
        except StoppedError:
            self._release(batch)
        except TempoError as error:
            if self._stop.is_set():
                self._release(batch)
            else:
                self._fail(batch, unread, str(error))
        except StoreError as error:
            self._report.not_stored(error)
            self._release(batch, failed=True)
        except Exception as error:  # noqa: BLE001
            # A defect of ours must neither end the loop nor go unseen.
            self._report.unexpected(batch.windows)
            self._fail(batch, unread, repr(error))
        else:
            self._release(batch)

    def _counted(self, batch: Batch) -> Batch:
        """The batch with what Tempo says it holds, where it does."""
        with self._work.changed:
            others = self._work.plan.near(batch.end, _COUNTED_SECONDS)
        if self._counts.learn(batch.windows, others):
            with self._work.changed:
                self._work.plan.doubt_counts(self._counts.of, self._clock())
        counts = [self._counts.of(window) for window in batch.windows]
        known = [count for count in counts if count is not None]
        return batch if len(known) < len(counts) else Batch(batch.windows, sum(known))

    def _keep(self, part: BatchResult, seconds: float) -> None:
        """Write what was read within some seconds.

        Raises:
            StoreError: it was not written.
        """
        with self._work.changed:
            plan, windows = self._work.plan, [content.window for content in part.contents]
            before = list(map(plan.standing, windows))
            rereads, asked = list(map(plan.rereads, windows)), list(map(plan.asked, windows))
        entries = read_entries(part, self._counts.compare, rereads, asked, seconds=seconds, now=self._clock())
        # Read once more and less was there: what stands in the database is the better part.
        better = [
            earlier is None or earlier.traces <= entry.traces for earlier, entry in zip(before, entries, strict=True)
        ]
        self._store.commit(list(compress(entries, better)), list(compress(part.contents, better)))
        entries = [
            earlier if earlier and not kept else entry
            for earlier, entry, kept in zip(before, entries, better, strict=True)
        ]
        for reason, count in skipped(part.contents).items():
            self._telemetry.traces_skipped("backfill", reason, count)
        self._report.read(entries, part, self._searcher.max_limit)
        for entry in entries:
            if entry.state is WindowState.PARTIAL:
                self._telemetry.truncated("backfill")
        with self._work.changed:
            self._work.succeeded()
            self._work.note(entries)
        self._on_commit(list(compress(entries, better)))

    def _fail(self, batch: Batch, unread: Collection[Window], error: str) -> None:
        windows = [window for window in batch.windows if window in unread] or batch.windows
        self._report.failed(windows, error)
        with self._work.changed:
            # What was read before, and was only to be completed, stays as it is.
            before = list(filter(None, map(self._work.plan.before, windows)))
            self._work.note(before)
            known = {entry.window for entry in before}
            windows = [window for window in windows if window not in known]
            entries = failed_entries(windows, self._work.plan.attempts, error, now=self._clock())
        self._work.record(entries)
        self._release(batch, failed=True)

    def _release(self, batch: Batch, *, failed: bool = False) -> None:
        with self._work.changed:
            self._work.plan.give_back(batch.windows)
            if failed:
                self._work.rest()
            self._work.changed.notify_all()

    def _wanted(self) -> Wanted:
        return wanted(
            self._clock(),
            self._calendar,
            duration_seconds=self._settings.duration_seconds,
            settle_seconds=self._settings.settle_seconds,
            batch_seconds=self._settings.batch_seconds,
        )
