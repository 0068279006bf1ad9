"""What became of some windows, as lines for the ledger."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from exporter.ingest.window_reader import BatchResult
from exporter.model.accumulator import WindowContent
from exporter.model.ledger import (
    MISSING_SHARE,
    READ_AGAIN_SECONDS,
    LedgerEntry,
    Window,
    WindowState,
    doubt_again_at,
    retry_pause_seconds,
)
from exporter.model.span import FilterReason


def read_entries(
    part: BatchResult,
    counted: Callable[[Window, int], int | None],
    rereads: Sequence[int],
    asked: Sequence[int],
    *,
    seconds: float,
    now: float,
) -> list[LedgerEntry]:
    """The lines of windows that were read together; what that cost is shared out evenly.

    Args:
        part: what was read.
        counted: how many traces there are in a window of which so many were read, if that is known.
        rereads: how often each was read before since traces of it were missing.
        asked: how often it was asked before whether each is without traces.
        seconds: how long it took.
        now: Unix seconds.
    """
    contents, reading = part.contents, part.reading
    share = 1 / len(contents)
    # Tempo counts a span that starts on an edge with what is before the edge, and the ledger with what is behind it.
    at_edges = [*(content.at_start for content in contents), reading.at_end]
    entries = []
    for content, reread, doubts, (at_start, at_end) in zip(contents, rereads, asked, pairwise(at_edges), strict=True):
        window = content.window
        there: float | None = counted(window, 0 if part.sampled else content.traces - at_start)
        if there is not None and not part.sampled:
            there = max(content.traces, there + at_start - at_end)
        if there is None:
            there = part.there
        cut = any(start < window.end and window.start < end for start, end in reading.truncated)
        # A sample with nothing in it is of a window that is anything but empty.
        cut |= part.sampled and not content.traces
        state = WindowState.PARTIAL if cut else WindowState.DONE if content.traces else WindowState.EMPTY
        coverage = None if cut else 1.0
        if there:
            coverage = min(1.0, content.traces / there)
        retry_at = doubt_again_at(now, doubts) if state.doubtful else None
        missing = state is WindowState.DONE and coverage is not None and coverage < 1 - MISSING_SHARE
        if missing and not part.sampled and not reread:
            retry_at = now + READ_AGAIN_SECONDS
        entries.append(
            LedgerEntry(
                window=window,
                state=state,
                read_at=now,
                traces=content.traces,
                stored=content.stored,
                coverage=coverage,
                requests=reading.requests * share,
                splits=reading.splits if len(contents) == 1 else 0,
                duration_seconds=seconds * share,
                attempts=doubts if state.doubtful else reread,
                retry_at=retry_at,
            )
        )
    return entries


def failed_entries(
    windows: Iterable[Window], attempts: Callable[[Window], int], error: str, *, now: float
) -> list[LedgerEntry]:
    """The lines of windows that could not be read.

    Args:
        windows: the windows.
        attempts: how often each has failed before.
        error: why it failed this time.
        now: Unix seconds.
    """
    entries = []
    for window in windows:
        failures = attempts(window) + 1
        entries.append(
            LedgerEntry(
                window=window,
                state=WindowState.FAILED,
                read_at=now,
                attempts=failures,
                retry_at=now + retry_pause_seconds(failures),
                error=error,
            )
        )
    return entries


def expired_entries(windows: Iterable[Window], *, now: float) -> list[LedgerEntry]:
    """The lines of windows that lie before Tempo's first traces."""
    return [
        LedgerEntry(window, WindowState.EXPIRED, read_at=now, retry_at=doubt_again_at(now, 0)) for window in windows
    ]


def confirmed_entries(entries: Iterable[LedgerEntry], *, now: float) -> list[LedgerEntry]:
    """The lines of windows without traces after one more question had the same answer."""
    return [
        replace(entry, attempts=entry.attempts + 1, retry_at=doubt_again_at(now, entry.attempts + 1))
        for entry in entries
    ]


def was_sampled(entry: LedgerEntry) -> bool:
    """Whether a line is of a window that was too dense to be read whole, so that a sample of it was meant to do.

    Of a window that was to be read whole and lacks as much it is known that it is to be read once more, or was.
    """
    lacks = entry.coverage is not None and entry.coverage < 1 - MISSING_SHARE
    return lacks and entry.state is WindowState.DONE and entry.retry_at is None and not entry.attempts


def skipped(contents: Iterable[WindowContent]) -> Counter[FilterReason]:
    """How many spans were read and not kept, by reason."""
    total: Counter[FilterReason] = Counter()
    for content in contents:
        total.update(content.skipped)
    return total
