"""Finds the spans of windows that Tempo received after the windows were read, and has the windows reread for them.

A span reaches Tempo when it ends, and belongs to the window in which it began. A request that outlasts the window and
the time until the window is read is not in the record, and nothing in the window shows that. Tempo is therefore asked
again at growing ages of a window, for long spans only: one that began in a window and could not be found yet when the
window was read has lasted from the end of the window to that read, less the delay of its delivery. One search covers
adjacent windows, and hardly returns anything where requests are short.

At the last check Tempo's counts show whether anything is missing, long or short. Where they do not say that
nothing is, the window is reread. So what Tempo receives until then is in the record, exactly once, because a reread
replaces the window in one transaction.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from exporter.ingest.backfill_log import BackfillLog
from exporter.ingest.backfill_queue import BackfillQueue, LateCheck
from exporter.ingest.exact_reader import SearchClient
from exporter.ingest.series_filter import SeriesFilter
from exporter.ingest.tempo_counts import TempoCounts
from exporter.ingest.window_table import QueueState, WindowRecord, was_sampled
from exporter.model.ledger import MISSING_SHARE, LedgerEntry, Window, WindowState, retry_pause_seconds
from exporter.model.span import SeriesKey, Span
from exporter.store import Store
from exporter.tempo.errors import StoppedError
from exporter.tempo.query import DurationRange

_NS: Final = 1_000_000_000
_AGES: Final = (1 / 24, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Ages of a window at which it is checked, as shares of the time within which spans may arrive late."""

_LATE_SHARE: Final = MISSING_SHARE
"""A window is reread at once if a larger share of its spans is late."""
_LATE_SHARE_OF_SERIES: Final = 0.1
"""The same for the spans of one series."""

_TOLERATED_SHARE: Final = 1.01
_TOLERATED_TRACES: Final = 5

Resolve = Callable[[SeriesKey], SeriesKey | str]


@dataclass(frozen=True, slots=True)
class LatePolicy:
    """When windows are checked for late spans.

    Attributes:
        late_seconds: how long after the end of a window its spans may arrive; 0 for no checks.
        lookback_seconds: the longest time until Tempo can find a span that has ended, where nothing is wrong.
    """

    late_seconds: float
    lookback_seconds: float

    def next_check(self, window: Window, now: float, *, only_last: bool = False) -> float | None:
        """Return when to check a window next, Unix seconds; None after the last check.

        Windows that end within one step of a grid are due together, so that short windows need no more searches than
        long ones.
        """
        ages = _AGES[-1:] if only_last else _AGES
        return next((due for due in (self._due(window, age) for age in ages) if due > now), None)

    def is_last(self, window: Window, now: float) -> bool:
        """Return whether a check at this time is the last one of a window."""
        return now >= self._due(window, _AGES[-1])

    def _due(self, window: Window, age: float) -> float:
        if self.late_seconds <= 0:
            return window.end
        step = self.late_seconds * _AGES[0]
        return ceil(window.end / step) * step + age * self.late_seconds + self.lookback_seconds

    def unseen_seconds(self, window: Window, read_at: float) -> float:
        """Return the duration above which spans that began in a window may have been missed at this time."""
        return max(0.0, read_at - self.lookback_seconds - window.end)

    def may_lack(self, window: Window, read_at: float, longest_ns: int) -> bool:
        """Return whether a window may lack spans after it was read, or checked, at this time.

        Args:
            window: the window.
            read_at: Unix seconds.
            longest_ns: duration of the longest span found; where there is one, there may be others that have not ended.
        """
        is_checked_again = self.next_check(window, read_at) is not None
        return is_checked_again and longest_ns > self.unseen_seconds(window, read_at) * _NS


