"""The ledger: which windows of the past have been read, which are still to be read, and how they are batched.

Times are whole Unix seconds, ranges half-open. Entries may have been written under another configuration (window
length, time zone); the entries that count as read and the windows planned here nevertheless cover the wanted range
exactly once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import nsmallest
from typing import Final, NamedTuple

from exporter.model.calendar import HOUR_SECONDS, Calendar


class Window(NamedTuple):
    """A range ``[start, end)`` within one hour of the local clock; the unit of the ledger."""

    start: int
    end: int

    @property
    def seconds(self) -> int:
        """Length in seconds."""
        return self.end - self.start


class WindowState(StrEnum):
    """State of a window that was read, or could not be read."""

    DONE = "done"
    EMPTY = "empty"
    PARTIAL = "partial"
    FAILED = "failed"
    EXPIRED = "expired"

    @property
    def settled(self) -> bool:
        """Whether the window counts as read."""
        return self is not WindowState.FAILED

    @property
    def is_stored(self) -> bool:
        """Whether the window was searched, and its spans, if any, are in the database."""
        return self in (WindowState.DONE, WindowState.EMPTY, WindowState.PARTIAL)

    @property
    def doubtful(self) -> bool:
        """Whether the state rests on Tempo having returned nothing, which may be wrong; see :func:`doubt_again_at`."""
        return self in (WindowState.EMPTY, WindowState.EXPIRED)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One entry of the ledger.

    Attributes:
        window: the range.
        state: result of the last attempt.
        traces: spans in scope that started in the window and were read.
        stored: the part of them counted in digests; the others were filtered out or exceeded the limit on series.
        coverage: share of the existing traces that was read; None where unknown.
        requests: number of searches; a search over several windows is divided among them.
        splits: number of searches that were split in halves.
        duration_seconds: time spent reading.
        attempts: number of failed attempts; for an empty or expired window the number of rechecks, for one with missing
            traces the number of rereads.
        retry_at: time of the next retry, recheck or reread, if any.
        error: reason of the last failure.
        late_check_at: time of the next check for spans that Tempo received after the window was read, if any.
        late_spans: spans that came late and are not in the record, which coverage takes into account; None if there may
            be some, because long requests were seen.
        read_at: when the read began, or failed.
    """

    window: Window
    state: WindowState
    read_at: float
    traces: int = 0
    stored: int = 0
    coverage: float | None = None
    requests: float = 0
    splits: int = 0
    duration_seconds: float = 0
    attempts: int = 0
    retry_at: float | None = None
    error: str | None = None
    late_check_at: float | None = None
    late_spans: int | None = 0

    @property
    def there(self) -> float:
        """Estimated number of existing traces: traces read divided by coverage."""
        return self.traces / self.coverage if self.coverage else self.traces

    @property
    def there_when_read(self) -> float:
        """The same without spans that came late."""
        return max(self.traces, self.there - (self.late_spans or 0)) if self.coverage else self.traces

    @property
    def may_lack_late_spans(self) -> bool:
        """Whether spans that came late are missing, or may be, and the window is checked for them."""
        return self.late_check_at is not None and self.late_spans != 0

    @property
    def has_density(self) -> bool:
        """Whether the entry says how dense traffic was; a partial window without traces was too dense to be read."""
        read_in_part = self.state is WindowState.PARTIAL and self.traces > 0
        return read_in_part or self.state in (WindowState.DONE, WindowState.EMPTY)


LONGEST_SEARCH_SECONDS: Final = 168 * HOUR_SECONDS
"""Tempo's default for the longest range of a search (``max_duration``)."""

FIRST_RETRY_SECONDS: Final = 30
LONGEST_RETRY_SECONDS: Final = 3600

READ_AGAIN_SECONDS: Final = 900
"""Delay before a window with missing traces is reread; they may still be on their way to Tempo's storage."""

_MOST_REREADS: Final = 3

MISSING_SHARE: Final = 0.01
"""Share of missing traces up to which a window is not reread; it does not change a quantile noticeably."""

