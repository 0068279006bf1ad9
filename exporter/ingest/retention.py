"""Finds out what Tempo has no traces of: windows older than its retention, and empty windows.

A few wide searches take the place of one empty search for every window. Neither result is final: a Tempo that has just
started knows few of its blocks, so both are asked for again.
"""

from collections.abc import Callable, Sequence
from functools import partial

from exporter.ingest.backfill_log import BackfillLog
from exporter.ingest.backfill_queue import BackfillQueue, ConfirmEmpty, ProbeRetention
from exporter.ingest.exact_reader import SearchClient
from exporter.ingest.ledger_entries import confirmed_entries, empty_entries, expired_entries, store_entries
from exporter.model.ledger import Window
from exporter.store import Store
from exporter.tempo.errors import RangeTooLongError, StoppedError


def windows_before_traces(windows: Sequence[Window], exists: Callable[[int, int], bool]) -> int:
    """Return the number of windows that are older than the first trace; all of them where there is no trace at all.

    Every search asks for any trace between what is known to hold none and the end of some window. The answer is "no" up
    to the window in which traces begin and "yes" from there on, so bisection finds it. The first window alone is
    searched first: where Tempo keeps traces longer than wanted, one search is enough. No stretch without traces is
    searched twice, because Tempo may allow short ranges only.

    Args:
        windows: by time, not overlapping.
        exists: whether any trace overlaps ``[start, end]``.
    """
    low, high = 0, len(windows)
    while low < high:
        middle = (low + high) // 2 if low else 0
        if exists(windows[low - 1].end if low else windows[0].start, windows[middle].end):
            high = middle
        else:
            low = middle + 1
    return low


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
        """Record the windows that are older than Tempo's first trace as expired; without any trace, as empty."""
        try:
            windows = work.windows
            count = windows_before_traces(windows, partial(any_trace, self._client))
            # Other workers went on reading; windows that they took are theirs.
            claimed = self._queue.claim_expired(windows[:count])
            if count < len(windows):
                entries = expired_entries(claimed, now=self._clock())
                if claimed:
                    self._log.expired(claimed)
            else:
                # That Tempo has no trace at all says nothing about its retention, since it may be new. But there is no
                # need to read the windows one by one.
                entries = empty_entries(claimed, now=self._clock(), is_all=self._queue.status.progress.has_no_traces)
            if claimed:
                store_entries(self._store, entries, self._log)
            self._queue.finish_probe(windows[count - 1].end if count else windows[0].start, entries)
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
                is_all = self._queue.status.progress.has_no_traces
                entries = confirmed_entries(work.entries, now=self._clock(), is_all=is_all)
                store_entries(self._store, entries, self._log)
                self._queue.confirm(entries)
