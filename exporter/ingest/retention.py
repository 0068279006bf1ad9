"""Finds out how far back Tempo's traces go, with a few wide searches instead of an empty one for every window.

What Tempo has nothing of: windows from before its first traces, and windows without traces.

Neither need be so for ever. A Tempo that has just started knows few of its blocks, so both are asked about again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from exporter.ingest.backfill_log import BackfillLog
from exporter.ingest.backfill_queue import OpenWork
from exporter.ingest.exact_reader import Searcher
from exporter.ingest.ledger_entries import confirmed_entries, expired_entries
from exporter.model.ledger import LedgerEntry, Window
from exporter.tempo.errors import RangeTooLongError, StoppedError


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


_PROBE_FROM_WINDOWS: Final = 12
"""Fewer windows than this are read as fast as Tempo's retention is probed."""


class RetentionProber:
    """Asks Tempo where its traces begin, and whether there is still nothing where there was nothing."""

    def __init__(self, searcher: Searcher, work: OpenWork, report: BackfillLog, clock: Callable[[], float]) -> None:
        self._searcher = searcher
        self._work = work
        self._report = report
        self._clock = clock
        # Guarded by the condition of the work.
        self._probing = False
        self._probed_from: int | None = None

    # To be called by whoever holds the condition of the work

    @property
    def probing(self) -> bool:
        """Whether somebody is finding out where Tempo's traces begin."""
        return self._probing

    def take(self) -> Sequence[Window]:
        """The windows never tried, if there are so many that it is worth asking first where Tempo's traces begin.

        Whoever takes them calls :meth:`find_oldest`.
        """
        if self._probing or self._work.resting_seconds:
            return ()
        untouched = self._work.plan.untouched()
        if len(untouched) < _PROBE_FROM_WINDOWS or untouched[0].start == self._probed_from:
            return ()
        self._probing = True
        return untouched

    # To be called without it

    def find_oldest(self, windows: Sequence[Window]) -> None:
        """Give up all windows before Tempo's first traces."""
        work = self._work
        try:
            expired = expired_windows(windows, partial(any_trace, self._searcher))
            self._expire(expired)
        except StoppedError:
            pass
        except Exception as error:  # noqa: BLE001 - a defect of ours must neither end the loop nor go unseen
            self._report.not_probed(error)
            with work.changed:
                work.rest()
        else:
            with work.changed:
                self._probed_from = expired[-1].end if expired else windows[0].start
        finally:
            with work.changed:
                self._probing = False
                work.changed.notify_all()

    def ask_again(self, entries: Sequence[LedgerEntry]) -> None:
        """Ask whether some windows that were without traces still are; they are to be read again if they are not.

        Args:
            entries: what the plan has given out as doubtful, by time; given back.
        """
        work = self._work
        windows = [entry.window for entry in entries]
        try:
            # The last second is left out: what begins at the end of a range belongs to the next window.
            found = any_trace(self._searcher, windows[0].start, windows[-1].end - 1)
        except StoppedError:
            pass
        except Exception as error:  # noqa: BLE001 - as above
            self._report.not_probed(error)
            with work.changed:
                work.rest()
        else:
            if found:
                self._report.reopened(windows)
                with work.changed:
                    work.plan.reopen(windows)
                    work.publish()
            else:
                work.record(confirmed_entries(entries, now=self._clock()))
        finally:
            with work.changed:
                work.plan.give_back(windows)
                work.changed.notify_all()

    def _expire(self, windows: Sequence[Window]) -> None:
        work = self._work
        with work.changed:
            # Others have gone on reading, and what they took is theirs.
            windows = work.plan.claim(windows)
        if not windows:
            return
        self._report.expired(windows)
        work.record(expired_entries(windows, now=self._clock()))
        with work.changed:
            work.plan.give_back(windows)
