"""What the ledger's loop still has to do, in memory: the wanted range, what is known of it, and who is on what.

No I/O and no clock; whoever owns it guards it against other threads.

What the workers of the ledger's loop share: the plan, its lines in the database, and the pauses after failures.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from exporter.ingest.backfill_log import BackfillLog
from exporter.ingest.backfill_status import BackfillStatus
from exporter.ingest.ledger_entries import was_sampled
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
    progress,
    ready,
)
from exporter.runtime.locks import LockRank, new_condition
from exporter.store import Store, StoreError

_PATIENCE_ATTEMPTS: Final = 3
_CAME_TRUE_SECONDS: Final = 300
"""Longer than it takes until a window that has settled is noticed, see :meth:`Plan.advance`."""


class Plan:
    """The ledger's open work."""

    def __init__(self, range_: Wanted, known: Iterable[LedgerEntry], calendar: Calendar) -> None:
        """Begin with what the store knows of a range."""
        self._calendar = calendar
        self._range = range_
        self._entries = _by_window(known)
        self._busy: set[Window] = set()
        self._before: dict[Window, LedgerEntry] = {}
        self._asked: dict[Window, int] = {}
        self._ahead: dict[Window, LedgerEntry] = {}
        self._early: dict[Window, LedgerEntry] = {}
        self._unread: list[Window] = []
        self._recount()

    @property
    def range(self) -> Wanted:
        """The range that is wanted."""
        return self._range

    @property
    def entries(self) -> Sequence[LedgerEntry]:
        """What is known of it."""
        return list(self._entries.values())

    @property
    def progress(self) -> LedgerProgress:
        """How far it has come."""
        return progress(self._entries.values(), self._unread, self._range)

    @property
    def unsampled(self) -> LedgerProgress:
        """The same without the windows of which a sample was meant to do."""
        return progress(
            (entry for entry in self._entries.values() if not was_sampled(entry)), self._unread, self._range
        )

    @property
    def in_hand(self) -> bool:
        """Whether anybody is reading."""
        return bool(self._busy)

    def advance(self, range_: Wanted, known: Iterable[LedgerEntry] = (), *, now: float) -> None:
        """Follow the clock.

        By a clock that was set back, windows were read that have not settled yet. Which of the two was wrong turns out
        when they settle: a clock that was ahead comes there before the instant at which it has read them, and they are
        read again. One that was wrong for a while is set right by a leap beyond that instant, and what it has read
        before counts.

        Args:
            range_: what is wanted now.
            known: what the store knows of the part of it that was not wanted before. What lies in the past of the
                range was let go of here, and is needed again after the clock was set back.
            now: Unix seconds.
        """
        self._range = range_
        self._entries = _by_window(known) | self._entries
        for window in [window for window in self._entries if window.end > range_.end]:
            self._ahead[window] = self._entries.pop(window)
        for window in [window for window in self._ahead if window.end <= range_.end]:
            entry = self._ahead.pop(window)
            came_true = entry.read_at + _CAME_TRUE_SECONDS <= now
            (self._entries if came_true else self._early).setdefault(window, entry)
        self._recount()

    def untouched(self) -> list[Window]:
        """Windows that nobody has read, tried or taken, by time."""
        return sorted(window for window in self._unread if window not in self._busy and window not in self._entries)

    def readable(self, now: float) -> list[Window]:
        """Windows that may be read now, newest first."""
        free = [window for window in self._unread if window not in self._busy]
        return ready(free, self._entries.values(), now)

    def take(
        self,
        now: float,
        rules: BatchRules,
        counted: Callable[[Window], int | None] = lambda window: None,  # noqa: ARG005
    ) -> Batch | None:
        """The batch to read next, if any may be read now; whoever takes it gives it back."""
        free = self.readable(now)
        if not free:
            return None
        batch = next_batch(free, self._entries.values(), rules, counted)
        self._busy.update(batch.windows)
        return batch

    def claim(self, windows: Iterable[Window]) -> Sequence[Window]:
        """Take those of some windows that are still untouched; whoever takes them gives them back."""
        untouched = set(self.untouched())
        claimed = [window for window in windows if window in untouched]
        self._busy.update(claimed)
        return claimed

    def doubt(self, now: float) -> Sequence[LedgerEntry]:
        """Take the newest stretch of windows without traces that are to be asked about again, by time."""
        due = sorted(
            (
                entry
                for entry in self._entries.values()
                if entry.state.doubtful and entry.retry_at is not None and entry.retry_at <= now
            ),
            key=lambda entry: entry.window,
        )
        stretch: list[LedgerEntry] = []
        for entry in reversed(due):
            if entry.window in self._busy or (stretch and entry.window.end != stretch[-1].window.start):
                break
            stretch.append(entry)
        stretch.reverse()
        self._busy.update(entry.window for entry in stretch)
        return stretch

    def near(self, end: int, seconds: int) -> list[Window]:
        """The windows, read or not, of a stretch of time before an instant."""
        windows = [*self._unread, *(entry.window for entry in self._entries.values())]
        return sorted({window for window in windows if end - seconds <= window.start and window.end <= end})

    def doubt_counts(self, counted: Callable[[Window], int | None], now: float) -> None:
        """Note windows of which traces have come late, by what Tempo has counted since: they are read once more.

        One that was read for that already is left alone: what it lacks by then is not coming. So is a sample.
        """
        for entry in list(self._entries.values()):
            count = counted(entry.window) or 0
            whole = entry.state in (WindowState.DONE, WindowState.EMPTY) and entry.coverage in (None, 1.0)
            if whole and not self.rereads(entry.window) and entry.traces < count * (1 - MISSING_SHARE) - 1:
                self._entries[entry.window] = replace(entry, retry_at=now)

    def rereads(self, window: Window) -> int:
        """How often a window that was read has been read again, or is about to be."""
        entry = self._entries.get(window)
        if window in self._before:
            return 1
        return entry.attempts if entry is not None and entry.state is WindowState.DONE else 0

    def reread(self, now: float) -> Sequence[Window]:
        """Windows of which traces were missing, and that are due to be read once more, become unread; says which."""
        due = [
            entry
            for entry in self._entries.values()
            if entry.state is WindowState.DONE and entry.retry_at is not None and entry.retry_at <= now
        ]
        for entry in due:
            self._before[entry.window] = replace(entry, attempts=1, retry_at=None)
        self.reopen(entry.window for entry in due)
        return [entry.window for entry in due]

    def before(self, window: Window) -> LedgerEntry | None:
        """What stands in the ledger of a window that is being read again."""
        return self._before.get(window)

    def standing(self, window: Window) -> LedgerEntry | None:
        """The same also where it was read before it had settled, so that it cannot stay as it is."""
        return self._before.get(window) or self._early.get(window)

    def reopen(self, windows: Iterable[Window]) -> None:
        """There is something in these windows after all: they are to be read."""
        for window in windows:
            entry = self._entries.pop(window, None)
            if entry is not None and entry.state.doubtful:
                self._asked[window] = entry.attempts + 1
        self._recount()

    def asked(self, window: Window) -> int:
        """How often it was asked, before it was opened again, whether a window is without traces.

        What Tempo found then may have begun before the window, so that this is read and is without traces once more.
        """
        return self._asked.get(window, 0)

    def give_back(self, windows: Iterable[Window]) -> None:
        """Nobody is on these windows any more."""
        self._busy.difference_update(windows)

    def note(self, entries: Iterable[LedgerEntry]) -> None:
        """Remember what became of some windows."""
        settled = set()
        for entry in entries:
            if entry.window.end > self._range.end:
                # The clock was set back while it was being read.
                self._ahead[entry.window] = entry
                continue
            self._entries[entry.window] = entry
            self._before.pop(entry.window, None)
            self._early.pop(entry.window, None)
            if entry.state.settled:
                settled.add(entry.window)
                self._asked.pop(entry.window, None)
        self._unread = [window for window in self._unread if window not in settled]

    def attempts(self, window: Window) -> int:
        """How often a window has failed in a row."""
        entry = self._entries.get(window)
        return entry.attempts if entry else 0

    @property
    def settled_until(self) -> int:
        """Up to when there is no gap: the start of the oldest unread window, or the end of the range.

        A window that has failed for good measure is not waited for.
        """
        waited_for = [window.start for window in self._unread if self.attempts(window) < _PATIENCE_ATTEMPTS]
        return min(waited_for, default=self._range.end)

    def seconds_until_due(self, now: float, settle_seconds: float) -> float:
        """How long until there may be something to read: the next window settles, or a failed one has rested."""
        due = [self._calendar.grid_next(self._range.end, self._range.step_seconds) + settle_seconds]
        # One that has rested is in somebody's hands, or was cut otherwise when it failed and has been read since.
        due += [
            entry.retry_at for entry in self._entries.values() if entry.retry_at is not None and entry.retry_at > now
        ]
        return max(0.0, min(due) - now)

    def _recount(self) -> None:
        for kept in (self._entries, self._before, self._early, self._asked):
            for window in [window for window in kept if window.end <= self._range.start]:
                del kept[window]
        self._unread = pending(self._entries.values(), self._range, self._calendar)


