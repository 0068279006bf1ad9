"""Ledger entries: what the backfill writes down about windows that it read, or could not read."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from exporter.ingest.backfill_log import BackfillLog
from exporter.ingest.late_spans import LatePolicy
from exporter.ingest.read_policy import COUNTED_SHARE
from exporter.ingest.window_reader import BatchResult
from exporter.ingest.window_table import WindowRecord, was_sampled
from exporter.model.accumulator import WindowContent
from exporter.model.ledger import (
    MISSING_SHARE,
    READ_AGAIN_SECONDS,
    LedgerEntry,
    Window,
    WindowState,
    doubt_again_at,
    read_again_at,
    retry_pause_seconds,
)
from exporter.model.span import FilterReason
from exporter.store import Store, StoreError

_SAME_SHARE: Final = 0.9
"""Share of the estimated traces of an earlier sample from which on another sample is of the same traffic, or more."""


@dataclass(frozen=True, slots=True)
class WindowOutcome:
    """The result of reading one window.

    Attributes:
        content: what was read.
        found: the entry for it.
        stored: entry of an earlier read whose digests are in the database.
        left_out: spans that Tempo counts in the window beside what was read, as in :meth:`TempoCounts.leave_out`.
    """

    content: WindowContent
    found: LedgerEntry
    stored: LedgerEntry | None = None
    left_out: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether this read replaces the earlier one; it does unless it found fewer traces.

        Samples are compared by what they stand for, which is estimated.
        """
        if self.stored is None or self.stored.traces <= self.found.traces:
            return True
        are_samples = was_sampled(self.stored) and was_sampled(self.found)
        return are_samples and self.found.there >= self.stored.there_when_read * _SAME_SHARE

    @property
    def entry(self) -> LedgerEntry:
        """The entry for what is in the database from now on."""
        if self.stored is None or self.is_kept:
            return self.found
        # What Tempo no longer has is not worth further checks.
        return self.stored if self.found.traces else replace(self.stored, late_check_at=None)


def read_outcomes(
    result: BatchResult,
    records: Sequence[WindowRecord],
    counted: Callable[[Window, int], int | None],
    late: LatePolicy,
    *,
    began_at: float,
    seconds: float,
    now: float,
    is_all_empty: bool = False,
) -> list[WindowOutcome]:
    """Return the outcomes for windows that were read together; their cost is divided evenly.

    Args:
        result: what was read.
        records: what the queue knew of each window before.
        counted: returns how many traces Tempo counts in a window of which a number of traces was read, if known.
        late: says when windows are checked for spans that Tempo receives later.
        began_at: when the read began, Unix seconds.
        seconds: how long the read took.
        now: Unix seconds.
        is_all_empty: whether all windows that were read before are empty.
    """
    contents, reading = result.contents, result.reading
    share = 1 / len(contents)
    # Tempo counts a span that starts on an edge in the window before it, the ledger in the window after it.
    at_edges = [*(content.at_start for content in contents), reading.at_end]
    counts: list[int | None] = []
    shifts: list[int] = []
    for content, (at_start, at_end) in zip(contents, pairwise(at_edges), strict=True):
        count = counted(content.window, 0 if result.is_sampled else content.traces - at_start)
        if count is not None and not result.is_sampled:
            count = max(content.traces, count + at_start - at_end)
        counts.append(count)
        shifts.append(0 if result.is_sampled else at_end - at_start)
    # In which window the spans started that Tempo withheld is not known.
    read = sum(content.traces for content in contents)
    returned = read / (read + reading.missing) if read else 1.0
    left_out = [0] * len(contents) if result.is_sampled else _left_out(contents, counts, reading.left_out)
    outcomes = []
    for content, record, count, shift, left_out_here in zip(contents, records, counts, shifts, left_out, strict=True):
        window = content.window
        total: float | None = None if count is None else count - left_out_here
        if result.estimated_total is not None:
            estimate = result.estimated_total / returned
            # A count that is far too low would make a sample look like the whole window.
            total = estimate if total is None or total < estimate * COUNTED_SHARE else total
        is_cut = any(start < window.end and window.start < end for start, end in reading.truncated)
        # A sample without traces comes from a window that is too dense, not from an empty one.
        is_cut |= result.is_sampled and not content.traces
        state = WindowState.PARTIAL if is_cut else WindowState.DONE if content.traces else WindowState.EMPTY
        coverage = None if is_cut else returned if content.traces else 1.0
        if total:
            coverage = min(1.0, content.traces / total)
        retry_at = doubt_again_at(now, record.confirmations, is_all=is_all_empty) if state.doubtful else None
        rereads = record.stored.attempts if record.is_reread and record.stored is not None else int(record.is_reread)
        if state is WindowState.PARTIAL:
            retry_at = read_again_at(now, rereads)
        is_missing = state is WindowState.DONE and coverage is not None and coverage < 1 - MISSING_SHARE
        if is_missing and not result.is_sampled and not rereads:
            retry_at = now + READ_AGAIN_SECONDS
        late_check_at = late.next_check(window, began_at, only_last=state is WindowState.PARTIAL)
        may_lack = not result.is_sampled and late.may_lack(window, began_at, reading.longest_ns)
        if may_lack and coverage == 1.0:
            coverage = None
        found = LedgerEntry(
            window=window,
            state=state,
            read_at=began_at,
            traces=content.traces,
            stored=content.stored,
            coverage=coverage,
            requests=reading.requests * share,
            splits=reading.splits if len(contents) == 1 else 0,
            duration_seconds=seconds * share,
            attempts=record.confirmations if state.doubtful else rereads,
            retry_at=retry_at,
            late_check_at=late_check_at,
            late_spans=None if may_lack else 0,
        )
        outcomes.append(WindowOutcome(content, found, record.stored, left_out_here + shift))
    return outcomes


