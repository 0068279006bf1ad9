"""The windows of the backfill: one record each, in exactly one state, and the states that may follow each other.

=============  =============================================  ========================================================
from           to                                             when
=============  =============================================  ========================================================
GONE           UNREAD                                         the window enters the wanted range, unread
GONE           FAILED, FINAL, INCOMPLETE, UNCONFIRMED,        the ledger has an entry for it
               UNCHECKED, AHEAD
UNREAD         READING                                        a worker takes it in a batch
UNREAD         EXPIRING                                       Tempo has no traces that old
FAILED         READING                                        a worker takes it, after its retry time
FAILED         RECUT                                          unread windows are cut differently now
READING        FINAL, INCOMPLETE, UNCONFIRMED, UNCHECKED      the window was read
READING        FAILED                                         it could not be read
READING        UNREAD, FAILED                                 the worker gives it back as it was
EXPIRING       UNCONFIRMED                                    the window is recorded as expired
EXPIRING       UNREAD                                         it could not be recorded
INCOMPLETE     UNREAD                                         its reread is due
INCOMPLETE     INCOMPLETE                                     its reread becomes due earlier
FINAL          INCOMPLETE, UNCONFIRMED                        Tempo counts more traces than were read
UNCONFIRMED    CONFIRMING                                     a worker asks Tempo about it again
UNCONFIRMED    UNCONFIRMED                                    that becomes due earlier
CONFIRMING     UNCONFIRMED, UNCHECKED, FINAL                  Tempo still has no traces, or did not answer
CONFIRMING     UNREAD                                         Tempo has traces by now
UNCHECKED,     CHECKING                                       its check for late spans is due
INCOMPLETE,
UNCONFIRMED
UNCHECKED      INCOMPLETE, UNCONFIRMED                        Tempo counts more traces than were read
CHECKING       UNCHECKED                                      nothing late was found, or too little for a reread; or the
                                                              window was reread; or Tempo did not answer
CHECKING       FINAL                                          the same, and that was the last check
CHECKING       INCOMPLETE, UNCONFIRMED                        the same, and its reread or its confirmation is due later
RECUT          FAILED                                         unread windows are cut as before
any            AHEAD                                          the clock was set back; the window has not settled yet
AHEAD          UNREAD, FAILED, FINAL, INCOMPLETE,             the clock reached it again
               UNCONFIRMED, UNCHECKED
any            GONE                                           the window is older than the wanted range, or is no longer
                                                              cut like this
=============  =============================================  ========================================================

A window that a worker holds (READING, EXPIRING, CONFIRMING, CHECKING) becomes AHEAD or GONE only when the worker
reports back. A window that is reread for late spans stays CHECKING, so that it counts as read all the time.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from exporter.model.calendar import HOUR_SECONDS
from exporter.model.ledger import MISSING_SHARE, LedgerEntry, LedgerProgress, Window, WindowState


class QueueState(Enum):
    """State of a window in the queue; see the table at the top of this module."""

    GONE = auto()
    """Not in the table."""
    UNREAD = auto()
    """Never read, or to be read once more."""
    FAILED = auto()
    """The last attempt failed; to be read after the retry time of its entry."""
    READING = auto()
    """In a batch that a worker reads."""
    EXPIRING = auto()
    """Older than Tempo's first trace; a worker records that."""
    FINAL = auto()
    """In the ledger, and nothing is left to do."""
    INCOMPLETE = auto()
    """Read, but traces are missing: Tempo counts more of them, or searches could not return them all. To be read once
    more at the retry time of its entry."""
    UNCONFIRMED = auto()
    """No traces were found; Tempo is asked about it again at the retry time of its entry."""
    CONFIRMING = auto()
    """A worker asks Tempo whether there still are no traces."""
    UNCHECKED = auto()
    """Read; spans may reach Tempo late, so that it is checked for them at the time in its entry."""
    CHECKING = auto()
    """A worker checks whether late spans belong to the window, and rereads it for them."""
    AHEAD = auto()
    """Not settled, since the clock was set back; what is known of it is kept until then."""
    RECUT = auto()
    """Failed when unread windows were cut differently; only its retry time and its error still count."""


HELD: Final = (QueueState.READING, QueueState.EXPIRING, QueueState.CONFIRMING, QueueState.CHECKING)
"""States of windows that a worker holds."""

CLOSED: Final = (QueueState.FINAL, QueueState.INCOMPLETE, QueueState.UNCONFIRMED, QueueState.UNCHECKED)
"""States of windows that were read and that no worker holds."""

READ: Final = (*CLOSED, QueueState.CONFIRMING, QueueState.CHECKING)
"""States of windows that count as read."""

_LEAVING: Final = {QueueState.AHEAD, QueueState.GONE}

