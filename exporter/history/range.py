"""Chooses the range of history to write: settled, and nothing that Prometheus has scraped or may still hold in memory.

If blocks overlap the range that Prometheus holds in memory (its head), Prometheus drops all scraped samples of that
range at its next restart, for all its targets. So by default the range ends where the exporter first started, and at
the latest three hours ago.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.model.calendar import HOUR_SECONDS, Calendar
from exporter.model.ledger import LedgerEntry, Wanted, WindowState, pending

HEAD_SECONDS: Final = 3 * HOUR_SECONDS
"""Age of the oldest samples that Prometheus may still hold in memory."""


class NothingToWriteError(Exception):
    """There is no history to write; the message says what to do."""


class IncompleteHistoryError(Exception):
    """Part of the range is not read yet; the message says what to do."""


@dataclass(frozen=True, slots=True)
class HistoryRange:
    """The range of history that is written.

    Attributes:
        since: start, Unix seconds, excluded.
        until: end, Unix seconds, included.
        reason: why it ends there, as text that follows "it ends there because".
    """

    since: int
    until: int
    reason: str


def choose_range(
    entries: Sequence[LedgerEntry], now: float, *, since: int | None = None, until: int | None = None
) -> HistoryRange:
    """Choose the range of history to write.

    Args:
        entries: the ledger.
        now: Unix seconds.
        since: requested start; None means the start of the stored history.
        until: requested end; None means as late as is safe. The end of the settled history is a limit in any case.

    Raises:
        NothingToWriteError: there is no stored history in the range.
    """
    stored = [entry.window for entry in entries if entry.state in _READ_STATES and entry.stored]
    if not stored:
        raise NothingToWriteError("the history is empty: run the exporter until it has read some")
    oldest = min(window.start for window in stored)
    newest = max(entry.window.end for entry in entries if entry.state in _READ_STATES)
    ends = [(newest, "newer history is not read yet")]
    if until is None:
        ends.append((int(now) - HEAD_SECONDS, "Prometheus may still hold newer samples in memory"))
        started_at = _first_started_at(entries)
        if started_at is not None:
            ends.append((started_at, "the exporter first started then, and Prometheus has scraped it since"))
    else:
        ends.append((until, "--until is set"))
    end, reason = min(ends)
    start = oldest if since is None else max(since, oldest)
    if start >= end:
        raise NothingToWriteError(
            "no history is stored in that range"
            if since is not None or until is not None
            else "the stored history is too recent: Prometheus may still hold samples of that time in memory. Try "
            f"again in {_hours_until(oldest + HEAD_SECONDS + HOUR_SECONDS, now)} h, or set the end with --until if "
            "Prometheus does not scrape anything yet"
        )
    return HistoryRange(start, end, reason)


_READ_STATES: Final = (WindowState.DONE, WindowState.PARTIAL, WindowState.EMPTY)


def _first_started_at(entries: Iterable[LedgerEntry]) -> int | None:
    """Return when the exporter first wrote to this ledger; entries with an implausible time are ignored."""
    read_times = [entry.read_at for entry in entries if entry.read_at >= entry.window.end]
    return int(min(read_times)) if read_times else None


def _hours_until(at: int, now: float) -> int:
    return max(1, -(-(at - int(now)) // HOUR_SECONDS))


def require_complete(
    entries: Iterable[LedgerEntry], wanted: Wanted, since: int | None, until: int, calendar: Calendar
) -> None:
    """Check that all wanted windows in the range are read.

    Args:
        entries: the ledger.
        wanted: the history that the exporter is configured to read. Backfill starts with the newest window, so the
            stored history may have no gap and still be only a small part of it.
        since: start of the range; None means the start of the wanted history.
        until: end of the range.
        calendar: divides the range into windows.

    Raises:
        IncompleteHistoryError: some are not read yet.
    """
    missing = [
        window
        for window in pending(entries, wanted, calendar)
        if window.start < until and (since is None or window.end > since)
    ]
    if missing:
        raise IncompleteHistoryError(
            f"{len(missing):,} windows in that range are not read yet: wait until backfill_complete on /metrics is 1 "
            "(blocks that Prometheus has imported cannot be completed later), or write the incomplete history with "
            "--incomplete"
        )
