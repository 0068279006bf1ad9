"""Finds out what Tempo has no traces of: windows older than its retention, and empty windows.

A few wide searches take the place of one empty search for every window. Neither result is final: a Tempo that has just
started knows few of its blocks, so both are asked for again.
"""

from collections.abc import Callable, Sequence
from functools import partial

from exporter.ingest.backfill_log import BackfillLog
from exporter.ingest.backfill_queue import BackfillQueue, ConfirmEmpty, ProbeRetention
from exporter.ingest.exact_reader import SearchClient
from exporter.ingest.ledger_entries import confirmed_entries, expired_entries, store_entries
from exporter.model.ledger import Window
from exporter.store import Store
from exporter.tempo.errors import RangeTooLongError, StoppedError


def expired_windows(windows: Sequence[Window], exists: Callable[[int, int], bool]) -> Sequence[Window]:
    """Return the windows that are older than the first trace.

    Every search asks for any trace between the start of the first window and the end of some window. The answer is "no"
    up to the window in which traces begin and "yes" from there on, so bisection finds it. The first window alone is
    searched first: where Tempo keeps traces longer than wanted, one search is enough.

    Args:
        windows: by time, not overlapping.
        exists: whether any trace overlaps ``[start, end]``.

    Returns:
        The windows before the first trace; none where there is no trace at all, which says nothing about retention:
        Tempo may be new.
    """
    low, high = 0, len(windows)
    while low < high:
        middle = (low + high) // 2 if low else 0
        if exists(windows[0].start, windows[middle].end):
            high = middle
        else:
            low = middle + 1
    return windows[:low] if low < len(windows) else ()


def any_trace(client: SearchClient, start: int, end: int) -> bool:
    """Whether any trace overlaps ``[start, end]``; a range longer than Tempo searches is divided, newest part first.

    Raises:
        TempoError: a search failed.
    """
    longest = client.max_range_seconds or end - start
    try:
        return any(
            client.exists(max(start, last - longest), last, loop="backfill") for last in range(end, start, -longest)
        )
    except RangeTooLongError:
        allowed = client.max_range_seconds
        if allowed is None or allowed >= longest:
            raise
        return any_trace(client, start, end)


class RetentionProber:
    """Asks Tempo where its traces begin, and whether empty windows still are empty, and reports to the queue."""

    def __init__(
        self,
        client: SearchClient,
        queue: BackfillQueue,
        store: Store,
        log: BackfillLog,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._queue = queue
        self._store = store
        self._log = log
        self._clock = clock

    def probe(self, work: ProbeRetention) -> None:
        """Record the windows that are older than Tempo's first trace as expired."""
        try:
            expired = expired_windows(work.windows, partial(any_trace, self._client))
            # Other workers went on reading; windows that they took are theirs.
            claimed = self._queue.claim_expired(expired)
            entries = expired_entries(claimed, now=self._clock())
            if claimed:
                self._log.expired(claimed)
                store_entries(self._store, entries, self._log)
            self._queue.finish_probe(expired[-1].end if expired else work.windows[0].start, entries)
        except StoppedError:
            self._queue.abandon_probe()
        except Exception as error:  # noqa: BLE001 - a defect must neither end the loop nor go unnoticed
            self._log.retention_unknown(error)
            self._queue.abandon_probe(failed=True)

    def confirm(self, work: ConfirmEmpty) -> None:
        """Ask whether a stretch of empty windows still is empty; it is read if it is not."""
        windows = [entry.window for entry in work.entries]
        try:
            # Without the last second: a trace that starts at the end of a range belongs to the next window.
            has_traces = any_trace(self._client, windows[0].start, windows[-1].end - 1)
        except StoppedError:
            self._queue.release(windows)
        except Exception as error:  # noqa: BLE001 - as above
            self._log.retention_unknown(error)
            self._queue.release(windows, failed=True)
        else:
            if has_traces:
                self._log.reopened(windows)
                self._queue.reopen(windows)
            else:
                entries = confirmed_entries(work.entries, now=self._clock())
                store_entries(self._store, entries, self._log)
                self._queue.confirm(entries)
