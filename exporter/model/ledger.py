"""The ledger of windows: what of the past has been read, what is still wanted, and what to read next.

All times are whole Unix seconds and all ranges are half-open. The ledger's entries may have been made under another
configuration; whatever they are, the windows planned here and the entries that count as read cover the wanted range
exactly once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import nsmallest
from typing import Final, NamedTuple

from exporter.model.calendar import HOUR_SECONDS, Calendar


class Window(NamedTuple):
    """A range ``[start, end)`` of whole seconds within one hour of the local clock: what the ledger accounts for."""

    start: int
    end: int

    @property
    def seconds(self) -> int:
        """Its length."""
        return self.end - self.start


class WindowState(StrEnum):
    """What became of a window."""

    DONE = "done"
    EMPTY = "empty"
    PARTIAL = "partial"
    FAILED = "failed"
    EXPIRED = "expired"

    @property
    def settled(self) -> bool:
        """Whether the window needs no further reading."""
        return self is not WindowState.FAILED

    @property
    def doubtful(self) -> bool:
        """Whether it rests on Tempo having said that there is nothing."""
        return self in (WindowState.EMPTY, WindowState.EXPIRED)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One window's line in the ledger.

    Attributes:
        window: the range.
        state: what became of it.
        traces: spans in scope that started in it and were read.
        stored: those of them that stand in its digests; the rest was filtered out or found no room.
        coverage: share of what is there that was read; absent where that is unknown.
        requests: searches it took; a search that read several windows counts for each by its share.
        splits: searches that had to be halved.
        duration_seconds: how long the reading took.
        attempts: failed attempts so far; of a window without traces, how often it was asked about again; of one that
            was read, how often it was read again since traces were missing.
        retry_at: when a failed window may be tried again, one without traces is asked about again, or one of which
            traces are missing is read again.
        error: why the last attempt failed.
        read_at: when this line was written.
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

    @property
    def there(self) -> float:
        """How many traces there are in it, as far as is known."""
        return self.traces / self.coverage if self.coverage else self.traces

    @property
    def has_density(self) -> bool:
        """Whether the entry says how dense traffic was; a partial window without traces was too dense to be read."""
        read_in_part = self.state is WindowState.PARTIAL and self.traces > 0
        return read_in_part or self.state in (WindowState.DONE, WindowState.EMPTY)


LONGEST_SEARCH_SECONDS: Final = 168 * HOUR_SECONDS
"""The longest range that Tempo searches unless configured otherwise (``max_duration``)."""

FIRST_RETRY_SECONDS: Final = 30
LONGEST_RETRY_SECONDS: Final = 3600


READ_AGAIN_SECONDS: Final = 900
"""When a window of which traces are missing is read once more: they may be on their way."""

MISSING_SHARE: Final = 0.01
"""So small a share of missing traces changes no quantile that anybody could tell, and is let be."""


_DOUBTS_SECONDS: Final = (900, 3600, 6 * 3600, 24 * 3600)


def doubt_again_at(now: float, confirmations: int) -> float | None:
    """When to ask once more whether a window without traces really has none; at some point that is believed.

    Tempo answers "no traces" also while the block that holds them is not yet in its list of blocks, which it renews
    every few minutes, or while an ingester is late to hand over what it has.

    Args:
        now: Unix seconds.
        confirmations: how often it was asked already and there was nothing.
    """
    return now + _DOUBTS_SECONDS[confirmations] if confirmations < len(_DOUBTS_SECONDS) else None


def retry_pause_seconds(attempts: int) -> int:
    """How long a window rests after so many failed attempts: doubling from half a minute up to an hour."""
    return min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS << min(max(attempts, 1) - 1, 16))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The range of history that is wanted, and how it is cut.

    Attributes:
        start: where history begins.
        end: the end of the last settled window.
        step_seconds: the longest window, an hour or a divisor of it.
    """

    start: int
    end: int
    step_seconds: int


def wanted(
    now: float, calendar: Calendar, *, duration_seconds: float, settle_seconds: float, batch_seconds: float
) -> Wanted:
    """The history wanted at an instant: so far back, up to the last window that has settled."""
    step = min(HOUR_SECONDS, int(batch_seconds))
    end = calendar.grid_floor(int(now - settle_seconds), step)
    return Wanted(min(end, calendar.grid_floor(int(now - duration_seconds), step)), end, step)


def pending(entries: Iterable[LedgerEntry], range_: Wanted, calendar: Calendar) -> list[Window]:
    """All windows of the range that still have to be read, newest first, whether or not they may be tried now."""
    read = sorted(entry.window for entry in entries if entry.state.settled)
    windows = [
        Window(start, end)
        for gap_start, gap_end in _gaps(read, range_.start, range_.end)
        for start, end in calendar.windows(gap_start, gap_end, range_.step_seconds)
    ]
    windows.reverse()
    return windows


