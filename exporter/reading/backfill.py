"""The ledger's loop: reads every settled window once, newest first, and goes on doing so for ever.

First start, restart after an outage and steady state are the same: whatever the ledger lacks of the wanted range is
read. A few workers take batches of windows, newest first; each batch is committed with its digests in one transaction.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import compress
from typing import Final, Protocol

from exporter.core.civil import HOUR_SECONDS, Calendar
from exporter.core.ledger import (
    LONGEST_SEARCH_SECONDS,
    Batch,
    BatchRules,
    LedgerEntry,
    Wanted,
    Window,
    WindowState,
    wanted,
)
from exporter.logs import Log
from exporter.reading.admission import Admission
from exporter.reading.counts import Counter, SourceCounts
from exporter.reading.exact import Searcher
from exporter.reading.outcome import confirmed_entries, expired_entries, failed_entries, read_entries, skipped
from exporter.reading.plan import Plan
from exporter.reading.report import Report
from exporter.reading.retention import any_trace, expired_windows
from exporter.reading.settings import BackfillSettings
from exporter.reading.status import BackfillStatus
from exporter.reading.window import Part, WindowReader
from exporter.store import Store, StoreError
from exporter.telemetry import Telemetry
from exporter.tempo.errors import StoppedError, TempoError

_LONGEST_WAIT_SECONDS: Final = 60
"""How long an idle worker sleeps at most: a clock that was set, or a machine that slept, is noticed by then."""

_LOOK_SECONDS: Final = 1.0
_SHORTEST_WAIT_SECONDS: Final = 0.05
_LONGEST_BREAK_SECONDS: Final = 60
_COUNTED_SECONDS: Final = 24 * HOUR_SECONDS
"""How far back one question for counts reaches, where Tempo lets it: also over windows that were read, to see whether
more has come since."""
_PROBE_FROM_WINDOWS: Final = 12
"""Fewer windows than this are read as fast as Tempo's retention is probed."""


class Source(Searcher, Counter, Protocol):
    """Tempo, as far as the ledger's loop needs it."""


class CommitListener(Protocol):
    """Is told of windows that were written, from a worker's thread."""

    def __call__(self, entries: Sequence[LedgerEntry], /) -> None:
        """Take note; must not raise."""