_DOUBTS_SECONDS: Final = (900, 3600, 6 * 3600, 24 * 3600)


_ALL_EMPTY_DOUBTS_SECONDS: Final = (120, 300, *_DOUBTS_SECONDS)


def doubt_again_at(now: float, confirmations: int, *, is_all: bool = False) -> float | None:
    """Return when to recheck a window for which Tempo returned no traces; None once it was rechecked often enough.

    Tempo also returns nothing while the block with the traces is missing from its block list, which it polls every few
    minutes, and while an ingester has not flushed them.

    Args:
        now: Unix seconds.
        confirmations: number of rechecks that returned nothing.
        is_all: whether all of history is empty. Then Tempo has probably just begun to fill.
    """
    pauses = _ALL_EMPTY_DOUBTS_SECONDS if is_all else _DOUBTS_SECONDS
    return now + pauses[confirmations] if confirmations < len(pauses) else None


def read_again_at(now: float, rereads: int) -> float | None:
    """Return when to reread a window that holds more than searches returned; None once it was reread often enough.

    By then traces that were under way have ended, a limit was raised, or the reader knows a better way to ask.

    Args:
        now: Unix seconds.
        rereads: number of rereads so far.
    """
    return now + READ_AGAIN_SECONDS * 4**rereads if rereads < _MOST_REREADS else None


def retry_pause_seconds(attempts: int) -> int:
    """Return the pause before the next retry: 30 s after the first failed attempt, doubling up to an hour."""
    return min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS << min(max(attempts, 1) - 1, 16))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The range of history to read.

    Attributes:
        start: start of the first window.
        end: end of the last settled window.
        step_seconds: maximum length of a window, an hour or a divisor of it.
    """

    start: int
    end: int
    step_seconds: int


def wanted(
    now: float, calendar: Calendar, *, duration_seconds: float, settle_seconds: float, batch_seconds: float
) -> Wanted:
    """Return the range to read at an instant: ``duration_seconds`` back, up to the last settled window."""
    step = min(HOUR_SECONDS, int(batch_seconds))
    end = calendar.grid_floor(int(now - settle_seconds), step)
    return Wanted(min(end, calendar.grid_floor(int(now - duration_seconds), step)), end, step)


def pending(entries: Iterable[LedgerEntry], range_: Wanted, calendar: Calendar) -> list[Window]:
    """Return all windows of the range that are not read, newest first, including those whose retry is not due yet."""
    read = sorted(entry.window for entry in entries if entry.state.settled)
    windows = [
        Window(start, end)
        for gap_start, gap_end in _gaps(read, range_.start, range_.end)
        for start, end in calendar.windows(gap_start, gap_end, range_.step_seconds)
    ]
    windows.reverse()
    return windows


def _gaps(read: Iterable[Window], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the gaps that sorted windows leave in a range."""
    for window in read:
        if window.start >= end:
            break
        if window.start > start:
            yield start, window.start
        start = max(start, window.end)
    if start < end:
        yield start, end


def ready(windows: Iterable[Window], entries: Iterable[LedgerEntry], now: float) -> list[Window]:
    """Return the pending windows that may be read now: those that overlap no failed window whose retry is not due.

    A retry time further ahead than the longest pause was written before the clock was set back, and is ignored.
    """
    resting = [
        entry.window
        for entry in entries
        if entry.retry_at is not None and now < entry.retry_at <= now + LONGEST_RETRY_SECONDS
    ]
    return [window for window in windows if not any(_overlap(window, other) for other in resting)]


def _overlap(one: Window, other: Window) -> bool:
    return one.start < other.end and other.start < one.end


class Batch(NamedTuple):
    """Adjacent windows read together, oldest first, and their expected number of traces; None where unknown."""

    windows: tuple[Window, ...]
    expected_traces: float | None

    @property
    def start(self) -> int:
        """Start of the first window."""
        return self.windows[0].start

    @property
    def end(self) -> int:
        """End of the last window."""
        return self.windows[-1].end