TRANSITIONS: Final[Mapping[QueueState, Collection[QueueState]]] = {
    QueueState.GONE: {QueueState.UNREAD, QueueState.FAILED, QueueState.AHEAD, *CLOSED},
    QueueState.UNREAD: {QueueState.READING, QueueState.EXPIRING, *_LEAVING},
    QueueState.FAILED: {QueueState.READING, QueueState.RECUT, *_LEAVING},
    QueueState.READING: {QueueState.UNREAD, QueueState.FAILED, *CLOSED, *_LEAVING},
    QueueState.EXPIRING: {QueueState.UNREAD, QueueState.UNCONFIRMED, *_LEAVING},
    QueueState.FINAL: {QueueState.INCOMPLETE, QueueState.UNCONFIRMED, *_LEAVING},
    QueueState.INCOMPLETE: {QueueState.INCOMPLETE, QueueState.UNREAD, QueueState.CHECKING, *_LEAVING},
    QueueState.UNCONFIRMED: {QueueState.UNCONFIRMED, QueueState.CONFIRMING, QueueState.CHECKING, *_LEAVING},
    QueueState.CONFIRMING: {
        QueueState.UNCONFIRMED,
        QueueState.UNCHECKED,
        QueueState.FINAL,
        QueueState.UNREAD,
        *_LEAVING,
    },
    QueueState.UNCHECKED: {QueueState.CHECKING, QueueState.INCOMPLETE, QueueState.UNCONFIRMED, *_LEAVING},
    QueueState.CHECKING: {*CLOSED, *_LEAVING},
    QueueState.AHEAD: {QueueState.UNREAD, QueueState.FAILED, QueueState.GONE, *CLOSED},
    QueueState.RECUT: {QueueState.FAILED, *_LEAVING},
}


class InvalidTransitionError(AssertionError):
    """A window was moved to a state that cannot follow its present one: a defect of the caller."""


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """Everything that the queue knows of one window.

    Attributes:
        window: the range.
        state: its state.
        entry: its entry in the ledger; None while it is unread, unless its last attempt failed.
        stored: entry of an earlier read whose digests are in the database, while the window is read once more.
        is_reread: whether it is read once more because traces were missing. Otherwise, the earlier read was made before
            the window had settled.
        confirmations: how often Tempo was asked whether the window is empty before it was reopened. What Tempo found
            then may have started before the window, so that it is empty once more when it is read.
    """

    window: Window
    state: QueueState = QueueState.UNREAD
    entry: LedgerEntry | None = None
    stored: LedgerEntry | None = None
    is_reread: bool = False
    confirmations: int = 0

    @property
    def failures(self) -> int:
        """Failed attempts in a row."""
        return self.entry.attempts if self.entry is not None and self.entry.state is WindowState.FAILED else 0

    @property
    def is_held(self) -> bool:
        """Whether a worker holds the window."""
        return self.state in HELD

    @property
    def has_memory(self) -> bool:
        """Whether the record says more than that the window is unread."""
        return self.entry is not None or self.stored is not None or self.confirmations > 0

    def with_entry(self, entry: LedgerEntry) -> "WindowRecord":
        """Return the record with another entry, in the state that follows from it."""
        if entry.state is WindowState.FAILED:
            return WindowRecord(self.window, QueueState.FAILED, entry, confirmations=self.confirmations)
        return WindowRecord(self.window, state_of(entry), entry)

    def to_reread(self) -> "WindowRecord":
        """Return the record of a window with missing traces as one to be read once more."""
        stored = None if self.entry is None else replace(self.entry, attempts=self.entry.attempts + 1, retry_at=None)
        return WindowRecord(self.window, stored=stored, is_reread=True)

    def reopened(self) -> "WindowRecord":
        """Return the record of a window without traces as one to be read, because Tempo has traces by now."""
        return WindowRecord(self.window, confirmations=1 + (0 if self.entry is None else self.entry.attempts))

    def without_worker(self) -> "WindowRecord":
        """Return the record of a held window as it was before a worker took it."""
        return replace(self, state=QueueState.UNREAD if self.entry is None else state_of(self.entry))


def state_of(entry: LedgerEntry) -> QueueState:
    """The state of a window with an entry that no worker holds."""
    if entry.state is WindowState.FAILED:
        return QueueState.FAILED
    if entry.retry_at is None:
        return QueueState.FINAL if entry.late_check_at is None else QueueState.UNCHECKED
    if entry.state.doubtful:
        return QueueState.UNCONFIRMED
    return QueueState.INCOMPLETE


def was_sampled(entry: LedgerEntry) -> bool:
    """Whether only a sample of the window was read, because it was too dense to be read whole.

    A window that was to be read whole, and of which as much is missing, is reread, or was.
    """
    is_missing = entry.coverage is not None and entry.traces < entry.there_when_read * (1 - MISSING_SHARE)
    return is_missing and entry.state is WindowState.DONE and entry.retry_at is None and not entry.attempts