def late_by_window(
    spans: Iterable[Span], entries: Sequence[LedgerEntry], policy: LatePolicy, resolve: Resolve
) -> dict[Window, Counter[SeriesKey]]:
    """Count the spans that began in windows and that Tempo may have received after they were read, by series.

    Args:
        spans: what Tempo returned.
        entries: the windows as they were read, by time, not overlapping.
        policy: says how long the delivery of a span takes.
        resolve: maps the name reported by Tempo to the series that stores the span, or to the reason why none does.
    """
    starts = [entry.window.start for entry in entries]
    late: dict[Window, Counter[SeriesKey]] = {entry.window: Counter() for entry in entries}
    for span in spans:
        start = span.start_ns // _NS
        position = bisect_right(starts, start) - 1
        if position < 0 or start >= entries[position].window.end:
            continue
        entry = entries[position]
        if span.end_ns <= (entry.read_at - policy.lookback_seconds) * _NS:
            continue
        series = resolve(span.key)
        if not isinstance(series, str):
            late[entry.window][series] += 1
    return late


def needs_reread(entry: LedgerEntry, late: Mapping[SeriesKey, int], stored: Mapping[SeriesKey, int]) -> bool:
    """Return whether a window is to be reread at once because of its late spans.

    Args:
        entry: the window as it was read.
        late: late spans by series.
        stored: stored spans of these series in the window.
    """
    there = entry.there_when_read
    # Of a sample, each stored span represents several.
    represented = there / entry.traces if entry.traces else 1.0
    return sum(late.values()) > _LATE_SHARE * there or any(
        count > _LATE_SHARE_OF_SERIES * represented * stored.get(key, 0) for key, count in late.items()
    )


def is_complete(entry: LedgerEntry, count: int | None) -> bool:
    """Return whether a window needs no reread at its last check.

    Args:
        entry: the window as it was read, and what is known to have come late.
        count: number of traces that Tempo counts in it by now, less those that no read finds; None where unknown.
    """
    if entry.late_spans or entry.state is WindowState.PARTIAL:
        return False
    if was_sampled(entry):
        # Another sample would tell no more, unless there is much more traffic than was known.
        return count is None or count <= entry.there * _TOLERATED_SHARE + _TOLERATED_TRACES
    return count is not None and count <= entry.traces <= count * _TOLERATED_SHARE + _TOLERATED_TRACES


def with_late_spans(entry: LedgerEntry, late: int, *, may_lack: bool, late_check_at: float | None) -> LedgerEntry:
    """Return the entry of a window after a check.

    Args:
        entry: the window as it was before.
        late: late spans that are not in the record.
        may_lack: whether there may be more that Tempo has not received yet.
        late_check_at: when to check again.
    """
    coverage = entry.coverage
    if entry.state is not WindowState.PARTIAL:
        there = entry.there_when_read
        if late:
            coverage = entry.traces / (there + late)
        elif may_lack:
            coverage = None if not was_sampled(entry) else coverage
        else:
            coverage = entry.traces / there if there else 1.0
    late_spans = late if late or not may_lack else None
    return replace(entry, coverage=coverage, late_spans=late_spans, late_check_at=late_check_at)