class Backfill:
    """Fills the ledger."""

    def __init__(
        self,
        searcher: Source,
        store: Store,
        admission: Admission,
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
        self._counts = SourceCounts(searcher, telemetry, monotonic, log)
        self._reader = WindowReader(searcher, self._counts, admission, telemetry, settings.budget)
        self._store = store
        self._admission = admission
        self._calendar = calendar
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._monotonic = monotonic
        self._stop = stop
        self._report = Report(log, calendar, monotonic)
        self._on_commit = on_commit

        # All below is guarded by this condition, on which idle workers wait.
        self._changed = threading.Condition()
        range_ = self._wanted()
        self._plan = Plan(range_, store.ledger(range_.start, range_.end), calendar)
        self._probing = False
        self._probed_from: int | None = None
        self._failures_in_a_row = 0
        self._resume_at = monotonic()
        self._status = self._status_with(clock(), completed_at=None)

    @property
    def status(self) -> BackfillStatus:
        """Where the ledger stood after the last change."""
        return self._status

    def settled_until(self) -> int:
        """Up to when the ledger has no gap, Unix seconds."""
        with self._changed:
            return self._plan.settled_until

    def run(self, *, patience: int | None = None) -> None:
        """Read what the ledger lacks.

        Args:
            patience: by default it goes on until stopped, as windows settle. With a number it returns as soon as
                there is nothing left that can be read now, or after so many failed batches in a row.
        """
        with self._changed:
            self._publish()
        workers = [
            threading.Thread(target=self._work, args=(patience,), name=f"backfill-{number}", daemon=True)
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
        with self._changed:
            self._changed.notify_all()

    # A worker's life

    def _work(self, patience: int | None) -> None:
        while not self._stop.is_set():
            self._follow_clock()
            with self._changed:
                # Asked once more, since whoever says stop wakes only those who are waiting already.
                if self._stop.is_set():
                    return
                if patience is not None and self._nothing_to_wait_for(patience):
                    self._changed.notify_all()
                    return
                batch: Batch | None = None
                doubtful: Sequence[LedgerEntry] = ()
                unprobed = self._worth_probing()
                if unprobed:
                    self._probing = True
                elif self._monotonic() >= self._resume_at:
                    if patience is None and (late := self._plan.reread(self._clock())):
                        self._report.read_again(late)
                    batch = self._plan.take(self._clock(), self._batch_rules(), self._counts.of)
                    if batch is None and patience is None:
                        doubtful = self._plan.doubt(self._clock())
                if not (unprobed or batch or doubtful):
                    self._changed.wait(self._pause_seconds())
                    continue
            if batch is not None:
                self._read(batch)
            elif doubtful:
                self._ask_again(doubtful)
            else:
                self._find_oldest(unprobed)

    def _follow_clock(self) -> None:
        """What is wanted moves on with the clock, and what is too old is forgotten."""
        try:
            with self._changed:
                range_, before = self._wanted(), self._plan.range
                if range_ == before:
                    return
                set_back = range_.start < before.start
                self._plan.advance(range_, self._store.ledger(range_.start, before.start) if set_back else ())
                self._publish()
            pruned = self._store.prune(int(self._clock() - self._settings.retention_seconds))
            self._admission.forget(pruned.series)
        except StoreError as error:
            self._report.not_followed(error)

    def _nothing_to_wait_for(self, patience: int) -> bool:
        if self._plan.in_hand or self._probing:
            return False
        return self._failures_in_a_row >= patience or not self._plan.readable(self._clock())

    def _batch_rules(self) -> BatchRules:
        return BatchRules(
            limit=self._searcher.max_limit,
            most_traces=self._settings.budget.traces,
            usual_windows=max(1, int(self._settings.batch_seconds) // HOUR_SECONDS),
            longest_seconds=self._searcher.max_range_seconds or LONGEST_SEARCH_SECONDS,
        )

    def _pause_seconds(self) -> float:
        due = self._plan.seconds_until_due(self._clock(), self._settings.settle_seconds)
        rest = self._resume_at - self._monotonic()
        return min(_LONGEST_WAIT_SECONDS, max(_SHORTEST_WAIT_SECONDS, rest if rest > 0 else due))

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
        with self._changed:
            others = self._plan.near(batch.end, _COUNTED_SECONDS)
        if self._counts.learn(batch.windows, others):
            with self._changed:
                self._plan.doubt_counts(self._counts.of, self._clock())
        counts = [self._counts.of(window) for window in batch.windows]
        known = [count for count in counts if count is not None]
        return batch if len(known) < len(counts) else Batch(batch.windows, sum(known))

    def _keep(self, part: Part, seconds: float) -> None:
        """Write what was read within some seconds.

        Raises:
            StoreError: it was not written.
        """
        with self._changed:
            before = [self._plan.before(content.window) for content in part.contents]
            rereads = [self._plan.rereads(content.window) for content in part.contents]
        entries = read_entries(part, self._counts.compare, rereads, seconds=seconds, now=self._clock())
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
        with self._changed:
            self._failures_in_a_row = 0
            self._note(entries)
        self._on_commit(list(compress(entries, better)))

    def _fail(self, batch: Batch, unread: Collection[Window], error: str) -> None:
        windows = [window for window in batch.windows if window in unread] or batch.windows
        self._report.failed(windows, error)
        with self._changed:
            # What was read before, and was only to be completed, stays as it is.
            before = list(filter(None, map(self._plan.before, windows)))
            self._note(before)
            known = {entry.window for entry in before}
            windows = [window for window in windows if window not in known]
            entries = failed_entries(windows, self._plan.attempts, error, now=self._clock())
        self._record(entries)
        self._release(batch, failed=True)

    def _release(self, batch: Batch, *, failed: bool = False) -> None:
        with self._changed:
            self._plan.give_back(batch.windows)
            if failed:
                self._rest()
            self._changed.notify_all()

    def _rest(self) -> None:
        """After a failure let everything rest a little, longer each time in a row: Tempo may be down."""
        self._failures_in_a_row += 1
        pause = min(_LONGEST_BREAK_SECONDS, 2 ** min(self._failures_in_a_row - 1, 10))
        self._resume_at = self._monotonic() + pause

    # Tempo's retention

    def _worth_probing(self) -> Sequence[Window]:
        """The windows never tried, if there are so many that it is worth asking first where Tempo's traces begin."""
        if self._probing or self._monotonic() < self._resume_at:
            return ()
        untouched = self._plan.untouched()
        if len(untouched) < _PROBE_FROM_WINDOWS or untouched[0].start == self._probed_from:
            return ()
        return untouched

    def _find_oldest(self, windows: Sequence[Window]) -> None:
        """Give up all windows before Tempo's first traces."""
        try:
            expired = expired_windows(windows, partial(any_trace, self._searcher))
            self._expire(expired)
        except StoppedError:
            pass
        except Exception as error:  # noqa: BLE001 - as above
            self._report.not_probed(error)
            with self._changed:
                self._rest()
        else:
            with self._changed:
                self._probed_from = expired[-1].end if expired else windows[0].start
        finally:
            with self._changed:
                self._probing = False
                self._changed.notify_all()

    def _expire(self, windows: Sequence[Window]) -> None:
        with self._changed:
            # Others have gone on reading, and what they took is theirs.
            windows = self._plan.claim(windows)
        if not windows:
            return
        self._report.expired(windows)
        self._record(expired_entries(windows, now=self._clock()))
        with self._changed:
            self._plan.give_back(windows)

    def _ask_again(self, entries: Sequence[LedgerEntry]) -> None:
        """Ask whether some windows that were without traces still are; read them again if they are not."""
        windows = [entry.window for entry in entries]
        try:
            # The last second is left out: what begins at the end of a range belongs to the next window.
            found = any_trace(self._searcher, windows[0].start, windows[-1].end - 1)
        except StoppedError:
            pass
        except Exception as error:  # noqa: BLE001 - as above
            self._report.not_probed(error)
            with self._changed:
                self._rest()
        else:
            if found:
                self._report.reopened(windows)
                with self._changed:
                    self._plan.reopen(windows)
                    self._publish()
            else:
                self._record(confirmed_entries(entries, now=self._clock()))
        finally:
            with self._changed:
                self._plan.give_back(windows)
                self._changed.notify_all()

    def _record(self, entries: Sequence[LedgerEntry]) -> None:
        """Write lines without digests; if that fails, this process still knows them."""
        try:
            self._store.commit(entries)
        except StoreError as error:
            self._report.not_noted(error)
        with self._changed:
            self._note(entries)

    # Bookkeeping, under the condition

    def _wanted(self) -> Wanted:
        return wanted(
            self._clock(),
            self._calendar,
            duration_seconds=self._settings.duration_seconds,
            settle_seconds=self._settings.settle_seconds,
            batch_seconds=self._settings.batch_seconds,
        )

    def _note(self, entries: Sequence[LedgerEntry]) -> None:
        self._plan.note(entries)
        self._publish()

    def _publish(self) -> None:
        before, now = self._status, self._plan.progress
        completed_at = before.completed_at
        if now.complete and completed_at is None:
            completed_at = self._clock()
            traces = sum(entry.traces for entry in self._plan.entries)
            self._report.complete(now, traces, completed_at - before.started_at)
        self._status = self._status_with(before.started_at, completed_at)

    def _status_with(self, started_at: float, completed_at: float | None) -> BackfillStatus:
        plan = self._plan
        return BackfillStatus(
            plan.progress, plan.unsampled, plan.range.start, started_at, completed_at, self._failure()
        )

    def _failure(self) -> str | None:
        failed = [entry for entry in self._plan.entries if entry.state is WindowState.FAILED]
        return max(failed, key=lambda entry: entry.read_at).error if failed else None
