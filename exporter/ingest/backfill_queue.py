"""The queue of the backfill: which windows are still to be read, and which of them workers hold.

The queue takes its own lock, and no method waits for Tempo or the database while it holds it. Workers take a piece of
work, do it without the lock, and report back; :mod:`exporter.ingest.window_table` has the states of a window.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice
from typing import Final, Protocol

from exporter.ingest.window_table import (
    CLOSED,
    HELD,
    READ,
    InvalidTransitionError,
    QueueState,
    ReadTotals,
    WindowRecord,
    WindowTable,
    state_of,
    was_sampled,
)
from exporter.model.calendar import Calendar
from exporter.model.ledger import (
    MISSING_SHARE,
    Batch,
    BatchRules,
    LedgerEntry,
    LedgerProgress,
    Wanted,
    Window,
    WindowState,
    next_batch,
    pending,
    ready,
)
from exporter.runtime.locks import LockRank, new_condition

_BLOCKING_ATTEMPTS: Final = 3
"""A window that failed this often no longer blocks the windows behind it, see :meth:`BackfillQueue.settled_until`."""

_NOTICED_SECONDS: Final = 300
"""More than it takes to notice that a window has settled, see :meth:`BackfillQueue.advance`."""

_MIN_PROBED_WINDOWS: Final = 12
"""Reading fewer windows than this takes no longer than probing Tempo's retention."""

_NEIGHBOURS: Final = 3
"""Windows from which the density of an unread one is estimated."""

_MAX_PAUSE_SECONDS: Final = 60
"""Maximum pause of all workers after failures in a row."""

_MAX_WAIT_SECONDS: Final = 60
"""Maximum sleep of an idle worker, after which a clock that was set, or a machine that slept, is noticed."""

_MIN_WAIT_SECONDS: Final = 0.05

_FREE: Final = (QueueState.UNREAD, QueueState.FAILED)
"""States of windows that a worker may take to read them."""

_RETRIED: Final = (*HELD, QueueState.FAILED, QueueState.RECUT, QueueState.INCOMPLETE, QueueState.UNCONFIRMED)
"""States of windows whose entry may have a retry time."""

_UNREAD: Final = (*_FREE, QueueState.READING, QueueState.EXPIRING)
"""States of wanted windows that still have to be read."""


@dataclass(frozen=True, slots=True)
class BackfillStatus:
    """State of the backfill, as published after each change.

    Attributes:
        progress: windows of the wanted range by state.
        unsampled: the same without windows that were too dense to be read whole.
        wanted_since: start of the wanted range.
        started_at: when this process started to read.
        completed_at: when this process first had nothing left to read.
        failure: error of the most recent failed window; None while no window waits for a retry.
        late_windows: windows that were read and lack spans that came late, or may lack some. They are checked again.
    """

    progress: LedgerProgress
    unsampled: LedgerProgress
    wanted_since: int
    started_at: float
    completed_at: float | None
    failure: str | None = None
    late_windows: int = 0

    @property
    def sampled_windows(self) -> int:
        """Number of windows of which only a sample was read."""
        return self.progress.windows - self.unsampled.windows


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """Read windows together; to be reported with `complete`, `fail` or `release`.

    Attributes:
        batch: the windows, and how many traces to expect.
        records: what the queue knows of each window, oldest first.
        reread: windows with missing traces that became unread just now, because their reread is due.
    """

    batch: Batch
    records: Sequence[WindowRecord]
    reread: Sequence[Window] = ()


@dataclass(frozen=True, slots=True)
class ProbeRetention:
    """Find out which windows, by time, are older than Tempo's first trace; see `finish_probe` and `abandon_probe`."""

    windows: Sequence[Window]


@dataclass(frozen=True, slots=True)
class ConfirmEmpty:
    """Ask Tempo whether adjacent windows still have no traces; to be reported with `confirm`, `reopen` or `release`."""

    entries: Sequence[LedgerEntry]


@dataclass(frozen=True, slots=True)
class LateCheck:
    """Check adjacent windows, by time, for late spans; see `finish_late_check`, `complete` and `release`."""

    entries: Sequence[LedgerEntry]