def _by_window(known: Iterable[LedgerEntry]) -> dict[Window, LedgerEntry]:
    """What the store knows, but for expired windows.

    They were never read. Asking for them once more after a restart is cheap, and Tempo's retention may have grown.
    """
    return {entry.window: entry for entry in known if entry.state is not WindowState.EXPIRED}


_LONGEST_BREAK_SECONDS: Final = 60


class OpenWork:
    """The plan, guarded, and what is known of how it goes.

    Attributes:
        changed: guards everything here; idle workers wait on it. Whoever takes windows from the plan or gives them back
            holds it.
        plan: what is still to be done.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        report: BackfillLog,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.changed = new_condition(LockRank.BACKFILL_QUEUE)
        self.plan = plan
        self._store = store
        self._report = report
        self._clock = clock
        self._monotonic = monotonic
        self._failures_in_a_row = 0
        self._resume_at = monotonic()
        self._status = self._status_with(clock(), completed_at=None)

    @property
    def status(self) -> BackfillStatus:
        """Where the ledger stood after the last change; may be asked for without holding anything."""
        return self._status

    def record(self, entries: Sequence[LedgerEntry]) -> None:
        """Write lines without digests; if that fails, this process still knows them."""
        try:
            self._store.commit(entries)
        except StoreError as error:
            self._report.not_noted(error)
        with self.changed:
            self.note(entries)

    # To be called by whoever holds the condition

    def note(self, entries: Sequence[LedgerEntry]) -> None:
        """Remember what became of some windows."""
        self.plan.note(entries)
        self.publish()

    def publish(self) -> None:
        """Bring the status up to date with the plan."""
        before, now = self._status, self.plan.progress
        completed_at = before.completed_at
        if now.complete and completed_at is None:
            completed_at = self._clock()
            traces = sum(entry.traces for entry in self.plan.entries)
            self._report.complete(now, traces, completed_at - before.started_at)
        self._status = self._status_with(before.started_at, completed_at)

    @property
    def failures_in_a_row(self) -> int:
        """How often in a row something has failed."""
        return self._failures_in_a_row

    @property
    def resting_seconds(self) -> float:
        """How long everything is still to rest after a failure; 0 where it need not."""
        return max(0.0, self._resume_at - self._monotonic())

    def rest(self) -> None:
        """After a failure let everything rest a little, longer each time in a row: Tempo may be down."""
        self._failures_in_a_row += 1
        pause = min(_LONGEST_BREAK_SECONDS, 2 ** min(self._failures_in_a_row - 1, 10))
        self._resume_at = self._monotonic() + pause

    def succeeded(self) -> None:
        """Something has worked: what failed before it was no outage."""
        self._failures_in_a_row = 0

    def _status_with(self, started_at: float, completed_at: float | None) -> BackfillStatus:
        plan = self.plan
        return BackfillStatus(
            plan.progress, plan.unsampled, plan.range.start, started_at, completed_at, self._failure()
        )

    def _failure(self) -> str | None:
        failed = [entry for entry in self.plan.entries if entry.state is WindowState.FAILED]
        return max(failed, key=lambda entry: entry.read_at).error if failed else None
