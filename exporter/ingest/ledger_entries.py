"""Ledger entries: what the backfill writes down about windows that it read, or could not read."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from exporter.ingest.backfill_log import BackfillLog
from exporter.ingest.window_reader import BatchResult
from exporter.ingest.window_table import WindowRecord
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


@dataclass(frozen=True, slots=True)
class WindowOutcome:
    """The result of reading one window.

    Attributes:
        content: what was read.
        found: the entry for it.
        stored: entry of an earlier read whose digests are in the database.
    """

    content: WindowContent
    found: LedgerEntry
    stored: LedgerEntry | None = None

    @property
    def is_kept(self) -> bool:
        """Whether this read replaces the earlier one; it does unless it found fewer traces."""
        return self.stored is None or self.stored.traces <= self.found.traces

    @property
    def entry(self) -> LedgerEntry:
        """The entry for what is in the database from now on."""
        return self.found if self.stored is None or self.is_kept else self.stored


def read_outcomes(
    result: BatchResult,
    records: Sequence[WindowRecord],
    counted: Callable[[Window, int], int | None],
    *,
    seconds: float,
    now: float,
) -> list[WindowOutcome]:
    """Return the outcomes for windows that were read together; their cost is divided evenly.

    Args:
        result: what was read.
        records: what the queue knew of each window before.
        counted: returns how many traces Tempo counts in a window of which a number of traces was read, if known.
        seconds: how long the read took.
        now: Unix seconds.
    """
    contents, reading = result.contents, result.reading
    share = 1 / len(contents)
    # Tempo counts a span that starts on an edge in the window before it, the ledger in the window after it.
    at_edges = [*(content.at_start for content in contents), reading.at_end]
    outcomes = []
    for content, record, (at_start, at_end) in zip(contents, records, pairwise(at_edges), strict=True):
        window = content.window
        total: float | None = counted(window, 0 if result.is_sampled else content.traces - at_start)
        if total is not None and not result.is_sampled:
            total = max(content.traces, total + at_start - at_end)
        if total is None:
            total = result.estimated_total
        is_cut = any(start < window.end and window.start < end for start, end in reading.truncated)
        # A sample without traces comes from a window that is too dense, not from an empty one.
        is_cut |= result.is_sampled and not content.traces
        state = WindowState.PARTIAL if is_cut else WindowState.DONE if content.traces else WindowState.EMPTY
        coverage = None if is_cut else 1.0
        if total:
            coverage = min(1.0, content.traces / total)
        retry_at = doubt_again_at(now, record.confirmations) if state.doubtful else None
        rereads = record.stored.attempts if record.is_reread and record.stored is not None else int(record.is_reread)
        if state is WindowState.PARTIAL:
            retry_at = read_again_at(now, rereads)
        is_missing = state is WindowState.DONE and coverage is not None and coverage < 1 - MISSING_SHARE
        if is_missing and not result.is_sampled and not record.is_reread:
            retry_at = now + READ_AGAIN_SECONDS
        found = LedgerEntry(
            window=window,
            state=state,
            read_at=now,
            traces=content.traces,
            stored=content.stored,
            coverage=coverage,
            requests=reading.requests * share,
            splits=reading.splits if len(contents) == 1 else 0,
            duration_seconds=seconds * share,
            attempts=record.confirmations if state.doubtful else rereads,
            retry_at=retry_at,
        )
        outcomes.append(WindowOutcome(content, found, record.stored))
    return outcomes


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


def confirmed_entries(entries: Iterable[LedgerEntry], *, now: float) -> list[LedgerEntry]:
    """Return the entries for windows without traces after Tempo has confirmed once more that there are none."""
    return [
        replace(entry, attempts=entry.attempts + 1, retry_at=doubt_again_at(now, entry.attempts + 1))
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