@dataclass(frozen=True, slots=True)
class Wait:
    """There is nothing to do for now; to be passed to `wait`.

    Attributes:
        seconds: at most this long.
        version: of the queue; a change since then ends the wait.
    """

    seconds: float
    version: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A single pass is over: nothing is left that can be read now, or too much has failed."""


Work = ReadBatch | ProbeRetention | ConfirmEmpty | LateCheck | Wait | Finished


class CompletionListener(Protocol):
    """Called once, when nothing is left to read for the first time."""

    def __call__(self, progress: LedgerProgress, traces: int, seconds: float, /) -> None:
        """Take note of the traces in all windows, and the time since the process started to read."""


class BackfillQueue:
    """Windows to read and windows read, for any number of threads."""

    def __init__(
        self,
        range_: Wanted,
        known: Iterable[LedgerEntry],
        calendar: Calendar,
        *,
        settle_seconds: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        first_late_check: Callable[[LedgerEntry, float], float | None] = lambda entry, now: None,  # noqa: ARG005
        on_complete: CompletionListener = lambda progress, traces, seconds: None,  # noqa: ARG005
    ) -> None:
        """Start with the entries that the ledger has of a range.

        Args:
            range_: the wanted range.
            known: the entries.
            calendar: has the grid at which windows are cut.
            settle_seconds: how long after its end a window settles.
            clock: Unix seconds.
            monotonic: seconds that never jump, for pauses.
            first_late_check: returns when a window is to be checked for late spans whose entry does not say so, because
                an earlier version wrote it.
            on_complete: called without the lock.
        """
        self._calendar = calendar
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._first_late_check = first_late_check
        self._on_complete = on_complete
        self._changed = new_condition(LockRank.BACKFILL_QUEUE)
        self._version = 0
        self._range = range_
        self._table = WindowTable()
        self._is_probing = False
        self._probed_from: int | None = None
        self._failures_in_a_row = 0
        self._resume_at = monotonic()
        self._started_at = clock()
        self._completed_at: float | None = None
        self._adopt(known)
        self._cut()
        self._status = self._current_status()

    # State

    @property
    def status(self) -> BackfillStatus:
        """State after the last change; never blocks."""
        return self._status

    @property
    def range(self) -> Wanted:
        """The wanted range."""
        with self._changed:
            return self._range

    def settled_until(self) -> int:
        """The instant before which every wanted window was read, or failed too often to be waited for."""
        with self._changed:
            blocking = (
                next((record for record in self._wanted(state) if record.failures < _BLOCKING_ATTEMPTS), None)
                for state in _UNREAD
            )
            return min((record.window.start for record in blocking if record is not None), default=self._range.end)

    def windows_before(self, end: int, seconds: int) -> Sequence[Window]:
        """The windows of the range in a stretch of time before an instant, read or not, by time."""
        with self._changed:
            first, last = max(end - seconds, self._range.start), min(end, self._range.end)
            states = [state for state in QueueState if state is not QueueState.AHEAD]
            found = (record.window for state in states for record in self._table.overlapping(state, first, last))
            return sorted(window for window in found if end - seconds <= window.start and window.end <= end)

    # Taking work

    def take(
        self,
        rules: BatchRules,
        counted: Callable[[Window], int | None] = lambda window: None,  # noqa: ARG005
        *,
        patience: int | None = None,
    ) -> Work:
        """Hand out the next piece of work.

        Args:
            rules: bounds on the size of a batch.
            counted: number of traces in a window, if Tempo has counted them.
            patience: with a number, the work is a single pass: it is finished when nothing is left that can be read
                now, or after this many failures in a row. Windows that were read before are left alone, unless they
                are to be checked for late spans.
        """
        with self._changed:
            if patience is not None and self._is_pass_over(patience):
                self._wake()
                return Finished()
            now = self._clock()
            pause = max(0.0, self._resume_at - self._monotonic())
            if not pause:
                work: Work | None = self._probe() or self._read(rules, counted, now, with_rereads=patience is None)
                if work is None and patience is None:
                    work = self._confirm_empty(now)
                work = work or self._check_late(rules, now)
                if work is not None:
                    return work
            seconds = pause or self._seconds_until_due(now)
            return Wait(min(_MAX_WAIT_SECONDS, max(_MIN_WAIT_SECONDS, seconds)), self._version)

    def wait(self, wait: Wait) -> None:
        """Block until the queue has changed since the work was taken, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != wait.version, wait.seconds)

    def wake(self) -> None:
        """End the wait of all workers."""
        with self._changed:
            self._wake()

    # Reporting back

    def complete(self, entries: Iterable[LedgerEntry]) -> None:
        """Windows of a batch were read, or reread for late spans, and their entries are in the ledger."""
        with self._publishing():
            self._failures_in_a_row = 0
            self._close(entries, QueueState.READING, QueueState.CHECKING)

    def fail(self, entries: Iterable[LedgerEntry]) -> None:
        """Windows of a batch could not be read; their entries say so, or are those of an earlier read that counts."""
        with self._publishing():
            self._close(entries, QueueState.READING)
            self._pause()

    def release(self, windows: Iterable[Window], *, failed: bool = False) -> None:
        """Give windows back as they were before they were taken, after a failure or not."""
        with self._changed:
            states = (QueueState.READING, QueueState.CONFIRMING, QueueState.CHECKING)
            held = [self._held(window, *states) for window in windows]
            self._put(record.without_worker() for record in held)
            if failed:
                self._pause()
            self._wake()

    def confirm(self, entries: Iterable[LedgerEntry]) -> None:
        """Tempo still has no traces in some windows; their entries say so."""
        with self._publishing():
            self._close(entries, QueueState.CONFIRMING)

    def finish_late_check(self, entries: Iterable[LedgerEntry]) -> None:
        """Windows were checked for late spans, or could not be; their entries say so."""
        with self._publishing():
            self._close(entries, QueueState.CHECKING)

    def reopen(self, windows: Iterable[Window]) -> None:
        """Tempo has traces by now where it had none before: the windows are to be read."""
        with self._publishing():
            held = [self._held(window, QueueState.CONFIRMING) for window in windows]
            self._put(record.reopened() for record in held)
            self._cut()

    def claim_expired(self, windows: Iterable[Window]) -> Sequence[Window]:
        """Hold those of some windows that are still unread, free and without digests, to record them as expired."""
        with self._changed:
            unread = set(self._never_read())
            claimed = [window for window in windows if window in unread]
            for window in claimed:
                self._table.put(replace(self._table[window], state=QueueState.EXPIRING))
            return claimed

    def finish_probe(self, oldest: int, expired: Iterable[LedgerEntry] = ()) -> None:
        """Tempo's retention is known.

        Args:
            oldest: start of the oldest window that may have traces; it is not probed for again.
            expired: entries of the windows claimed as expired.
        """
        with self._publishing():
            self._close(expired, QueueState.EXPIRING)
            self._probed_from = oldest
            self._is_probing = False

    def abandon_probe(self, *, failed: bool = False) -> None:
        """Tempo's retention could not be found out; claimed windows are unread again."""
        with self._changed:
            self._put(record.without_worker() for record in self._table.records([QueueState.EXPIRING]))
            if failed:
                self._pause()
            self._is_probing = False
            self._wake()

    # Following the clock, and what Tempo counts

    def advance(self, range_: Wanted, known: Iterable[LedgerEntry] = (), *, replacing: Wanted) -> bool:
        """Move the wanted range with the clock; returns whether it still was the one to replace.

        After the clock was set back, windows may have been read that have not settled yet. When they settle, it turns
        out which clock was wrong. If the clock reaches them before the instant at which they were read, it was ahead at
        the time, and they are read again. If it jumps beyond that instant, it was behind for a while, and they count.

        Args:
            range_: the range that is wanted now.
            known: entries that the ledger has of the part that was not wanted before, after the clock was set back.
            replacing: the range at the time when `known` was read.
        """
        with self._publishing():
            if self._range != replacing:
                return False
            self._range = range_
            self._adopt(known)
            now = self._clock()
            for record in self._table.records():
                if record.is_held:
                    continue
                has_settled = record.state is QueueState.AHEAD and record.window.end <= range_.end
                moved = self._placed(_settled(record, now) if has_settled else record)
                if moved != record:
                    self._table.put(moved)
            self._cut()
            return True

    def schedule_rereads(self, counted: Callable[[Window], int | None]) -> None:
        """Schedule a reread of windows that were read whole and in which Tempo counts more traces by now.

        A window that was reread once is left alone: what it still lacks is not coming. So is a sample.
        """
        with self._changed:
            now = self._clock()
            for entry in _entries(self._table.records(CLOSED)):
                was_reread = entry.state is WindowState.DONE and entry.attempts > 0
                is_whole = entry.state in (WindowState.DONE, WindowState.EMPTY) and entry.coverage in (None, 1.0)
                count = counted(entry.window) or 0
                if is_whole and not was_reread and entry.traces < count * (1 - MISSING_SHARE) - 1:
                    self._table.put(WindowRecord(entry.window).with_entry(replace(entry, retry_at=now)))

    def publish_status(self) -> None:
        """Bring the status up to date."""
        with self._publishing():
            pass

    # The rest holds the lock

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """Take the lock for a change; afterwards publish the status, wake idle workers, and announce completion."""
        traces = None
        with self._changed:
            yield
            status = self._current_status()
            if status.progress.complete and self._completed_at is None:
                self._completed_at = self._clock()
                traces = sum(entry.traces for entry in _entries(self._table.records(READ)))
                status = replace(status, completed_at=self._completed_at)
            self._status = status
            self._wake()
        if traces is not None:
            self._on_complete(status.progress, traces, (status.completed_at or 0) - status.started_at)

    def _wake(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def _pause(self) -> None:
        """Let all workers pause after a failure, longer each time in a row: Tempo may be down."""
        self._failures_in_a_row += 1
        pause = min(_MAX_PAUSE_SECONDS, 2 ** min(self._failures_in_a_row - 1, 10))
        self._resume_at = self._monotonic() + pause

    def _is_pass_over(self, patience: int) -> bool:
        if self._is_probing or any(self._table.windows(state) for state in HELD):
            return False
        now = self._clock()
        is_any_left = any(True for _ in self._ready(now)) or any(True for _ in self._checks_due(now))
        return self._failures_in_a_row >= patience or not is_any_left

    # Choosing work

    def _probe(self) -> ProbeRetention | None:
        if self._is_probing or len(self._table.windows(QueueState.UNREAD)) < _MIN_PROBED_WINDOWS:
            return None
        windows = self._never_read()
        if len(windows) < _MIN_PROBED_WINDOWS or windows[0].start == self._probed_from:
            return None
        self._is_probing = True
        return ProbeRetention(windows)

    def _never_read(self) -> list[Window]:
        """The unread windows without digests in the database: what Tempo no longer has must not delete those."""
        return [record.window for record in self._table.records([QueueState.UNREAD]) if record.stored is None]

    def _read(
        self, rules: BatchRules, counted: Callable[[Window], int | None], now: float, *, with_rereads: bool
    ) -> ReadBatch | None:
        reread = self._open_rereads(now) if with_rereads else ()
        free = list(islice(self._ready(now), rules.most_windows))
        if not free:
            return None
        known = [*self._nearest_read(free[0].window), *_entries(free)]
        batch = next_batch([record.window for record in free], known, rules, counted)
        records = [replace(self._table[window], state=QueueState.READING) for window in batch.windows]
        for record in records:
            self._table.put(record)
        return ReadBatch(batch, records, reread)

    def _open_rereads(self, now: float) -> Sequence[Window]:
        """Make windows with missing traces unread whose reread is due."""
        due = [record for record in self._table.records([QueueState.INCOMPLETE]) if _is_due(record, now)]
        for record in due:
            self._table.put(record.to_reread())
        if due:
            self._cut()
        return [record.window for record in due]

    def _ready(self, now: float) -> Iterator[WindowRecord]:
        """The windows that may be read now, newest first."""
        for window in merge(*(reversed(self._table.windows(state)) for state in _FREE), reverse=True):
            record = self._table[window]
            failed = [record, *self._table.overlapping(QueueState.RECUT, *window)]
            if ready([window], _entries(failed), now):
                yield record

    def _nearest_read(self, window: Window) -> list[LedgerEntry]:
        """The entries nearest to a window that tell how dense traffic is."""
        nearest = merge(
            *(_outwards(self._table.windows(state), window.start) for state in READ),
            key=lambda other: (abs(other.start - window.start), -other.start),
        )
        entries = (self._table[other].entry for other in nearest if self._is_wanted(other))
        return list(islice((entry for entry in entries if entry is not None and entry.has_density), _NEIGHBOURS))

    def _confirm_empty(self, now: float) -> ConfirmEmpty | None:
        """Take the newest stretch of adjacent windows without traces that Tempo is to be asked about again."""
        states = (QueueState.UNCONFIRMED, QueueState.CONFIRMING)
        due = sorted(
            (record for record in self._table.records(states) if _is_due(record, now)), key=lambda record: record.window
        )
        stretch: list[WindowRecord] = []
        for record in reversed(due):
            if record.is_held or (stretch and record.window.end != stretch[-1].window.start):
                break
            stretch.append(record)
        for record in stretch:
            self._table.put(replace(record, state=QueueState.CONFIRMING))
        stretch.reverse()
        return ConfirmEmpty(_entries(stretch)) if stretch else None

    def _checks_due(self, now: float) -> Iterator[WindowRecord]:
        return (record for record in self._table.records(CLOSED) if _is_check_due(record, now))

    def _check_late(self, rules: BatchRules, now: float) -> LateCheck | None:
        """Take the newest adjacent windows whose check for late spans is due, as many as one search covers."""
        due = sorted(self._checks_due(now), key=lambda record: record.window, reverse=True)
        stretch: list[WindowRecord] = due[:1]
        for record in due[1:]:
            is_adjacent = record.window.end == stretch[-1].window.start
            if not is_adjacent or stretch[0].window.end - record.window.start > rules.longest_seconds:
                break
            stretch.append(record)
        for record in stretch:
            self._table.put(replace(record, state=QueueState.CHECKING))
        stretch.reverse()
        return LateCheck(_entries(stretch)) if stretch else None

    def _seconds_until_due(self, now: float) -> float:
        """How long until there may be work: the next window settles, or a retry time comes."""
        settles_at = self._calendar.grid_next(self._range.end, self._range.step_seconds) + self._settle_seconds
        # A retry time that has passed belongs to a window that a worker holds, or that was cut differently since.
        retries = (
            entry.retry_at
            for entry in _entries(self._table.records(_RETRIED))
            if entry.retry_at is not None and entry.retry_at > now
        )
        checks = (
            entry.late_check_at
            for entry in _entries(self._table.records(CLOSED))
            if entry.late_check_at is not None and entry.late_check_at > now
        )
        return max(0.0, min((settles_at, *retries, *checks)) - now)

    # Changing records

    def _held(self, window: Window, *states: QueueState) -> WindowRecord:
        """The record of a window that a worker reports about.

        Raises:
            InvalidTransitionError: no worker holds the window for that.
        """
        state = self._table.state(window)
        if state not in states:
            raise InvalidTransitionError(f"{window} is {state.name}, not {' or '.join(each.name for each in states)}")
        return self._table[window]

    def _put(self, records: Iterable[WindowRecord]) -> None:
        """Put the records of windows that no worker holds, or that are given back, into the table."""
        for record in [self._placed(record) for record in records]:
            self._table.put(record)

    def _close(self, entries: Iterable[LedgerEntry], *states: QueueState) -> None:
        """Give windows their entries in the ledger; the worker no longer holds them."""
        self._put([self._held(entry.window, *states).with_entry(entry) for entry in entries])

    def _placed(self, record: WindowRecord) -> WindowRecord:
        """Return a record in the state for the place of its window in the range."""
        window = record.window
        if window.end <= self._range.start:
            return replace(record, state=QueueState.GONE)
        if window.end <= self._range.end:
            return record
        # A window cut differently of which only a part has settled is as good as unknown: that part is read again.
        is_remembered = record.has_memory and window.start >= self._range.end
        return replace(record, state=QueueState.AHEAD if is_remembered else QueueState.GONE)

    def _adopt(self, entries: Iterable[LedgerEntry]) -> None:
        """Take over entries of the ledger, unless workers are about to replace them.

        Expired windows were never read. Asking Tempo about them once more is cheap, and its retention may have grown.
        """
        for entry in entries:
            if entry.state is WindowState.PARTIAL and entry.retry_at is None and not entry.attempts:
                # Read by a version that did not reread such windows.
                entry = replace(entry, retry_at=self._clock())  # noqa: PLW2901
            if entry.late_check_at is None and entry.state.is_stored:
                entry = replace(entry, late_check_at=self._first_late_check(entry, self._clock()))  # noqa: PLW2901
            record = self._placed(WindowRecord(entry.window).with_entry(entry))
            is_taken = any(any(self._table.overlapping(state, *entry.window)) for state in HELD)
            is_gone = record.state is QueueState.GONE or entry.state is WindowState.EXPIRED
            if entry.window not in self._table and not is_taken and not is_gone:
                self._table.put(record)

    def _cut(self) -> None:
        """Cut what is unread of the range into windows, and keep the records of those that are the same as before."""
        taken = self._table.records((QueueState.READING, QueueState.EXPIRING))
        # Windows that workers hold are cut around, as if they were read, so that no part of them is taken twice.
        held = [LedgerEntry(record.window, WindowState.DONE, read_at=0) for record in taken]
        windows = set(pending([*_entries(self._table.records(READ)), *held], self._range, self._calendar))
        for record in self._table.records(_FREE):
            if record.window not in windows:
                state = QueueState.RECUT if record.state is QueueState.FAILED else QueueState.GONE
                self._table.put(replace(record, state=state))
        for record in self._table.records([QueueState.RECUT]):
            if record.window in windows:
                self._table.put(replace(record, state=QueueState.FAILED))
        for window in windows:
            if window not in self._table:
                self._table.put(WindowRecord(window))

    # The status

    def _wanted(self, state: QueueState) -> Iterator[WindowRecord]:
        """The windows in a state, by time, without those that left the range while a worker held them."""
        return (self._table[window] for window in self._table.windows(state) if self._is_wanted(window))

    def _is_wanted(self, window: Window) -> bool:
        return window.start < self._range.end and self._range.start < window.end

    def _current_status(self) -> BackfillStatus:
        again = _entries([*self._wanted(QueueState.CONFIRMING), *self._wanted(QueueState.CHECKING)])
        unsampled_again = [entry for entry in again if not was_sampled(entry)]
        reading = [*self._wanted(QueueState.READING), *self._wanted(QueueState.EXPIRING)]
        failed = [*self._wanted(QueueState.FAILED), *(record for record in reading if record.failures)]
        # Windows that no worker holds are in the range, so there is no need to look at each.
        unread = len(reading) + sum(len(self._table.windows(state)) for state in _FREE)

        def progress(totals: ReadTotals, again: Sequence[LedgerEntry]) -> LedgerProgress:
            return totals.progress(pending=unread - len(failed), failed=len(failed), again=again)

        failures = _entries([*failed, *self._wanted(QueueState.RECUT)])
        return BackfillStatus(
            progress=progress(self._table.totals, again),
            unsampled=progress(self._table.totals_unsampled, unsampled_again),
            wanted_since=self._range.start,
            started_at=self._started_at,
            completed_at=self._completed_at,
            failure=max(failures, key=lambda entry: entry.read_at).error if failures else None,
            late_windows=self._table.totals.late_windows + sum(entry.may_lack_late_spans for entry in again),
        )


def _settled(record: WindowRecord, now: float) -> WindowRecord:
    """Return the record of a window that has settled after the clock was set back, see `BackfillQueue.advance`."""
    entry = record.entry
    if entry is None:
        return replace(record, state=QueueState.UNREAD)
    if entry.read_at + _NOTICED_SECONDS <= now:
        return replace(record, state=state_of(entry))
    stored = entry if entry.state.settled else None
    return WindowRecord(record.window, stored=stored, confirmations=record.confirmations)


def _entries(records: Iterable[WindowRecord]) -> list[LedgerEntry]:
    return [record.entry for record in records if record.entry is not None]


def _is_due(record: WindowRecord, now: float) -> bool:
    return record.entry is not None and record.entry.retry_at is not None and record.entry.retry_at <= now


def _is_check_due(record: WindowRecord, now: float) -> bool:
    check_at = None if record.entry is None else record.entry.late_check_at
    return check_at is not None and check_at <= now


def _outwards(windows: Sequence[Window], start: int) -> Iterator[Window]:
    """Order windows, given by time, by their distance from an instant; of two equally far, the newer comes first."""
    right = bisect_left(windows, Window(start, 0))
    left = right - 1
    while left >= 0 or right < len(windows):
        if left < 0 or (right < len(windows) and windows[right].start - start <= start - windows[left].start):
            yield windows[right]
            right += 1
        else:
            yield windows[left]
            left -= 1
