"""Finds out how far back Tempo's traces go, with a few wide searches instead of an empty one for every window."""

from collections.abc import Callable, Sequence

from exporter.core.ledger import Window
from exporter.reading.exact import Searcher
from exporter.tempo.errors import RangeTooLongError


def expired_windows(windows: Sequence[Window], exists: Callable[[int, int], bool]) -> Sequence[Window]:
    """Those at the beginning of some windows that lie before the first trace.

    Every search asks for any one trace from the beginning of the first window to the end of some window. The answers
    are "no" up to the window where the traces begin and "yes" from there on, so halving finds it. The first window
    alone is asked about first: where the retention is longer than what is wanted, that is all it takes.

    Args:
        windows: by time, not overlapping.
        exists: whether any trace overlaps ``[start, end]``.

    Returns:
        The windows before the first trace; none where there is no trace at all, since that says nothing about
        retention: Tempo may just be new.
    """
    low, high = 0, len(windows)
    while low < high:
        middle = (low + high) // 2 if low else 0
        if exists(windows[0].start, windows[middle].end):
            high = middle
        else:
            low = middle + 1
    return windows[:low] if low < len(windows) else ()


def any_trace(searcher: Searcher, start: int, end: int) -> bool:
    """Whether any trace overlaps ``[start, end]``, which may be longer than Tempo searches at once; newest part first.

    Raises:
        TempoError: a search failed for good.
    """
    longest = searcher.max_range_seconds or end - start
    try:
        return any(
            searcher.exists(max(start, last - longest), last, loop="backfill") for last in range(end, start, -longest)
        )
    except RangeTooLongError:
        learned = searcher.max_range_seconds
        if learned is None or learned >= longest:
            raise
        return any_trace(searcher, start, end)
