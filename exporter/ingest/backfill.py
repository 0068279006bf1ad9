"""The backfill: reads every settled window once, newest first, and keeps doing so as windows settle.

First start, restart after an outage and steady state are the same: workers read the windows of the wanted range that
the ledger lacks. Each batch of windows is committed with its digests in one transaction.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from exporter.ingest.backfill_log import BackfillLog
from exporter.ingest.backfill_queue import (
    BackfillQueue,
    BackfillStatus,
    ConfirmEmpty,
    Finished,
    LateCheck,
    ProbeRetention,
    ReadBatch,
    Wait,
)
from exporter.ingest.exact_reader import Budget, SearchClient
from exporter.ingest.late_spans import LateChecker, LatePolicy
from exporter.ingest.ledger_entries import failed_entries, read_outcomes, skipped, store_entries
from exporter.ingest.retention import RetentionProber
from exporter.ingest.series_filter import SeriesFilter
from exporter.ingest.tempo_counts import CountClient, TempoCounts
from exporter.ingest.window_reader import BatchResult, WindowReader
from exporter.ingest.window_table import WindowRecord
from exporter.model.accumulator import WindowContent
from exporter.model.calendar import HOUR_SECONDS, Calendar
from exporter.model.histogram import Digest
from exporter.model.ledger import (
    LONGEST_SEARCH_SECONDS,
    Batch,
    BatchRules,
    LedgerEntry,
    LedgerProgress,
    Wanted,
    Window,
    WindowState,
    next_batch,
    wanted,
)
from exporter.model.span import SeriesKey
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Loop, Telemetry
from exporter.store import Store, StoreError
from exporter.tempo.errors import StoppedError, TempoError

_JOIN_SECONDS: Final = 1.0
_COUNTED_SECONDS: Final = 24 * HOUR_SECONDS
"""How far back one count request reaches where Tempo allows it. It includes windows that were read, to find those with
more traces by now."""

_MOST_LATE_SHARE: Final = 0.9
"""Share of the wanted history within which late spans are looked for at most."""


@dataclass(frozen=True, slots=True)
class BackfillSettings:
    """Which history is wanted and how it is read; the configuration reference explains each setting."""

    duration_seconds: float
    batch_seconds: float
    settle_seconds: float
    retention_seconds: float
    max_concurrency: int
    budget: Budget
    late_seconds: float = 0
    lookback_seconds: float = 0


class BackfillClient(SearchClient, CountClient, Protocol):
    """Tempo, as far as the backfill needs it."""

    def why_empty(self, start: int, end: int, *, loop: Loop) -> str:
        """Say in one sentence why searches of a range may find nothing; raises TempoError."""


class ContentListener(Protocol):
    """Called with what windows of the record held and hold, from a worker's thread."""

    def __call__(
        self,
        before: Mapping[Window, Mapping[SeriesKey, Digest]],
        contents: Sequence[WindowContent],
        entries: Sequence[LedgerEntry],
        /,
    ) -> None:
        """Take note; must not raise."""


class CommitListener(Protocol):
    """Called with the entries of windows whose digests were committed, from a worker's thread."""

    def __call__(self, entries: Sequence[LedgerEntry], /) -> None:
        """Take note; must not raise."""


