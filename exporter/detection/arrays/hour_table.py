"""The hours of one series as arrays, for the evaluation of many at once; see :mod:`.quiet_hours`.

Nothing here depends on what the evaluation has found so far.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from exporter.baseline.levels import SLOTS
from exporter.baseline.traffic import (
    NO_PATTERN,
    PATTERN_MAX_HOURS,
    PATTERN_MIN_HOURS,
    ROUNDING,
    HourPattern,
    requests_by_scale,
)
from exporter.detection.detector import Detector
from exporter.detection.errors.history import LEAST_FAILURES
from exporter.detection.parameters import LONG_WINDOW_MARKS, Parameters
from exporter.detection.window import MarkedBuckets
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.deviations import MARKS
from exporter.model.digest_arrays import UnsuitableError, decode_digests, decode_marks
from exporter.model.histogram import BUCKETS_PER_OCTAVE, HIGHEST_BUCKET, ZERO_BUCKET
from exporter.model.histogram_codec import MARK_SECONDS, MAX_ASSIGNED_MARKS
from exporter.model.hour_evaluation import LOW_QUANTILE, NOT_EVALUATED, QUANTILES
from exporter.model.runs import MAX_RUN_SECONDS
from exporter.model.series_hour import MAX_RUN_TRACES, SeriesHour, StoredWindow

Array: TypeAlias = npt.NDArray[Any]

SHARES: Final[Array] = np.array(QUANTILES)
_ROUNDING: Final = 1e-9
ABOVE_ALL: Final = 2**15 - 1
"""Above all buckets, and above all marks: both have 16 bits, which numpy sorts in linear time."""
_MOST_HOURS: Final = 1_000
_MOST_CELLS: Final = 8_000_000
"""Bounds of the size of the arrays: those of the traces of all windows take at most 16 MB."""
_MARKS_OF_RUN: Final = MAX_RUN_SECONDS // MARK_SECONDS
_SLOT_NUMBERS: Final = {slot: number for number, slot in enumerate(SLOTS)}


def sums_of(values: Array) -> Array:
    """Return the sum of the values before each, and of all."""
    found: Array = np.concatenate([[0], np.cumsum(values)])
    return found


def sums_before(flags: Array) -> Array:
    """Return the sum of the rows before each, and of all."""
    sums = np.zeros((len(flags) + 1, flags.shape[1]), dtype=np.int64)
    np.cumsum(flags, axis=0, out=sums[1:])
    return sums


def ranks_of(q: Array | float, numbers: Array) -> Array:
    """Return the nearest ranks of quantiles among numbers of traces, counted from 1; see :func:`.window.rank_of`."""
    return np.maximum(np.ceil(q * numbers - _ROUNDING), 1).astype(np.int64)


class SortedWindows(NamedTuple):
    """Windows with their traces, in two dimensions: hours, and windows that end in them.

    Attributes:
        sizes: number of traces.
        quantiles: bucket of each quantile, as a third dimension; arbitrary without traces.
        rows: the buckets of each in ascending order, as a third dimension, followed by a value above all.
    """

    sizes: Array
    quantiles: Array
    rows: Array

    @classmethod
    def of(cls, buckets: Array, begins: Array, ends: Array) -> "SortedWindows":
        """Take ranges of buckets.

        Raises:
            UnsuitableError: some of them are too long.
        """
        sizes = ends - begins
        width = np.arange(max(1, int(sizes.max(initial=0))))
        if sizes.size * len(width) > _MOST_CELLS:
            raise UnsuitableError
        padded = np.concatenate([buckets, np.zeros(len(width), dtype=buckets.dtype)])
        rows = padded[begins[..., None] + width]
        rows[width >= sizes[..., None]] = ABOVE_ALL
        rows.sort(axis=-1)
        ranks = np.minimum(ranks_of(SHARES, sizes[..., None]), len(width))
        quantiles = np.take_along_axis(rows, ranks - 1, axis=-1).astype(np.int64)
        return cls(sizes, quantiles, rows)


class HourTable:
    """The hours of a series as arrays, and from the first one to be evaluated on also the windows that end in them.

    The attributes that begin with the first hour to be evaluated have the index of an hour minus :attr:`first`.

    Attributes:
        hours: all hours.
        index: position of each, by its start.
        first: position of the first one to be evaluated.
        starts: their starts, Unix seconds.
        counts: their numbers of traces.
        slots: the numbers of their slots in :data:`SLOTS`.
        days: their days.
        buckets: the buckets in which there are any traces, in ascending order.
        digests: counts of traces, by hour and position of the bucket.
        quantiles: the quantiles of the hours.
        is_whole: whether each lasts 3600 seconds; from the first on.
        windows: the evaluation windows at the marks of the hours; from the first on.
        halves: both windows of half an hour; from the first on.
        half_hour_sizes: number of traces in the half hour before each mark; from the first on.
        latest: the last marks at which requests of the hours ended, Unix seconds; from the first on.
        by_mark: requests that ended at the marks of the hour before and of the hour; from the first on.
        patterns: how the requests were distributed within the hour; from the first on.
    """

    def __init__(
        self,
        hours: Sequence[SeriesHour],
        since: int,
        earlier: Sequence[MarkedBuckets],
        pattern: HourPattern,
        detector: Detector,
    ) -> None:
        """Decode a history.

        Args:
            hours: hours of the series, in time order.
            since: those from here on are to be evaluated, Unix seconds.
            earlier: traces of the hours before, as far as windows can contain them.
            pattern: how requests were distributed within the hour, as it was known before.
            detector: the rules.

        Raises:
            UnsuitableError: the history cannot be evaluated with arrays.
        """
        self.hours = hours
        self.index = {hour.start: index for index, hour in enumerate(hours)}
        self.starts = np.array([hour.start for hour in hours], dtype=np.int64)
        self.first = first = int(np.searchsorted(self.starts, since))
        later = hours[first:]
        if not later or len(hours) > _MOST_HOURS or any(hour.evaluation != NOT_EVALUATED for hour in later):
            raise UnsuitableError
        self.counts = np.array([hour.count for hour in hours], dtype=np.int64)
        self.slots = np.array([_SLOT_NUMBERS[hour.slot] for hour in hours])
        self.days = np.array([hour.day for hour in hours])
        hour = detector.clock.hour
        self.is_whole = np.array([hour(each.start).end == each.start + HOUR_SECONDS for each in later])
        self._runs: Array | None = None
        samples, marks = self._decode([each for _, buckets in earlier for each in buckets])
        marks = np.concatenate([_marks_of(earlier), marks])
        self._arrange(marks, samples, since, detector.parameters)
        buckets = zip(self._low[first:].tolist(), self.quantiles[first:].tolist(), strict=True)
        for each, (low, quantiles) in zip(later, buckets, strict=True):
            each.set_quantile_buckets(low, tuple(quantiles))
        self.patterns = HourPatterns(pattern, self._requests_of_hour)

    def _decode(self, earlier: Sequence[int]) -> tuple[Array, Array]:
        """Decode the hours.

        Returns:
            The buckets of earlier traces and of those to be evaluated, and of the latter the marks, in units of their
            length.
        """
        number, first = len(self.hours), self.first
        windows = [window for hour in self.hours for window in hour.windows]
        hour_of_window = np.repeat(np.arange(number), [len(hour.windows) for hour in self.hours])
        decoded = decode_digests([window.digest for window in windows])
        is_present = np.zeros(HIGHEST_BUCKET - ZERO_BUCKET + 1, dtype=bool)
        is_present[decoded.buckets - ZERO_BUCKET] = True
        self.buckets = np.flatnonzero(is_present) + ZERO_BUCKET
        width = len(self.buckets)
        columns = (np.cumsum(is_present) - 1)[decoded.buckets - ZERO_BUCKET]
        rows = np.repeat(hour_of_window, decoded.lengths)
        # Products of matrices are faster with floats, which are exact here.
        self.digests = np.bincount(rows * width + columns, weights=decoded.counts, minlength=number * width)
        self.digests = self.digests.reshape(number, width)
        self._sums = np.zeros((number, width + 1), dtype=np.int64)
        np.cumsum(self.digests.astype(np.int64), axis=1, out=self._sums[:, 1:])
        if (self._sums[:, -1] != self.counts).any():
            raise UnsuitableError
        ranks = ranks_of(np.array([LOW_QUANTILE, *QUANTILES]), self.counts[:, None])
        below = [np.count_nonzero(self._sums[:, 1:] < rank[:, None], axis=1) for rank in ranks.T]
        self._low, *quantiles = self.buckets[np.stack(below)]
        self.quantiles = np.stack(quantiles, axis=1)
        begin = int(np.searchsorted(hour_of_window, first))
        behind = int(decoded.lengths[:begin].sum())
        sizes = np.add.reduceat(decoded.counts, np.cumsum(decoded.lengths) - decoded.lengths)[begin:]
        self._samples = np.repeat(decoded.buckets[behind:], decoded.counts[behind:]).astype(np.int16)
        marks = self._decode_marks(windows[begin:], hour_of_window[begin:] - first, sizes)
        return np.concatenate([np.array(earlier, dtype=np.int16), self._samples]), marks

    def _decode_marks(self, windows: Sequence[StoredWindow], hours: Array, sizes: Array) -> Array:
        """Decode the marks of some windows, each of an hour, and return that of each trace."""
        decoded = decode_marks([window.marks for window in windows], sizes)
        marks = decoded.offsets + np.array([window.first_mark // MARK_SECONDS for window in windows])[:, None]
        number = len(self.hours) - self.first
        starts = self.starts[self.first :] // MARK_SECONDS
        within = hours[:, None] * MARKS + (marks - starts[hours][:, None] - 1) % MARKS
        counts = np.bincount(within.ravel(), weights=decoded.samples.ravel(), minlength=number * MARKS)
        self._requests_of_hour = counts.astype(np.int64).reshape(number, MARKS)
        self._marks, self._requests = marks * MARK_SECONDS, decoded.samples
        self._first_windows: list[int] = np.searchsorted(hours, np.arange(number + 1)).tolist()
        latest = np.zeros(number, dtype=np.int64)
        np.maximum.at(latest, hours, (marks * (decoded.samples > 0)).max(axis=1))
        self.latest: list[int] = (latest * MARK_SECONDS).tolist()
        window_of_sample = np.repeat(np.arange(len(windows)), sizes)
        self._order_within = window_of_sample * MAX_ASSIGNED_MARKS + decoded.indices
        of_hour = np.bincount(hours, weights=sizes, minlength=number).astype(np.int64)
        self._bounds: list[int] = [0, *np.cumsum(of_hour).tolist()]
        of_samples: Array = marks[window_of_sample, decoded.indices]
        return of_samples

    def _arrange(self, marks: Array, samples: Array, since: int, parameters: Parameters) -> None:
        """Order the traces by their marks, and find the windows that end in the hours to be evaluated."""
        reach = max(parameters.max_window_seconds, parameters.window_seconds, HOUR_SECONDS)
        self._base = since // MARK_SECONDS - -(-reach // MARK_SECONDS)
        end = int(self.starts[-1] + HOUR_SECONDS) // MARK_SECONDS - self._base
        if end >= ABOVE_ALL:
            raise UnsuitableError
        positions = marks - self._base
        kept = (positions >= 0) & (positions <= end)
        positions, samples = positions[kept].astype(np.int16), samples[kept]
        self._ended = samples[np.argsort(positions, kind="stable")]
        by_mark = np.bincount(positions, minlength=end + 1)
        # Of the traces that ended before each mark.
        self._total = total = sums_of(by_mark)
        own = self.starts[self.first :, None] // MARK_SECONDS - self._base
        # Behind the mark at which a window ends.
        last = own + np.arange(2, MARKS + 2)
        self.by_mark = by_mark[own + np.arange(1 - MARKS, MARKS + 1)]
        unextended = last - parameters.window_seconds // MARK_SECONDS
        longest = last - parameters.max_window_seconds // MARK_SECONDS
        enough = np.searchsorted(total[:-1], total[last] - parameters.min_traces, side="right") - 1
        first = np.where(enough < unextended, np.maximum(enough, longest), unextended)
        self._begins, self._ends = total[first], total[last]
        self.windows = SortedWindows.of(self._ended, self._begins, self._ends)
        self.half_hour_sizes = total[last] - total[last - LONG_WINDOW_MARKS]
        ends = own + 1 + np.array([LONG_WINDOW_MARKS, 2 * LONG_WINDOW_MARKS])
        self.halves = SortedWindows.of(self._ended, total[ends - LONG_WINDOW_MARKS], total[ends])

    def windows_within(self, index: int) -> SortedWindows:
        """Return the evaluation windows of an hour to be evaluated without what ended before it."""
        row = index - self.first
        before = self._total[self.starts[index] // MARK_SECONDS - self._base + 1]
        return SortedWindows.of(self._ended, np.maximum(self._begins[row], before), self._ends[row])

    def has_few_failures(self, parameters: Parameters, *, are_earlier: bool) -> Array:
        """Return for each hour, from the first on, whether no window that ends in it has enough failures for a verdict.

        Args:
            parameters: settings of the detector.
            are_earlier: whether there may be failures before the first hour.
        """
        later = self.hours[self.first :]
        failures = np.zeros(len(self._total) + MARKS, dtype=np.int64)
        few = np.ones(len(later), dtype=bool)
        for index, hour in enumerate(later):
            if hour.may_have_failures:
                for mark, count in (hour.failures() or {}).items():
                    if mark > hour.start + 2 * HOUR_SECONDS:
                        few[index:] = False
                    else:
                        failures[mark // MARK_SECONDS - self._base] += count
        # What ended in the next hour counts from now on; of that, some may have begun later.
        sums = sums_of(failures)
        starts = self.starts[self.first :] // MARK_SECONDS - self._base
        reach = -(-max(parameters.max_window_seconds, parameters.window_seconds) // MARK_SECONDS)
        few &= sums[starts + 2 * MARKS + 1] - sums[starts - reach + 1] < LEAST_FAILURES
        if are_earlier:
            few[: reach // MARKS + 2] = False
        return few

    @property
    def runs(self) -> Array:
        """Sum of the numbers of runs of the hours before each, and of all hours; computed on first use."""
        if self._runs is None:
            numbers = [hour.run_number for hour in self.hours[: self.first]]
            # Within an hour the marks of a run follow one another; it counts once for each three.
            positions = np.arange(MARKS)
            is_busy = self._requests_of_hour > 0
            begins = np.maximum.accumulate(np.where(is_busy, -1, positions), axis=1)
            counted = (is_busy & ((positions - begins - 1) % _MARKS_OF_RUN == 0)).sum(axis=1).tolist()
            for hour, latest, number in zip(self.hours[self.first :], self.latest, counted, strict=True):
                is_within = latest <= hour.start + HOUR_SECONDS and hour.count <= MAX_RUN_TRACES
                numbers.append(number if is_within else hour.run_number)
            self._runs = sums_of(np.array(numbers))
        return self._runs

    def count_up_to(self, position: int, buckets: Array) -> Array:
        """Return how many traces of each hour from a position on lie in buckets up to some.

        Args:
            position: the first hour.
            buckets: some buckets for each hour, as rows.
        """
        columns = np.searchsorted(self.buckets, buckets, side="right")
        return self._sums[np.arange(position, len(self.hours))[:, None], columns]

    def count_above(self, index: int, bucket: int) -> int:
        """Return how many traces of an hour lie in buckets above one."""
        return int(self.counts[index] - self._sums[index, np.searchsorted(self.buckets, bucket, side="right")])

    def requests(self, index: int) -> list[tuple[int, int]]:
        """Return the marks of an hour to be evaluated, in Unix seconds, with how many requests ended up to each."""
        found: list[tuple[int, int]] = []
        for window in range(*self._first_windows[index - self.first : index - self.first + 2]):
            marks, requests = self._marks[window].tolist(), self._requests[window].tolist()
            # Without those behind the last.
            found += zip(marks[: len(requests) - requests.count(0)], requests, strict=False)
        return found

    def count_by_mark(self, hours: Array, limits: Array, steps: int) -> tuple[Array, Array, Array]:
        """Count the traces that ended up to the marks of some hours, and those above limits.

        Args:
            hours: starts of the hours, Unix seconds, from the first to be evaluated on.
            limits: bucket above which traces of each hour are counted; one above all where the hour does not count.
            steps: number of limits, an octave apart.

        Returns:
            By mark, the row of its hour, or -1 where it does not count; and the numbers of traces of all marks that
            count, and of those above each limit.
            The marks of an hour follow on the position that :meth:`position_of` returns.
        """
        number = len(self._total) - 1
        positions = self.position_of(hours)[:, None] + np.arange(MARKS)
        rows = np.full(number, -1)
        rows[positions] = np.arange(len(hours))[:, None]
        rows[rows >= 0] = np.where(limits[rows[rows >= 0]] < ABOVE_ALL, rows[rows >= 0], -1)
        sizes = np.diff(self._total)
        of_traces = np.repeat(np.where(rows >= 0, limits[rows], ABOVE_ALL), sizes)
        above = np.zeros((steps, number), dtype=np.int64)
        for step in range(steps):
            sums = sums_of(self._ended > of_traces + step * BUCKETS_PER_OCTAVE)
            above[step] = np.diff(sums[self._total])
        return rows, sizes * (rows >= 0), above

    def position_of(self, hours: Array) -> Array:
        """Return the position of the first mark of some hours, given by their starts."""
        found: Array = hours // MARK_SECONDS - self._base + 1
        return found

    def marks(self, index: int) -> list[tuple[int, list[int]]]:
        """Return what :meth:`.SeriesHour.marks` returns of an hour to be evaluated."""
        begin, end = self._bounds[index - self.first : index - self.first + 2]
        order = np.argsort(self._order_within[begin:end], kind="stable")
        buckets = self._samples[begin:end][order].tolist()
        found, position = [], 0
        for mark, count in self.requests(index):
            found.append((mark, buckets[position : position + count]))
            position += count
        return found

    def ended(self, since: int, until: int) -> Iterator[MarkedBuckets]:
        """Yield the traces that ended in ``(since, until]`` by mark, as :meth:`.MarkedTraces.by_mark` does.

        Args:
            since: a mark, Unix seconds.
            until: end of an hour to be evaluated: traces that began later are not among them.
        """
        first, last = max(0, since // MARK_SECONDS - self._base + 1), until // MARK_SECONDS - self._base + 1
        for position, (begin, end) in enumerate(pairwise(self._total[first : last + 1].tolist()), first):
            if begin < end:
                yield (position + self._base) * MARK_SECONDS, np.sort(self._ended[begin:end]).tolist()


def _marks_of(marked: Sequence[MarkedBuckets]) -> Array:
    """Return the mark of each trace, in units of its length."""
    marks = np.array([mark // MARK_SECONDS for mark, _ in marked], dtype=np.int64)
    return np.repeat(marks, [len(buckets) for _, buckets in marked])


class HourPatterns:
    """How the requests of a series are distributed within the hour, as it is known before each hour.

    The same as :meth:`.HourPattern.with_hour`, hour by hour.

    Attributes:
        hours: number of hours known before each hour, and after the last.
        shares: share of the requests by mark.
    """

    def __init__(self, pattern: HourPattern, requests: Array) -> None:
        """Continue from a pattern.

        Args:
            pattern: the pattern before the first hour.
            requests: requests of each hour by mark; each hour has some.
        """
        number, scales = len(requests), len(pattern.excess)
        self.hours = np.zeros(number + 1, dtype=np.int64)
        self.shares = np.full((number + 1, MARKS), 1 / MARKS)
        self._counts = np.zeros((number + 1, MARKS), dtype=np.int64)
        self._excess, self._squares = np.zeros((2, number + 1, scales), dtype=np.int64)
        position = 0
        while True:
            # Up to where old hours begin to count for less.
            size = min(number - position, PATTERN_MAX_HOURS - pattern.hours)
            here, known = slice(position, position + size), slice(position, position + size + 1)
            self.hours[known] = pattern.hours + np.arange(size + 1)
            self._counts[known] = _running(pattern.counts or (0,) * MARKS, requests[here])
            totals = self._counts[known].sum(axis=1, keepdims=True)
            np.divide(self._counts[known], totals, out=self.shares[known], where=totals > 0)
            excess, squares = _excess(requests[here], self.shares[here])
            is_known = self.hours[here, None] >= PATTERN_MIN_HOURS
            self._excess[known] = _running(pattern.excess, excess * is_known)
            self._squares[known] = _running(pattern.squares, squares * is_known)
            position += size
            pattern = self._at(position)
            if pattern.hours == PATTERN_MAX_HOURS:
                pattern = pattern.halved()
            if position == number:
                self._last = pattern
                return

    def before(self, index: int) -> HourPattern:
        """Return the pattern before an hour, or after the last."""
        return self._last if index == len(self.hours) - 1 else self._at(index)

    def _at(self, index: int) -> HourPattern:
        if not self.hours[index]:
            return NO_PATTERN
        columns = (self._counts, self._excess, self._squares)
        counts, excess, squares = (tuple(column[index].tolist()) for column in columns)
        return HourPattern(int(self.hours[index]), counts, excess, squares)


def _running(before: Sequence[int], added: Array) -> Array:
    return np.concatenate([[before], added]).cumsum(axis=0)


def _excess(requests: Array, shares: Array) -> tuple[Array, Array]:
    """Return what each hour adds to the excess and to the squares of a pattern, by scale."""
    totals = requests.sum(axis=1)
    found = []
    # Each number is that of all hours.
    by_scale = (requests_by_scale(cast("Sequence[float]", each.T)) for each in (requests, shares))
    for numbers, usual in zip(*by_scale, strict=True):
        expected = [totals * share for share in usual]
        # Term by term as in exporter.baseline.traffic: each is an integer, so that sums are exact in any order.
        excess = [
            ((number - mean) * (number - mean) - mean * (1 - share) + ROUNDING) - ROUNDING
            for number, share, mean in zip(numbers, usual, expected, strict=True)
        ]
        squares = [(mean * mean + ROUNDING) - ROUNDING for mean in expected]
        found.append((np.sum(excess, axis=0), np.sum(squares, axis=0)))
    return np.array(found).transpose(1, 2, 0).astype(np.int64)  # type: ignore[return-value]
