"""What became of some windows, as lines for the ledger."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from exporter.core.accumulate import WindowContent
from exporter.core.ledger import LedgerEntry, Window, WindowState, retry_pause_seconds
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
        entries.append(
            LedgerEntry(
                window=window,
                state=WindowState.PARTIAL if cut else WindowState.DONE if content.traces else WindowState.EMPTY,
                read_at=now,
                traces=content.traces,
                stored=content.stored,
                coverage=None if cut else 1.0,
                requests=reading.requests * share,
                splits=reading.splits if len(contents) == 1 else 0,
                duration_seconds=seconds * share,
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


def skipped(contents: Iterable[WindowContent]) -> Counter[SkipReason]:
    """How many spans were read and not kept, by reason."""
    total: Counter[SkipReason] = Counter()
    for content in contents:
        total.update(content.skipped)
    return total
