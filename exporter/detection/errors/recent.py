"""Recent failed requests of one series by the second of their end, beside its `RecentTraces`."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress
from math import ceil
from typing import Final

from exporter.detection.errors.verdict import (
    NEWEST_SECONDS,
    SHORT_SECONDS,
    WORST_SECONDS,
    Counts,
    ErrorBaseline,
    ErrorTick,
    ErrorWindow,
    ErrorWindows,
    long_windows,
    long_windows_after,
    tick_errors,
)
from exporter.detection.flag import INACTIVE, Flag, FlagEvent
from exporter.detection.parameters import FRESH_SECONDS, FRESH_TRACES, Parameters
from exporter.detection.window import EvaluationWindow, RecentTraces, next_mark
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram_codec import MARK_SECONDS

_NEVER: Final = -1
_COUNT_BITS: Final = 20
_MAX_COUNT: Final = (1 << _COUNT_BITS) - 1


class RecentFailures:
    """Failed requests of one series, as far back as an evaluation window may reach.

    Most series have hardly any, so a request that did not fail is only counted, by mark.
    """

    __slots__ = ("_known", "_marks", "_resolved_until", "_seconds", "_unknown_until", "total")

    def __init__(self) -> None:
        """Start without requests."""
        self._seconds: array[int] | None = None
        # Ascending: number of the mark, requests and failures, packed into one integer each.
        self._marks = array("q")
        self._unknown_until = _NEVER
        self._resolved_until = _NEVER
        self._known = False
        self.total = 0

    def __len__(self) -> int:
        """Return the number of failed requests in memory."""
        return len(self._seconds or ())

    @property
    def counted(self) -> int | None:
        """Number of failed requests since the start of the process; None while of no request it is known."""
        return self.total if self._known else None

    def add(self, second: int, failed: bool | None, *, counts: bool, number: int = 1) -> None:
        """Add requests that ended in a second.

        Args:
            second: as in :func:`.end_second`.
            failed: whether they failed; None if that is unknown.
            counts: whether they belong to the total.
            number: how many there are.
        """
        if failed is None:
            self._unknown_until = max(self._unknown_until, second)
            return
        self._known = True
        if not number:
            return
        self._count(second, number, number if failed else 0)
        if not failed:
            return
        self.total += number if counts else 0
        if self._seconds is None:
            self._seconds = array("q")
        position = bisect_right(self._seconds, second)
        self._seconds[position:position] = array("q", [second]) * number

    def _count(self, second: int, requests: int, failures: int) -> None:
        marks, number = self._marks, -(-second // MARK_SECONDS)
        if not marks or marks[-1] >> 2 * _COUNT_BITS < number:
            marks.append(number << 2 * _COUNT_BITS)
            position = len(marks) - 1
        else:
            position = bisect_left(marks, number << 2 * _COUNT_BITS)
            if marks[position] >> 2 * _COUNT_BITS != number:
                marks.insert(position, number << 2 * _COUNT_BITS)
        if (marks[position] >> _COUNT_BITS & _MAX_COUNT) + requests <= _MAX_COUNT:
            marks[position] += (requests << _COUNT_BITS) + failures

    def _by_mark(self, since: float, until: float) -> list[tuple[int, Counts]]:
        """Return the marks in ``(since, until]``, of which the last one may not be over, and their requests."""
        found = map(_unpack, self._marks)
        return [(mark, counts) for mark, counts in found if since < mark <= next_mark(until)]

    def discard(self, now: float, parameters: Parameters) -> None:
        """Drop what no window ending at or after ``now`` contains; the rules are those of `RecentTraces`."""
        oldest = int(now - parameters.max_window_seconds) // MARK_SECONDS
        if self._marks and self._marks[0] >> 2 * _COUNT_BITS < oldest:
            del self._marks[: bisect_left(self._marks, oldest << 2 * _COUNT_BITS)]
        seconds = self._seconds
        if not seconds:
            return
        first = bisect_right(seconds, now - max(parameters.window_seconds, FRESH_SECONDS))
        # A longer window has at most so many requests, besides those that ended in its first second.
        needed = bisect_right(seconds, now) - max(parameters.min_traces, FRESH_TRACES)
        first = min(first, bisect_left(seconds, seconds[needed]) if needed > 0 else 0)
        first = max(first, bisect_right(seconds, now - parameters.max_window_seconds))
        del seconds[:first]
        if not seconds:
            self._seconds = None

    def keep(self, predicate: Callable[[int], bool]) -> None:
        """Keep only what ended in seconds for which ``predicate(start of the second)`` holds.

        Requests by mark have no second, so they are dropped.
        """
        self._marks = array("q")
        if self._seconds:
            self._seconds = array("q", compress(self._seconds, [predicate(second - 1) for second in self._seconds]))

    def drop(self, since: int, until: int) -> None:
        """Drop what ended in ``(since, until]``."""
        first, last = (-(-each // MARK_SECONDS) << 2 * _COUNT_BITS for each in (since + 1, until))
        # A mark that is only touched is dropped as a whole, since its requests have no second.
        del self._marks[bisect_left(self._marks, first) : bisect_left(self._marks, last + (1 << 2 * _COUNT_BITS))]
        if self._seconds:
            del self._seconds[bisect_right(self._seconds, since) : bisect_right(self._seconds, until)]

    def within(self, window: EvaluationWindow, now: float) -> int | None:
        """Return how many requests of an evaluation window that ends at ``now`` failed.

        None if the window is empty, or if that is not known of all of its requests.
        """
        if not window.traces or self._unknown_until >= window.first_second:
            return None
        if not self._seconds:
            return 0
        return bisect_right(self._seconds, ceil(now)) - bisect_left(self._seconds, window.first_second)

    def tick(
        self,
        recent: RecentTraces,
        window: EvaluationWindow,
        now: float,
        baselines: Sequence[ErrorBaseline],
        flag: Flag,
        parameters: Parameters,
        hour_start: int,
    ) -> ErrorTick:
        """Evaluate the failures of an evaluation window that ends at ``now``, and advance the error flag.

        Longer windows begin after the mark in which the flag was resolved last: what it was about is over.

        Args:
            recent: the recent traces of the series.
            window: its evaluation window.
            now: time of the tick, Unix seconds.
            baselines: those of the hours that windows touch, newest first; empty without a mature one.
            flag: the flag after the previous tick.
            parameters: settings of the detector.
            hour_start: start of the hour of the first one, Unix seconds.
        """
        # Of the hours that a window touches, the one that allows most applies; each touches the newest.
        least = baselines[0].limit(parameters) if baselines else 1.0
        windows = self._windows(recent, window, now, parameters, hour_start, flag, least)
        result = tick_errors(windows, now, baselines, flag, parameters)
        if result.event is FlagEvent.RESOLVED:
            self._resolved_until = next_mark(now)
        return result

    def _windows(
        self,
        recent: RecentTraces,
        window: EvaluationWindow,
        now: float,
        parameters: Parameters,
        hour_start: int,
        flag: Flag,
        least_ratio: float,
    ) -> ErrorWindows:
        newest = partial(self._newest, recent, now, parameters)
        failures = self.within(window, now)
        if not failures and (failures is None or flag == INACTIVE):
            known = 0 if failures is None else window.traces
            return ErrorWindows(ErrorWindow(Counts(known, 0), 0), newest)
        since = min(window.first_second - 1, int(now) - parameters.window_seconds)
        evaluation = ErrorWindow(
            Counts(window.traces, failures),
            failures - self._worst(since, now),
            ceil(now) - since,
            _hours(since, hour_start),
        )
        if flag == INACTIVE and failures / window.traces < least_ratio:
            # The other windows only count where the evaluation window shows a shift that matters.
            return ErrorWindows(evaluation, newest)
        marks = self._by_mark(max(now - parameters.max_window_seconds, self._resolved_until), now)
        others = []
        if parameters.window_seconds > SHORT_SECONDS:
            short = recent.newest(now, SHORT_SECONDS, 0, parameters)
            if failed := self.within(short, now):
                since = ceil(now) - SHORT_SECONDS
                others.append(
                    ErrorWindow(
                        Counts(short.traces, failed),
                        failed - self._worst(since, now),
                        SHORT_SECONDS,
                        _hours(since, hour_start),
                    )
                )
        for seconds in long_windows_after(self._resolved_until, int(now), long_windows(parameters), parameters):
            if self._unknown_until > now - seconds:
                continue
            of = [counts for mark, counts in marks if mark > now - seconds]
            total = Counts(sum(each.requests for each in of), sum(each.failures for each in of))
            outside = total.failures - max((each.failures for each in of), default=0)
            others.append(ErrorWindow(total, outside, seconds, _hours(now - seconds - MARK_SECONDS, hour_start)))
        return ErrorWindows(evaluation, newest, tuple(others), tuple(counts for _, counts in marks))

    def _worst(self, since: float, now: float) -> int:
        """Return the most failures within a minute of ``(since, now]``, or within half of it if that is shorter."""
        seconds = self._seconds or ()
        longest = min(WORST_SECONDS, (ceil(now) - since) // 2)
        first, last = bisect_right(seconds, since), bisect_right(seconds, ceil(now))
        worst, end = 0, first
        for begin in range(first, last):
            while end < last and seconds[end] < seconds[begin] + longest:
                end += 1
            worst = max(worst, end - begin)
        return worst

    def _newest(self, recent: RecentTraces, now: float, parameters: Parameters, least: int) -> Counts:
        """Return the requests of the newest seconds, extended into the past to so many requests."""
        newest = recent.newest(now, min(NEWEST_SECONDS, parameters.window_seconds), least, parameters)
        if newest.traces >= least:
            return Counts(newest.traces, self.within(newest, now) or 0)
        requests = failed = 0
        for _, counts in reversed(self._by_mark(now - parameters.max_window_seconds, now)):
            requests += counts.requests
            failed += counts.failures
            if requests >= least:
                break
        return Counts(requests, failed)


def drop_quiet(recent: RecentTraces, failures: RecentFailures, ranges: Iterable[tuple[int, int]], now: float) -> bool:
    """Drop what ended in ranges in which nothing is flagged and that are over; returns whether one lasts.

    Args:
        recent: the recent traces of a series.
        failures: its recent failures.
        ranges: the ranges, Unix seconds.
        now: time of the tick, Unix seconds.
    """
    is_quiet = False
    for start, end in ranges:
        if end <= now:
            recent.drop(start, end)
            failures.drop(start, end)
        else:
            is_quiet |= start <= now
    return is_quiet


def _hours(since: float, hour_start: int) -> int:
    """Return the number of hours that a window touches, given the start of the newest."""
    return 1 + max(0, ceil((hour_start - since) / HOUR_SECONDS))


def _unpack(packed: int) -> tuple[int, Counts]:
    counts = Counts(packed >> _COUNT_BITS & _MAX_COUNT, packed & _MAX_COUNT)
    return (packed >> 2 * _COUNT_BITS) * MARK_SECONDS, counts