class Backfill:
    """Fills the ledger with a few worker threads."""

    def __init__(
        self,
        client: BackfillClient,
        store: Store,
        series_filter: SeriesFilter,
        calendar: Calendar,
        settings: BackfillSettings,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        stop: threading.Event,
        log: Log,
        on_commit: CommitListener = lambda entries: None,  # noqa: ARG005
        on_complete: Callable[[], None] = lambda: None,
        on_content: ContentListener | None = None,
    ) -> None:
        """Load the ledger; :meth:`run` does the work.

        Args:
            client: Tempo.
            store: the history.
            series_filter: decides which series are kept.
            calendar: has the grid at which windows are cut.
            settings: which history is wanted.
            telemetry: counts what is read.
            clock: Unix seconds.
            monotonic: seconds that never jump, for durations and pauses.
            stop: ends :meth:`run` soon once set.
            log: gets an event for every window.
            on_commit: called after windows were written.
            on_complete: called when nothing settled is left unread for the first time; must not block.
            on_content: called after windows were written, with what they held before and hold now.

        Raises:
            StoreError: the ledger cannot be read.
        """
        self._client = client
        self._counts = TempoCounts(client, telemetry, monotonic, log)
        self._reader = WindowReader(client, self._counts, series_filter, telemetry, settings.budget)
        self._store = store
        self._series_filter = series_filter
        self._calendar = calendar
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._monotonic = monotonic
        self._stop = stop
        self._log = BackfillLog(log, calendar, monotonic)
        self._on_commit = on_commit
        self._on_content = on_content
        self._on_complete = on_complete
        self._empty_reason: str | None = None
        self._late = LatePolicy(
            # The last check comes before a window leaves the wanted range.
            min(settings.late_seconds, _MOST_LATE_SHARE * settings.duration_seconds),
            settings.lookback_seconds,
        )
        range_ = self._wanted()
        self._queue = BackfillQueue(
            range_,
            store.ledger(range_.start, range_.end),
            calendar,
            settle_seconds=settings.settle_seconds,
            clock=clock,
            monotonic=monotonic,
            first_late_check=self._first_late_check,
            on_complete=self._complete,
        )
        self._prober = RetentionProber(client, self._queue, store, self._log, clock)
        self._late_checker = LateChecker(
            client,
            self._queue,
            store,
            self._counts,
            series_filter,
            self._late,
            self._log,
            clock,
            self._reread,
            stop.is_set,
        )

    @property
    def status(self) -> BackfillStatus:
        """State of the backfill after the last change; never blocks."""
        return self._queue.status

    def settled_until(self) -> int:
        """The instant before which the ledger has no gap that is waited for, in Unix seconds."""
        return self._queue.settled_until()

    def run(self, *, patience: int | None = None) -> None:
        """Read what the ledger lacks.

        Args:
            patience: by default this runs until stopped. With a number it is a single pass, which ends when nothing is
                left that can be read now, or after this many failed batches in a row.
        """
        self._queue.publish_status()
        workers = [
            threading.Thread(target=self._work, args=(patience,), name=f"backfill-{number}", daemon=True)
            for number in range(self._settings.max_concurrency)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            # In steps, because Python handles a signal that arrives as a wait begins only after the wait.
            while worker.is_alive():
                worker.join(_JOIN_SECONDS)

    def wake(self) -> None:
        """Let idle workers look for work, or stop, at once: the exporter is being stopped, or the clock was set."""
        self._queue.wake()

    @property
    def empty_reason(self) -> str | None:
        """Why all of history may be empty, in one sentence; None unless it was when backfill first completed."""
        return self._empty_reason

    def _complete(self, progress: LedgerProgress, traces: int, seconds: float) -> None:
        self._log.complete(progress, traces, seconds)
        if progress.is_empty:
            range_ = self._queue.range
            try:
                self._empty_reason = self._client.why_empty(range_.start, range_.end, loop="backfill")
            except (TempoError, StoppedError) as error:
                self._empty_reason = f"check tempo.tenant, tempo.filter and tempo.scope ({error})"
            self._log.empty(progress, self._empty_reason)
        self._on_complete()

    # A worker

    def _work(self, patience: int | None) -> None:
        while not self._stop.is_set():
            self._follow_clock()
            match self._queue.take(self._batch_rules(), self._counts.of, patience=patience):
                case ReadBatch() as work:
                    self._read(work)
                case ProbeRetention() as work:
                    self._prober.probe(work)
                case ConfirmEmpty() as work:
                    self._prober.confirm(work)
                case LateCheck() as work:
                    self._late_checker.check(work)
                case Wait() as work:
                    # A stop before this check has no sleeper to wake; a later one ends the wait.
                    if not self._stop.is_set():
                        self._queue.wait(work)
                case Finished():
                    return

    def _follow_clock(self) -> None:
        """Move the wanted range with the clock, and delete what is older than the retention."""
        before, range_ = self._queue.range, self._wanted()
        if range_ == before:
            return
        try:
            # After the clock was set back, the ledger knows more of the range than the queue.
            known = self._store.ledger(range_.start, before.start) if range_.start < before.start else ()
            if self._queue.advance(range_, known, replacing=before):
                pruned = self._store.prune(int(self._clock() - self._settings.retention_seconds))
                self._series_filter.forget(pruned.series)
        except StoreError as error:
            self._log.ledger_not_advanced(error)

    def _batch_rules(self) -> BatchRules:
        return BatchRules(
            limit=self._client.max_limit,
            most_traces=self._settings.budget.traces,
            usual_windows=max(1, int(self._settings.batch_seconds) // HOUR_SECONDS),
            longest_seconds=self._client.max_range_seconds or LONGEST_SEARCH_SECONDS,
        )

    # Reading a batch

    def _read(self, work: ReadBatch) -> None:
        if work.reread:
            self._log.reread(work.reread)
        unread = {record.window: record for record in work.records}
        try:
            # What Tempo counted when a window was read for the first time may have been wrong, or too early.
            self._counts.renew([record.window for record in work.records if record.is_reread])
            for windows in self._read_and_keep(work.batch, dict(unread)):
                for window in windows:
                    del unread[window]
        except StoppedError:
            self._queue.release(unread)
        except TempoError as error:
            if self._stop.is_set():
                self._queue.release(unread)
            else:
                self._fail(unread, str(error))
        except StoreError as error:
            self._log.windows_not_stored(error)
            self._queue.release(unread, failed=True)
        except Exception as error:  # noqa: BLE001 - a defect must neither end the loop nor go unnoticed
            self._log.crashed(work.batch.windows)
            self._fail(unread, repr(error))
        else:
            self._queue.release(unread)

    def _reread(self, records: Sequence[WindowRecord]) -> Iterator[Sequence[Window]]:
        """Read windows once more for their late spans; yields those that were written.

        Raises:
            TempoError: a search failed.
            StoppedError: the exporter is being stopped.
            StoreError: windows could not be written.
        """
        unread = {record.window: record for record in records}
        while unread and not self._stop.is_set():
            known = [record.entry for record in records if record.entry is not None]
            batch = next_batch(sorted(unread, reverse=True), known, self._batch_rules(), self._counts.of)
            yield from self._read_and_keep(batch, {window: unread.pop(window) for window in batch.windows})

    def _read_and_keep(self, batch: Batch, records: Mapping[Window, WindowRecord]) -> Iterator[Sequence[Window]]:
        """Read the windows of a batch and write them; yields those that were written. Raises as `_reread`."""
        began_at, began = self._clock(), self._monotonic()
        for result in self._reader.read(self._counted(batch), self._stop.is_set):
            if self._stop.is_set():
                break
            windows = [content.window for content in result.contents]
            kept = self._keep(
                result, [records[window] for window in windows], began_at=began_at, seconds=self._monotonic() - began
            )
            yield windows
            self._on_commit(kept)
            began_at, began = self._clock(), self._monotonic()

    def _counted(self, batch: Batch) -> Batch:
        """Return the batch with the number of traces that Tempo counts in it, if it does."""
        if self._counts.learn(batch.windows, self._queue.windows_before(batch.end, _COUNTED_SECONDS)):
            self._queue.schedule_rereads(self._counts.of)
        counts = [self._counts.of(window) for window in batch.windows]
        known = [count for count in counts if count is not None]
        return batch if len(known) < len(counts) else Batch(batch.windows, sum(known))

    def _keep(
        self, result: BatchResult, records: Sequence[WindowRecord], *, began_at: float, seconds: float
    ) -> Sequence[LedgerEntry]:
        """Write windows that were read; returns the entries written.

        Raises:
            StoreError: nothing was written.
        """
        outcomes = read_outcomes(
            result,
            records,
            self._counts.verified,
            self._late,
            began_at=began_at,
            seconds=seconds,
            now=self._clock(),
            is_all_empty=self._queue.status.progress.has_no_traces,
        )
        kept = [outcome.entry for outcome in outcomes if outcome.is_kept]
        contents = [outcome.content for outcome in outcomes if outcome.is_kept]
        before = {} if self._on_content is None else self._store.window_digests([each.window for each in contents])
        self._store.commit(kept, contents)
        if self._on_content is not None:
            self._on_content(before, contents, kept)
        if len(kept) < len(outcomes):
            self._store.update_late([outcome.entry for outcome in outcomes if not outcome.is_kept])
        entries = [outcome.entry for outcome in outcomes]
        for outcome in outcomes:
            if outcome.is_kept:
                self._counts.leave_out(outcome.content.window, outcome.left_out)
        for reason, count in skipped(result.contents).items():
            self._telemetry.traces_skipped("backfill", reason, count)
        self._log.read(entries, result, self._client.max_limit)
        for entry in entries:
            if entry.state is WindowState.PARTIAL:
                self._telemetry.truncated("backfill")
        self._queue.complete(entries)
        return kept

    def _fail(self, unread: Mapping[Window, WindowRecord], error: str) -> None:
        """Record that windows could not be read; one that was only to be completed stays as it is."""
        if unread:
            self._log.failed(list(unread), error)
        stored = [record.stored for record in unread.values() if record.is_reread and record.stored is not None]
        others = [record for record in unread.values() if not record.is_reread]
        failed = failed_entries(others, error, now=self._clock())
        store_entries(self._store, failed, self._log)
        self._queue.fail([*stored, *failed])

    def _first_late_check(self, entry: LedgerEntry, now: float) -> float | None:
        if self._late.is_last(entry.window, now):
            return None
        return self._late.next_check(entry.window, entry.read_at, only_last=entry.state is WindowState.PARTIAL)

    def _wanted(self) -> Wanted:
        return wanted(
            self._clock(),
            self._calendar,
            duration_seconds=self._settings.duration_seconds,
            settle_seconds=self._settings.settle_seconds,
            batch_seconds=self._settings.batch_seconds,
        )