def _left_out(contents: Sequence[WindowContent], counts: Sequence[int | None], left_out: int) -> list[int]:
    """Attribute duplicates and invalid spans to the windows in which Tempo counts more than was read.

    Tempo counts them, and it is not known in which window each of them started.
    """
    gaps = [
        0 if count is None else max(0, count - content.traces) for content, count in zip(contents, counts, strict=True)
    ]
    explained = min(1.0, left_out / sum(gaps)) if any(gaps) else 0.0
    return [round(gap * explained) for gap in gaps]


def failed_entries(records: Iterable[WindowRecord], error: str, *, now: float) -> list[LedgerEntry]:
    """Return the entries for windows that could not be read, to be retried after a pause."""
    return [
        LedgerEntry(
            window=record.window,
            state=WindowState.FAILED,
            read_at=now,
            attempts=record.failures + 1,
            retry_at=now + retry_pause_seconds(record.failures + 1),
            error=error,
        )
        for record in records
    ]


def expired_entries(windows: Iterable[Window], *, now: float) -> list[LedgerEntry]:
    """Return the entries for windows that are older than Tempo's first trace."""
    return [
        LedgerEntry(window, WindowState.EXPIRED, read_at=now, retry_at=doubt_again_at(now, 0)) for window in windows
    ]


def empty_entries(windows: Iterable[Window], *, now: float, is_all: bool) -> list[LedgerEntry]:
    """Return the entries for windows in which a search found no traces; `is_all` as in :func:`doubt_again_at`."""
    retry_at = doubt_again_at(now, 0, is_all=is_all)
    return [LedgerEntry(window, WindowState.EMPTY, read_at=now, coverage=1.0, retry_at=retry_at) for window in windows]


def confirmed_entries(entries: Iterable[LedgerEntry], *, now: float, is_all: bool = False) -> list[LedgerEntry]:
    """Return the entries for windows that are still without traces; `is_all` as in :func:`doubt_again_at`."""
    return [
        replace(entry, attempts=entry.attempts + 1, retry_at=doubt_again_at(now, entry.attempts + 1, is_all=is_all))
        for entry in entries
    ]


def store_entries(store: Store, entries: Sequence[LedgerEntry], log: BackfillLog) -> None:
    """Write entries without digests to the ledger; if that fails, the queue still knows them until the next start."""
    try:
        store.commit(entries)
    except StoreError as error:
        log.entries_not_stored(error)


def skipped(contents: Iterable[WindowContent]) -> Counter[FilterReason]:
    """Count the spans that were read and not kept, by reason."""
    total: Counter[FilterReason] = Counter()
    for content in contents:
        total.update(content.skipped)
    return total