@dataclass(frozen=True, slots=True)
class BatchRules:
    """Bounds on the size of a batch.

    Attributes:
        limit: maximum number of traces returned by a search.
        most_traces: maximum number of traces read from one window; a denser window is a batch of its own.
        usual_windows: windows per batch while the traffic is unknown.
        most_windows: maximum number of windows per batch, so that progress is visible.
        longest_seconds: longest range that Tempo searches at once.
        fill: share of the limit to aim for, below 1 because traffic is uneven and a saturated search is wasted.
    """

    limit: int
    most_traces: int = 50_000
    usual_windows: int = 1
    most_windows: int = 24
    longest_seconds: int = LONGEST_SEARCH_SECONDS
    fill: float = 0.45


def next_batch(
    windows: Sequence[Window],
    known: Iterable[LedgerEntry],
    rules: BatchRules,
    counted: Callable[[Window], int | None] = lambda window: None,  # noqa: ARG005
) -> Batch:
    """Return the newest pending window with as many adjacent older ones as fit into a batch.

    A window that failed before is read alone, so that it does not hold up others.

    Args:
        windows: pending windows, newest first, at least one.
        known: entries of the ledger.
        rules: bounds on the size of a batch.
        counted: number of traces that Tempo counted in a window, if any; otherwise it is estimated from the nearest
            windows that were read.
    """
    known = list(known)
    failed = {entry.window for entry in known if entry.state is WindowState.FAILED}
    first = windows[0]
    density = expected_density(first, known)

    def expected(window: Window) -> float | None:
        count = counted(window)
        if count is not None:
            return count
        return None if density is None else density * window.seconds

    traces = expected(first)
    capacity = min(rules.limit * rules.fill, rules.most_traces)
    chosen = [first]
    if first not in failed:
        for window in windows[1:]:
            more = expected(window)
            together = None if traces is None or more is None else traces + more
            fits = len(chosen) < rules.usual_windows if together is None else together <= capacity
            span = first.end - window.start
            adjacent = window.end == chosen[-1].start
            short = len(chosen) < rules.most_windows and span <= rules.longest_seconds
            if not (fits and adjacent and short) or window in failed:
                break
            chosen.append(window)
            traces = together
    chosen.reverse()
    return Batch(tuple(chosen), traces)


def expected_density(window: Window, known: Iterable[LedgerEntry], neighbours: int = 3) -> float | None:
    """Return the expected traces per second: the maximum of the nearest windows that were read; None where none was."""
    read = [entry for entry in known if entry.has_density]
    nearest = nsmallest(neighbours, read, key=lambda entry: abs(entry.window.start - window.start))
    return max((entry.there / entry.window.seconds for entry in nearest), default=None)


@dataclass(frozen=True, slots=True)
class LedgerProgress:
    """Number of windows of the wanted range by state, and of traces over the windows with known coverage."""

    pending: int
    done: int
    empty: int
    partial: int
    failed: int
    expired: int
    traces_read: int
    traces_there: float

    @property
    def windows(self) -> int:
        """Number of windows in the range."""
        return self.pending + self.done + self.empty + self.partial + self.failed + self.expired

    @property
    def ratio(self) -> float:
        """Share of the windows that are read; 1 where the range is empty."""
        return 1 - (self.pending + self.failed) / self.windows if self.windows else 1.0

    @property
    def complete(self) -> bool:
        """Whether every window is read."""
        return not self.pending and not self.failed

    @property
    def has_no_traces(self) -> bool:
        """Whether all windows that were read are empty."""
        return not self.done and not self.partial and not self.expired

    @property
    def is_empty(self) -> bool:
        """Whether every window is read, and all are empty: Tempo returned nothing for the whole range."""
        return self.complete and self.has_no_traces and self.empty > 0

    @property
    def coverage(self) -> float | None:
        """Traces read divided by existing traces, over the windows where both are known; None where there are none."""
        return self.traces_read / self.traces_there if self.traces_there else None