def _gaps(read: Iterable[Window], start: int, end: int) -> Iterator[tuple[int, int]]:
    """What sorted windows leave of a range."""
    for window in read:
        if window.start >= end:
            break
        if window.start > start:
            yield start, window.start
        start = max(start, window.end)
    if start < end:
        yield start, end


def ready(windows: Iterable[Window], entries: Iterable[LedgerEntry], now: float) -> list[Window]:
    """Those of some pending windows that are not resting after a failure.

    A rest longer than the longest there is was written by a clock that has since been set back; it is over.
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
    """Adjacent windows that are read together, oldest first, and how many traces to expect in them."""

    windows: tuple[Window, ...]
    expected_traces: float | None

    @property
    def start(self) -> int:
        """Where it begins."""
        return self.windows[0].start

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.windows[-1].end


@dataclass(frozen=True, slots=True)
class BatchRules:
    """How large a batch may become.

    Attributes:
        limit: traces per search. A batch is meant to fill at most :attr:`fill` of it.
        most_traces: traces that are read of one window at most; a denser one is a batch of its own.
        usual_windows: windows per batch while nothing is known of the traffic.
        most_windows: windows per batch at most, so that progress is made in steps that can be seen.
        longest_seconds: the longest range Tempo lets be searched at once.
        fill: the share of the limit to aim for; traffic is not even, and a saturated search is wasted.
    """

    limit: int
    most_traces: int = 50_000
    usual_windows: int = 1
    most_windows: int = 24
    longest_seconds: int = LONGEST_SEARCH_SECONDS
    fill: float = 0.6


def next_batch(
    windows: Sequence[Window],
    known: Iterable[LedgerEntry],
    rules: BatchRules,
    counted: Callable[[Window], int | None] = lambda window: None,  # noqa: ARG005
) -> Batch:
    """The newest of some pending windows (newest first, not empty), with as many older neighbours as fit.

    How much a window holds is what Tempo has counted, or is expected from its nearest neighbours in time that have
    been read. One that has failed before is read alone, so that it holds up no other.
    """
    known = list(known)
    failed = {entry.window for entry in known if entry.state is WindowState.FAILED}
    first = windows[0]
    density = expected_density(first, known)

    def expected(window: Window) -> float | None:
        count = counted(window)
        return count if count is not None else None if density is None else density * window.seconds

    traces = expected(first)
    room = min(rules.limit * rules.fill, rules.most_traces)
    chosen = [first]
    if first not in failed:
        for window in windows[1:]:
            more = expected(window)
            together = None if traces is None or more is None else traces + more
            fits = len(chosen) < rules.usual_windows if together is None else together <= room
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
    """Traces a second to expect in a window: the most that any of the nearest windows had, or nothing known."""
    # One that was too dense for anything of it to be read is the opposite of empty.
    read = [entry for entry in known if entry.has_density]
    nearest = nsmallest(neighbours, read, key=lambda entry: abs(entry.window.start - window.start))
    return max((entry.there / entry.window.seconds for entry in nearest), default=None)


@dataclass(frozen=True, slots=True)
class LedgerProgress:
    """How far the ledger has come over the wanted range."""

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
        """All windows wanted."""
        return self.pending + self.done + self.empty + self.partial + self.failed + self.expired

    @property
    def ratio(self) -> float:
        """The share of the wanted windows that need no more reading; 1 where nothing is wanted."""
        return 1 - (self.pending + self.failed) / self.windows if self.windows else 1.0

    @property
    def complete(self) -> bool:
        """Whether nothing settled is left unread."""
        return not self.pending and not self.failed

    @property
    def coverage(self) -> float | None:
        """Traces read over traces there, where both are known; absent where neither is."""
        return self.traces_read / self.traces_there if self.traces_there else None


def progress(entries: Iterable[LedgerEntry], unread: Iterable[Window], range_: Wanted) -> LedgerProgress:
    """Count the windows of the wanted range by state.

    Args:
        entries: the ledger.
        unread: what :func:`pending` says of the range.
        range_: the range.
    """
    wanted_range = Window(range_.start, range_.end)
    inside = [entry for entry in entries if _overlap(entry.window, wanted_range)]
    failed = {entry.window for entry in inside if entry.state is WindowState.FAILED}
    unread_failed = [window in failed for window in unread]
    states = [entry.state for entry in inside]
    covered = [entry for entry in inside if entry.coverage]
    return LedgerProgress(
        pending=unread_failed.count(False),
        done=states.count(WindowState.DONE),
        empty=states.count(WindowState.EMPTY),
        partial=states.count(WindowState.PARTIAL),
        failed=unread_failed.count(True),
        expired=states.count(WindowState.EXPIRED),
        traces_read=sum(entry.traces for entry in covered),
        traces_there=sum(entry.there for entry in covered),
    )