class LateChecker:
    """Checks windows for late spans, and reports to the queue."""

    def __init__(
        self,
        client: SearchClient,
        queue: BackfillQueue,
        store: Store,
        counts: TempoCounts,
        series_filter: SeriesFilter,
        policy: LatePolicy,
        log: BackfillLog,
        clock: Callable[[], float],
        reread: Callable[[Sequence[WindowRecord]], Iterator[Sequence[Window]]],
        should_stop: Callable[[], bool],
    ) -> None:
        """Prepare to check.

        Args:
            client: Tempo.
            queue: hands out the windows, and gets the results.
            store: the history.
            counts: number of traces by window, as far as Tempo counts them.
            series_filter: decides which series are kept.
            policy: when windows are checked.
            log: gets the events.
            clock: Unix seconds.
            reread: reads windows once more and writes them; yields those that it has reported to the queue.
            should_stop: whether the exporter is being stopped, so that failures mean nothing.
        """
        self._client = client
        self._queue = queue
        self._store = store
        self._counts = counts
        self._series_filter = series_filter
        self._policy = policy
        self._log = log
        self._clock = clock
        self._reread = reread
        self._should_stop = should_stop
        self._failures = 0

    def check(self, work: LateCheck) -> None:
        """Check adjacent windows, and reread those that lack too much.

        If that fails, the windows stay as they were read, with what is known to be missing, and are checked again after
        a pause.
        """
        held = {entry.window: entry for entry in work.entries}
        try:
            now = self._clock()
            found = self._find(work.entries, now)
            self._store.update_late([entry for entry, _ in found])
            held.update({entry.window: entry for entry, _ in found})
            self._finish(held, [entry for entry, is_lacking in found if not is_lacking])
            lacking = [entry for entry, is_lacking in found if is_lacking]
            if lacking:
                self._counts.renew([entry.window for entry in lacking])
                self._log.reread_late(lacking)
                for windows in self._reread([self._to_reread(entry, now) for entry in lacking]):
                    for window in windows:
                        del held[window]
            self._failures = 0
        except StoppedError:
            pass
        except Exception as error:  # noqa: BLE001 - a defect must neither end the loop nor go unnoticed
            if not self._should_stop():
                self._failures += 1
                self._log.late_check_failed(list(held), error)
                retry_at = self._clock() + retry_pause_seconds(self._failures)
                self._finish(held, [replace(entry, late_check_at=retry_at) for entry in held.values()])
        self._queue.release(held)

    def _finish(self, held: dict[Window, LedgerEntry], entries: Sequence[LedgerEntry]) -> None:
        self._queue.finish_late_check(entries)
        for entry in entries:
            del held[entry.window]

    def _find(self, entries: Sequence[LedgerEntry], now: float) -> list[tuple[LedgerEntry, bool]]:
        """Return the entries after a check, and whether each window is to be reread."""
        last = [entry for entry in entries if self._policy.is_last(entry.window, now)]
        others = [entry for entry in entries if not self._policy.is_last(entry.window, now)]
        return [*self._check_by_count(last), *self._check_by_search(others, now)]

    def _check_by_count(self, entries: Sequence[LedgerEntry]) -> Iterator[tuple[LedgerEntry, bool]]:
        if entries:
            self._counts.renew([entry.window for entry in entries])
        for entry in entries:
            if is_complete(entry, self._counts.of(entry.window)):
                yield with_late_spans(entry, 0, may_lack=False, late_check_at=None), False
            else:
                yield entry, True

    def _check_by_search(self, entries: Sequence[LedgerEntry], now: float) -> Iterator[tuple[LedgerEntry, bool]]:
        if not entries:
            return
        policy = self._policy
        shortest = min(policy.unseen_seconds(entry.window, entry.read_at) for entry in entries)
        result = self._client.search(
            entries[0].window.start,
            entries[-1].window.end,
            loop="backfill",
            durations=DurationRange(int(shortest * _NS)),
        )
        late = late_by_window(result.spans, entries, policy, self._series_filter.resolve)
        longest_ns = max((span.duration_ns for span in result.spans), default=0)
        for entry in entries:
            window, found = entry.window, late[entry.window]
            stored = {
                series.key: sum(traces for _, traces in series.windows)
                for series in self._store.traffic(found, window.start, window.end)
            }
            is_lacking = result.saturated or needs_reread(entry, found, stored)
            checked = with_late_spans(
                entry,
                sum(found.values()),
                may_lack=result.saturated or policy.may_lack(window, now, longest_ns),
                # Until it was reread, the check of a window that lacks spans stays due.
                late_check_at=entry.late_check_at if is_lacking else policy.next_check(window, now),
            )
            yield checked, is_lacking

    def _to_reread(self, entry: LedgerEntry, now: float) -> WindowRecord:
        """Return the record of a window to be reread; if that finds less, the window stays as it is."""
        next_check = self._policy.next_check(entry.window, now, only_last=entry.state is WindowState.PARTIAL)
        is_empty = entry.state is WindowState.EMPTY
        # Of an empty window, the attempts are confirmations. A reread that was to come later comes now.
        rereads = 0 if is_empty else entry.attempts + (entry.retry_at is not None)
        return WindowRecord(
            entry.window,
            QueueState.CHECKING,
            entry,
            stored=replace(entry, late_check_at=next_check, attempts=rereads, retry_at=None),
            is_reread=True,
            confirmations=entry.attempts if is_empty else 0,
        )
