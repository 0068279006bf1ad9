"""Which part of the past is written: what is settled, and nothing that Prometheus has, or may have, itself.

Blocks that reach into the time that Prometheus still holds in memory make it drop what it scraped of that time when it
is next restarted, of everything that it watches. So by default the past ends where the exporter began, and in any case
three hours ago.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.model.calendar import HOUR_SECONDS, Calendar
from exporter.model.ledger import LedgerEntry, Wanted, WindowState, pending

HEAD_SECONDS: Final = 3 * HOUR_SECONDS
"""So much of the newest past Prometheus may still hold in memory."""


class NothingToWriteError(Exception):
    """There is no past to write; the message says what to do."""


class IncompleteHistoryError(Exception):
    """Part of the past has not been read yet; the message says what to do."""


@dataclass(frozen=True, slots=True)
class HistoryRange:
    """The part of the past that is written.

    Attributes:
        since: Unix seconds; moments after this are written,
        until: up to and including this.
        why: why it ends there, in words that follow "it ends there because".
    """

    since: int
    until: int
    why: str


def choose_range(
    entries: Sequence[LedgerEntry], now: float, *, since: int | None = None, until: int | None = None
) -> HistoryRange:
    """The part of the past to write.

    Args:
        entries: the ledger.
        now: Unix seconds.
        since: where it is to begin, if not with what is stored.
        until: where it is to end, if not by itself; what has not settled is left out all the same.

    Raises:
        NothingToWriteError: nothing is stored of it.
    """
    stored = [entry.window for entry in entries if entry.state in _STANDING and entry.stored]
    if not stored:
        raise NothingToWriteError("the history is still empty: let the exporter read some first")
    oldest = min(window.start for window in stored)
    newest = max(entry.window.end for entry in entries if entry.state in _STANDING)
    ends = [(newest, "what is newer has not been read yet")]
    if until is None:
        ends.append((int(now) - HEAD_SECONDS, "what is newer, Prometheus may still hold in memory"))
        began = _began(entries)
        if began is not None:
            ends.append((began, "that is when the exporter began, and Prometheus has scraped it since"))
    else:
        ends.append((until, "--until says so"))
    end, why = min(ends)
    begin = oldest if since is None else max(since, oldest)
    if begin >= end:
        raise NothingToWriteError(
            "nothing is stored of that time"
            if since is not None or until is not None
            else "what is stored is too new: Prometheus may still hold that time in memory. Come back in "
            f"{_hours_until(oldest + HEAD_SECONDS + HOUR_SECONDS, now)} h, or, if it does not scrape anything yet, "
            "say where the history is to end with --until"
        )
    return HistoryRange(begin, end, why)


_STANDING: Final = (WindowState.DONE, WindowState.PARTIAL, WindowState.EMPTY)


def _began(entries: Iterable[LedgerEntry]) -> int | None:
    """When the exporter began: the first time that it wrote to this ledger, as far as its clock can be believed."""
    written = [entry.read_at for entry in entries if entry.read_at >= entry.window.end]
    return int(min(written)) if written else None


def _hours_until(at: int, now: float) -> int:
    return max(1, -(-(at - int(now)) // HOUR_SECONDS))


def require_complete(
    entries: Iterable[LedgerEntry], wanted: Wanted, since: int | None, until: int, calendar: Calendar
) -> None:
    """Make sure that nothing of what is to be written is still to be read.

    Args:
        entries: the ledger.
        wanted: the history that the exporter wants. It is read from its newest end, so that what is stored already may
            have no gap and yet be the least of it.
        since: where the history is to begin; with the oldest that is wanted where absent.
        until: where it ends.
        calendar: how it is cut into windows.

    Raises:
        UnreadError: something is.
    """
    missing = [
        window
        for window in pending(entries, wanted, calendar)
        if window.start < until and (since is None or window.end > since)
    ]
    if missing:
        raise IncompleteHistoryError(
            f"{len(missing):,} windows of that time are still to be read: wait until backfill_complete on /metrics is "
            "1 (blocks that were loaded into Prometheus cannot be completed later), or write what there is with "
            "--incomplete"
        )