class ReadTotals:
    """Totals over entries of windows that were read, kept up to date as entries come and go."""

    def __init__(self) -> None:
        self._windows: Counter[WindowState] = Counter()
        self._traces = 0
        self._covered: list[Window] = []
        self._existing: list[float] = []
        self.late_windows = 0
        """Windows that lack spans that came late, or may lack some."""

    def add(self, entry: LedgerEntry) -> None:
        """Count an entry."""
        self._windows[entry.state] += 1
        self.late_windows += entry.may_lack_late_spans
        if entry.coverage:
            self._traces += entry.traces
            position = bisect_left(self._covered, entry.window)
            self._covered.insert(position, entry.window)
            self._existing.insert(position, entry.there)

    def remove(self, entry: LedgerEntry) -> None:
        """Count an entry no longer."""
        self._windows[entry.state] -= 1
        self.late_windows -= entry.may_lack_late_spans
        if entry.coverage:
            self._traces -= entry.traces
            position = bisect_left(self._covered, entry.window)
            del self._covered[position], self._existing[position]

    def progress(self, *, pending: int, failed: int, again: Collection[LedgerEntry]) -> LedgerProgress:
        """Return the progress, with further windows that are not among the entries.

        Args:
            pending: windows that were never read.
            failed: windows whose last attempt failed.
            again: entries of windows that were read, and about which a worker asks Tempo again.
        """
        windows = self._windows + Counter(entry.state for entry in again)
        covered = [entry for entry in again if entry.coverage]
        existing = [*zip(self._covered, self._existing, strict=True), *((each.window, each.there) for each in covered)]
        return LedgerProgress(
            pending=pending,
            done=windows[WindowState.DONE],
            empty=windows[WindowState.EMPTY],
            partial=windows[WindowState.PARTIAL],
            failed=failed,
            expired=windows[WindowState.EXPIRED],
            traces_read=self._traces + sum(entry.traces for entry in covered),
            # In the order of time, so that rounding does not depend on the order of reading.
            traces_there=sum(there for _, there in sorted(existing)) if covered else sum(self._existing),
        )


class WindowTable:
    """Records by window, the windows of each state by time, and totals over those that were read.

    Not thread-safe; knows neither the clock nor the wanted range.
    """

    def __init__(self) -> None:
        self._records: dict[Window, WindowRecord] = {}
        self._by_state: dict[QueueState, list[Window]] = {state: [] for state in QueueState}
        self.totals = ReadTotals()
        self.totals_unsampled = ReadTotals()

    def __contains__(self, window: Window) -> bool:
        return window in self._records

    def __getitem__(self, window: Window) -> WindowRecord:
        return self._records[window]

    def state(self, window: Window) -> QueueState:
        """The state of a window."""
        record = self._records.get(window)
        return QueueState.GONE if record is None else record.state

    def put(self, record: WindowRecord) -> None:
        """Replace the record of a window, or add or remove it.

        Raises:
            InvalidTransitionError: the table of transitions does not allow that.
        """
        window, state = record.window, self.state(record.window)
        if record.state not in TRANSITIONS[state]:
            raise InvalidTransitionError(f"{window} cannot go from {state.name} to {record.state.name}")
        if state is not QueueState.GONE:
            self._remove(self._records[window])
        if record.state is not QueueState.GONE:
            self._add(record)

    def _add(self, record: WindowRecord) -> None:
        self._records[record.window] = record
        insort(self._by_state[record.state], record.window)
        if record.state in CLOSED and record.entry is not None:
            self.totals.add(record.entry)
            if not was_sampled(record.entry):
                self.totals_unsampled.add(record.entry)

    def _remove(self, record: WindowRecord) -> None:
        del self._records[record.window]
        windows = self._by_state[record.state]
        del windows[bisect_left(windows, record.window)]
        if record.state in CLOSED and record.entry is not None:
            self.totals.remove(record.entry)
            if not was_sampled(record.entry):
                self.totals_unsampled.remove(record.entry)

    def windows(self, state: QueueState) -> Sequence[Window]:
        """The windows in a state, by time; changes with the table."""
        return self._by_state[state]

    def records(self, states: Iterable[QueueState] = QueueState) -> list[WindowRecord]:
        """The records in some states, each state by time."""
        return [self._records[window] for state in states for window in self._by_state[state]]

    def overlapping(self, state: QueueState, start: int, end: int) -> Iterator[WindowRecord]:
        """The records in a state that overlap ``[start, end)``, by time."""
        windows = self._by_state[state]
        first = bisect_left(windows, Window(start - HOUR_SECONDS, 0))  # no window is longer than an hour
        for window in windows[first : bisect_left(windows, Window(end, 0))]:
            if window.end > start:
                yield self._records[window]
