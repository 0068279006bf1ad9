"""What became of some windows, as lines for the ledger."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from exporter.core.accumulate import WindowContent
from exporter.core.ledger import LedgerEntry, Window, WindowState, doubt_again_at, retry_pause_seconds
from exporter.reading.exact import Reading
from exporter.telemetry import SkipReason


def read_entries(
    contents: Sequence[WindowContent], reading: Reading, *, seconds: float, now: float
) -> list[LedgerEntry]:
    """The lines of windows that were read together; what that cost is shared out evenly.

    Args:
        contents: what was found in each.
        reading: how the reading went.
        seconds: how long it took.
        now: Unix seconds.
    """
    share = 1 / len(contents)
    entries = []
    for content in contents:
        window = content.window
        cut = any(start < window.end and window.start < end for start, end in reading.truncated)
        state = WindowState.PARTIAL if cut else WindowState.DONE if content.traces else WindowState.EMPTY
        entries.append(
            LedgerEntry(
                window=window,
                state=state,
                read_at=now,
                traces=content.traces,
                stored=content.stored,
                coverage=None if cut else 1.0,
                requests=reading.requests * share,
                splits=reading.splits if len(contents) == 1 else 0,
                duration_seconds=seconds * share,
                retry_at=doubt_again_at(now, 0) if state.doubtful else None,
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


def skipped(contents: Iterable[WindowContent]) -> Counter[SkipReason]:
    """How many spans were read and not kept, by reason."""
    total: Counter[SkipReason] = Counter()
    for content in contents:
        total.update(content.skipped)
    return total
