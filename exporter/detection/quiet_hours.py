"""Evaluation of many hours of one series at once, with arrays, under the hypothesis that none of them is anomalous.

Nearly all hours of a history are as usual. Whatever the evaluation of such an hour yields depends on the hours before it
only through which of them are quarantined. So for all hours of a series at once, arrays hold what
:class:`exporter.detection.history` would compute hour by hour: pools, predicted quantiles, evaluation windows, their
deviations, patterns and sums of squares. All of these are integers, so that the results are the same to the last bit.

The hypothesis is not tested here for good: for each hour :class:`QuietHours` says whether a test could be positive
(:attr:`~QuietHours.needs_look`), and then, as wherever anything is unusual, the hour is evaluated one by one.

Only the worker process that evaluates long histories imports this module, because it needs numpy.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np

from exporter.baseline.levels import (
    MATURE_SPAN_SECONDS,
    MATURE_TRACES,
    MATURE_WINDOWS,
    SLOTS,
    FallbackLevel,
    FallbackRules,
    Pool,
)
from exporter.baseline.traffic import MIN_USUAL_REQUESTS, NO_PATTERN, PATTERN_MIN_HOURS, HourPattern
from exporter.baseline.traffic import _PATTERN_MAX_HOURS as PATTERN_MAX_HOURS
from exporter.baseline.traffic import _ROUNDING as ROUNDING
from exporter.detection.detector import Detector, Expectation
from exporter.detection.error_history import _LEAST_FAILURES as LEAST_FAILURES
from exporter.detection.error_history import ErrorState
from exporter.detection.likeness import SHARE_UNITS
from exporter.detection.parameters import (
    ALL_PARTS,
    DAILY_PATTERN_BUCKETS,
    DAILY_PATTERN_MIN_HOURS,
    LADDER_MIN_TRACES,
    LEVEL_MARKS,
    LEVEL_MIN_MARKS,
    LEVEL_MIN_TRACES,
    LEVEL_SHARE,
    LONG_SWING_MIN_TRACES,
    LONG_WINDOW_MARKS,
    LONG_WINDOW_MIN_HOURLY_TRACES,
    LONG_WINDOW_MIN_TRACES,
    MAX_SWING_OCTAVES,
    MIN_EVALUATED_TRACES,
    MIN_EXCEEDANCES,
    MIN_SWING_EXCEEDANCES,
    PROFILE_MIN_HOURS,
    Parameters,
)
from exporter.detection.prediction import Prediction, _standard_error_ranks
from exporter.detection.runs import MAX_RUNS_PER_HOUR, MAX_TRACES_PER_HOUR, OBSERVED_HOURS
from exporter.detection.significance import tail_probability
from exporter.detection.streams import MIN_TRACES as STREAM_MIN_TRACES
from exporter.detection.streams import UNDECIDED, StreamState
from exporter.detection.streams import _CERTAIN_TRACES, _REQUESTS, _SHORTEST_CUT
from exporter.detection.thresholds import correlation_of, floor_of
from exporter.detection.window import MarkedTraces
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.digest_arrays import UnsuitableError, decode_digests, decode_marks
from exporter.model.deviations import _ZERO, MARKS, MAX_LANES, MOST_BUCKETS
from exporter.model.histogram import BUCKETS_PER_OCTAVE, HIGHEST_BUCKET, ZERO_BUCKET, Digest
from exporter.model.histogram_codec import MARK_SECONDS, MAX_ASSIGNED_MARKS
from exporter.model.runs import count_runs
from exporter.model.hours import (
    MAX_RUN_TRACES,
    ERROR_SUMS,
    NO_SWINGS,
    PATTERN_BUCKETS,
    QUANTILES,
    HourEvaluation,
    HourProfile,
    SeriesHour,
    StoredWindow,
)

_ROUNDING: Final = 1e-9
_MAX_SQUARE: Final = (MAX_SWING_OCTAVES * BUCKETS_PER_OCTAVE) ** 2
_SLOT_NUMBERS: Final = {slot: number for number, slot in enumerate(SLOTS)}
_Q: Final = np.array(QUANTILES)
_SWINGS: Final = len(NO_SWINGS)
_FAR: Final = 1 << 40
_ABOVE_ALL: Final = 2**15 - 1
Array = Any


@lru_cache(maxsize=8)
def _members(rules: FallbackRules) -> tuple[Array, Array, Array]:
    levels = list(rules.levels())
    member = np.zeros((len(SLOTS), len(levels), len(SLOTS)), dtype=bool)
    for slot, of_slot in rules.by_slot.items():
        for position, rule in enumerate(of_slot):
            member[_SLOT_NUMBERS[slot], position, [_SLOT_NUMBERS[each] for each in rule.slots]] = True
    return member, np.array([int(level) for level, _ in levels]), np.array([least for _, least in levels])


def _ranks(q: Array, n: Array) -> Array:
    return np.maximum(np.ceil(q * n - _ROUNDING), 1).astype(np.int64)


def _columns_of(cumulative: Array, ranks: Array) -> Array:
    """For rows of cumulative counts, the column of the sample of each rank (rows x ranks)."""
    ranks = ranks.astype(cumulative.dtype)
    return np.stack(
        [np.count_nonzero(cumulative < ranks[:, index, None], axis=1) for index in range(ranks.shape[1])], axis=1
    )


def _error(square: Array, variance: Array) -> Array:
    return np.maximum(4 * square // 8, 4 * square - variance)


class HourTable:
    """The hours of a series as arrays; those from ``since`` on with their marks."""

    def __init__(
        self,
        hours: Sequence[SeriesHour],
        since: int,
        recent: MarkedTraces,
        pattern: HourPattern,
        errors: ErrorState,
        detector: Detector,
    ) -> None:
        parameters = detector.parameters
        clock = detector.clock
        self.hours = hours
        self.starts = np.array([hour.start for hour in hours])
        self.first = int(np.searchsorted(self.starts, since))
        self.counts = np.array([hour.count for hour in hours])
        self.slots = np.array([_SLOT_NUMBERS[hour.slot] for hour in hours])
        self.days = np.array([hour.day for hour in hours])
        self.index = {hour.start: index for index, hour in enumerate(hours)}
        if self.first == len(hours):
            raise UnsuitableError
        windows = [window for hour in hours for window in hour.windows]
        numbers_of_windows = [len(hour.windows) for hour in hours]
        decoded = decode_digests([window.digest for window in windows])
        marked = recent.by_mark(0, _FAR)
        present = np.zeros(HIGHEST_BUCKET - ZERO_BUCKET + 1, dtype=bool)
        present[decoded.buckets - ZERO_BUCKET] = True
        for _, buckets in marked:
            present[np.array(buckets) - ZERO_BUCKET] = True
        self.buckets = np.flatnonzero(present) + ZERO_BUCKET
        numbers = np.cumsum(present) - 1
        width = len(self.buckets)
        columns = numbers[decoded.buckets - ZERO_BUCKET]
        hour_of_window = np.repeat(np.arange(len(hours)), numbers_of_windows)
        self.digests = (
            np.bincount(
                np.repeat(hour_of_window, decoded.lengths) * width + columns,
                weights=decoded.counts,
                minlength=len(hours) * width,
            ).reshape(len(hours), width)
        )
        self._own_sums = np.zeros((len(hours), width + 1), dtype=np.int64)
        np.cumsum(self.digests.astype(np.int64), axis=1, out=self._own_sums[:, 1:])
        cumulative = self._own_sums[:, 1:]
        if (cumulative[:, -1] != self.counts).any():
            raise UnsuitableError
        self.own = self.buckets[_columns_of(cumulative, _ranks(_Q, self.counts[:, None]))]
        later = hours[self.first :]
        for hour, quantiles in zip(later, self.own[self.first :].tolist(), strict=True):
            hour.set_quantile_buckets(tuple(quantiles))
        self.is_whole = np.array([clock.hour(hour.start).end == hour.start + HOUR_SECONDS for hour in later])
        reach = max(parameters.max_window_seconds, parameters.window_seconds, HOUR_SECONDS)
        base = since // MARK_SECONDS - -(-reach // MARK_SECONDS)
        end = (later[-1].start + HOUR_SECONDS) // MARK_SECONDS - base
        earlier_windows = sum(numbers_of_windows[: self.first])
        skipped = int(decoded.lengths[:earlier_windows].sum())
        own_columns = np.repeat(columns[skipped:], decoded.counts[skipped:])
        positions = self._decode_marks(
            windows[earlier_windows:],
            hour_of_window[earlier_windows:] - self.first,
            np.add.reduceat(decoded.counts, np.cumsum(decoded.lengths) - decoded.lengths)[earlier_windows:],
            own_columns,
        )
        older = [bucket for _, buckets in marked for bucket in buckets]
        if older:
            older_marks = np.repeat([mark for mark, _ in marked], [len(buckets) for _, buckets in marked])
            positions = np.concatenate([older_marks // MARK_SECONDS, positions])
            own_columns = np.concatenate([numbers[np.array(older) - ZERO_BUCKET], own_columns])
        if end >= _ABOVE_ALL:
            raise UnsuitableError
        positions = positions - base
        kept = (positions >= 0) & (positions <= end)
        if not kept.all():
            positions, own_columns = positions[kept], own_columns[kept]
        # Of 16 bits, by which numpy sorts in linear time.
        order = np.argsort(positions.astype(np.int16), kind="stable")
        self._base = base
        self._ended = ended = self.buckets.astype(np.int16)[own_columns[order]]
        # Sums of the traces that ended before each mark.
        self._total = total = np.zeros(end + 2, dtype=np.int64)
        np.cumsum(np.bincount(positions, minlength=end + 1), out=total[1:])
        # Evaluation windows, at the marks of each hour.
        own = self.starts[self.first :] // MARK_SECONDS - base
        now = own[:, None] + np.arange(1, MARKS + 1)
        last = now + 1
        unextended = last - parameters.window_seconds // MARK_SECONDS
        longest = last - parameters.max_window_seconds // MARK_SECONDS
        enough = np.searchsorted(total[:-1], total[last] - parameters.min_traces, side="right") - 1
        first = np.where(enough < unextended, np.maximum(enough, longest), unextended)
        self.sizes = total[last] - total[first]
        self._windows = _sorted_windows(ended, total[first].ravel(), self.sizes.ravel())
        self.quantiles = self.at_ranks(
            np.arange(self.sizes.size), _ranks(_Q, self.sizes.ravel()[:, None])
        ).reshape(-1, MARKS, len(QUANTILES))
        # Windows of half an hour.
        ends = own[:, None] + np.array([LONG_WINDOW_MARKS, 2 * LONG_WINDOW_MARKS]) + 1
        begins = ends - LONG_WINDOW_MARKS
        self.half_sizes = total[ends] - total[begins]
        halves = _sorted_windows(ended, total[begins].ravel(), self.half_sizes.ravel())
        ranks = np.minimum(_ranks(_Q, self.half_sizes.ravel()[:, None]), halves.shape[1])
        self.half_quantiles = np.take_along_axis(halves, ranks - 1, axis=1).reshape(-1, 2, len(QUANTILES))
        self.long_sizes = total[last] - total[last - LONG_WINDOW_MARKS]
        self._runs: Array | None = None
        self.by_mark = np.diff(total)[now]
        self.before = np.diff(total)[now - MARKS]
        self.patterns = _Patterns(pattern, self.of_hour)
        self.has_few_failures = self._failures(later, base, end, errors, parameters)

    def _failures(
        self, hours: Sequence[SeriesHour], base: int, end: int, errors: ErrorState, parameters: Parameters
    ) -> Array:
        """For each hour, whether no window that ends in it has enough failures to say anything."""
        failures = np.zeros(end + MARKS + 2, dtype=np.int64)
        few = np.ones(len(hours), dtype=bool)
        for index, hour in enumerate(hours):
            for mark, count in (hour.failures() or {}).items() if hour.may_have_failures else ():
                if mark > hour.start + 2 * HOUR_SECONDS:
                    few[index:] = False
                else:
                    failures[mark // MARK_SECONDS - base] += count
        reach = max(parameters.max_window_seconds, parameters.window_seconds) // MARK_SECONDS
        sums = np.concatenate([[0], np.cumsum(failures)])
        starts = self.starts[self.first :] // MARK_SECONDS - base
        few &= sums[starts + 2 * MARKS + 1] - sums[starts - reach + 1] < LEAST_FAILURES
        if errors.recent:
            few[: reach // MARKS + 1] = False
        return few

    @property
    def runs(self) -> Array:
        """Sums of the numbers of runs of the hours before each, computed on first use."""
        if self._runs is None:
            numbers = [hour.run_number for hour in self.hours[: self.first]]
            for hour, requests in zip(self.hours[self.first :], self.requests, strict=True):
                if hour.count > MAX_RUN_TRACES:
                    numbers.append(hour.run_number)
                else:
                    marks = sorted({(mark - hour.start) // MARK_SECONDS for mark, _ in requests})
                    numbers.append(count_runs(tuple(marks)))
            self._runs = np.concatenate([[0], np.cumsum(numbers)])
        return self._runs

    def _decode_marks(
        self, windows: Sequence[StoredWindow], hours: Array, samples: Array, columns: Array
    ) -> Array:
        """Decode the marks of some windows; returns the mark of each of their traces, in units of its length."""
        decoded = decode_marks([window.marks for window in windows], samples)
        marks = decoded.offsets + np.array([window.first_mark for window in windows])[:, None] // MARK_SECONDS
        number = len(self.hours) - self.first
        starts = self.starts[self.first :][hours] // MARK_SECONDS
        minutes = (marks - starts[:, None] - 1) % MARKS
        self.of_hour = (
            np.bincount(
                (hours[:, None] * MARKS + minutes).ravel(),
                weights=decoded.samples.ravel(),
                minlength=number * MARKS,
            )
            .astype(np.int64)
            .reshape(number, MARKS)
        )
        self.requests: list[list[tuple[int, int]]] = [[] for _ in range(number)]
        rows = zip(hours.tolist(), (marks * MARK_SECONDS).tolist(), decoded.samples.tolist(), strict=True)
        for hour, of_window, counts in rows:
            size = len(counts) - counts.count(0)
            self.requests[hour] += zip(of_window[:size], counts, strict=False)
        self.newest = [max(each)[0] for each in self.requests]
        of_window = np.repeat(np.arange(len(windows)), samples)
        self._digits, self._columns = of_window * MAX_ASSIGNED_MARKS + decoded.indices, columns
        self._segments = np.concatenate(
            [[0], np.cumsum(np.bincount(hours, weights=samples, minlength=number)).astype(np.int64)]
        ).tolist()
        return marks[of_window, decoded.indices]

    def marks(self, index: int) -> list[tuple[int, list[int]]]:
        """Return what :meth:`.SeriesHour.marks` returns of an hour."""
        own = slice(*self._segments[index - self.first : index - self.first + 2])
        order = np.argsort(self._digits[own], kind="stable")
        buckets = self.buckets[self._columns[own][order]].tolist()
        found, begin = [], 0
        for mark, count in self.requests[index - self.first]:
            found.append((mark, buckets[begin : begin + count]))
            begin += count
        return found

    def ended(self, since: int, until: int) -> list[tuple[int, list[int]]]:
        """Return the traces that ended in ``(since, until]``, two marks, by mark, in ascending order.

        Contains those of hours behind ``until`` only if the latter is not the end of an hour.
        """
        first, last = (each // MARK_SECONDS - self._base + 1 for each in (since, until))
        total = self._total[max(first, 0) : last + 1].tolist()
        found = []
        for number, (begin, end) in enumerate(pairwise(total), max(first, 0)):
            if begin < end:
                buckets = np.sort(self._ended[begin:end]).tolist()
                found.append(((number + self._base) * MARK_SECONDS, buckets))
        return found

    def at_ranks(self, windows: Array, ranks: Array) -> Array:
        """Buckets of the samples of some ranks (rows x ranks) in some windows, by flat number."""
        return self._windows[windows[:, None], np.minimum(ranks, self._windows.shape[1]) - 1].astype(np.int64)

    def own_up_to(self, position: int, buckets: Array) -> Array:
        """How many samples of the hours from a position on lie in buckets up to some."""
        columns = np.searchsorted(self.buckets, buckets, side="right")
        return self._own_sums[np.arange(position, len(self.hours))[:, None], columns]

    def count_all_up_to(self, hours: slice, buckets: Array) -> Array:
        """How many samples of each window of some hours lie in buckets up to one of the hour."""
        windows = self._windows.reshape(-1, MARKS, self._windows.shape[1])[hours]
        return np.count_nonzero(windows <= buckets[:, None, None].astype(np.int16), axis=2)

    def count_up_to(self, windows: Array, buckets: Array) -> Array:
        """How many samples of some windows lie in buckets up to one."""
        return np.count_nonzero(self._windows[windows] <= buckets[:, None].astype(np.int16), axis=1)


class _Patterns:
    """How the requests of a series were distributed within the hour, before each of its hours."""

    def __init__(self, pattern: HourPattern, requests: Array) -> None:
        number = len(requests)
        self.hours = np.zeros(number + 1, dtype=np.int64)
        self.counts = np.zeros((number + 1, MARKS), dtype=np.int64)
        self.excess = np.zeros((number + 1, len(pattern.excess)), dtype=np.int64)
        self.squares = np.zeros_like(self.excess)
        self.shares = np.full((number + 1, MARKS), 1 / MARKS)
        position = 0
        while True:
            size = min(number - position, PATTERN_MAX_HOURS - pattern.hours)
            here, behind = slice(position, position + size), slice(position, position + size + 1)
            added = requests[here]
            self.hours[behind] = pattern.hours + np.arange(size + 1)
            counts = np.concatenate([[pattern.counts or (0,) * MARKS], added]).cumsum(axis=0)
            self.counts[behind] = counts
            totals = counts.sum(axis=1)
            if size and totals[0] == 0:
                self.shares[position + 1 : position + size + 1] = counts[1:] / totals[1:, None]
            else:
                self.shares[behind] = counts / totals[:, None]
            excess, squares = _excesses(added, self.shares[here])
            is_known = (self.hours[here] >= PATTERN_MIN_HOURS)[:, None]
            self.excess[behind] = np.concatenate([[pattern.excess], excess * is_known]).cumsum(axis=0)
            self.squares[behind] = np.concatenate([[pattern.squares], squares * is_known]).cumsum(axis=0)
            position += size
            pattern = self.before(position)
            if pattern.hours == PATTERN_MAX_HOURS:
                pattern = pattern.halved()
            if position == number:
                self.last = pattern
                return

    def before(self, index: int) -> HourPattern:
        """The pattern before an hour."""
        if index == len(self.hours) - 1 and hasattr(self, "last"):
            return self.last
        if not self.hours[index]:
            return NO_PATTERN
        return HourPattern(
            int(self.hours[index]),
            tuple(self.counts[index].tolist()),
            tuple(self.excess[index].tolist()),
            tuple(self.squares[index].tolist()),
        )


def _excesses(requests: Array, shares: Array) -> tuple[Array, Array]:
    totals = requests.sum(axis=1)[:, None]
    excess, squares = [], []
    for numbers, usual in zip(_by_scale(requests), _by_scale(shares), strict=True):
        expected = totals * usual
        difference = numbers - expected
        terms = (difference * difference - expected * (1 - usual) + ROUNDING) - ROUNDING
        excess.append(terms.sum(axis=1))
        squares.append(((expected * expected + ROUNDING) - ROUNDING).sum(axis=1))
    return np.stack(excess, axis=1).astype(np.int64), np.stack(squares, axis=1).astype(np.int64)


def _by_scale(values: Array) -> tuple[Array, Array, Array]:
    # In the order of exporter.baseline.traffic, so that sums of shares are rounded alike.
    a, b, c, d, e, f, g, h, i, j, k, m = values.T
    first, third = a + b + c, g + h + i
    quarters, halves = [first, d + e + f, third, j + k + m], [first + d + e + f, third + j + k + m]
    return values, np.stack(quarters, axis=1), np.stack(halves, axis=1)


def _sorted_windows(ended: Array, begins: Array, sizes: Array) -> Array:
    """Return some ranges as rows in ascending order, which end with values above all."""
    width = np.arange(max(1, int(sizes.max(initial=0))))
    padded = np.concatenate([ended, np.zeros(len(width), dtype=np.int16)])
    rows = padded[begins[:, None] + width]
    rows[width >= sizes[:, None]] = _ABOVE_ALL
    rows.sort(axis=1)
    return rows


@lru_cache(maxsize=64)
def _floor_table(ratio: float, min_delta_seconds: float) -> Array:
    """By bucket, counted from the lowest: gate, gate of small tests and statistical threshold; 0 where not computed."""
    return np.zeros((HIGHEST_BUCKET - ZERO_BUCKET + 1, 3), dtype=np.int64), np.zeros(
        HIGHEST_BUCKET - ZERO_BUCKET + 1, dtype=bool
    )


def _gates(buckets: Array, parameters: Parameters) -> Array:
    table, known = _floor_table(parameters.ratio, parameters.min_delta_seconds)
    numbers = buckets - ZERO_BUCKET
    for number in np.unique(numbers[~known[numbers]]).tolist():
        floor = floor_of(number + ZERO_BUCKET, parameters.ratio, parameters.min_delta_seconds)
        table[number] = floor.gate, floor.small_gate, floor.stat
        known[number] = True
    return table[numbers]


SCALAR, QUIET, LEARNING = 0, 1, 2
COVERED_STREAMS: Final = (UNDECIDED, _REQUESTS)


class QuietHours:
    """What the hours from a position on yield if none of them is anomalous."""

    def __init__(
        self, table: HourTable, detector: Detector, position: int, until: int, changepoint: int | None
    ) -> None:
        self._table = table
        self._detector = detector
        self._parameters = parameters = detector.parameters
        self.position = position
        rules = detector.rules
        starts, counts, slots = table.starts, table.counts, table.slots
        number = len(starts)
        own = np.arange(position, number)
        mine = starts[position:]
        window = slice(position - table.first, None)
        low = np.searchsorted(starts, np.maximum(mine - rules.lookback_seconds, changepoint or 0))
        high = np.maximum(np.searchsorted(starts, mine - HOUR_SECONDS), low)
        self._low = low
        evaluations = [hour.evaluation for hour in table.hours[:position]]
        quarantined = np.zeros(number, dtype=bool)
        quarantined[:position] = [each.quarantined for each in evaluations]
        member, levels, least = _members(rules)
        numbers = np.arange(number)
        in_range = (numbers >= low[:, None]) & (numbers < high[:, None])
        usable = in_range & ~quarantined
        pools = member[:, :, slots][slots[position:]] & usable[:, None, :]
        sums = pools.reshape(-1, number).astype(np.float64) @ np.stack([np.ones(number), counts], axis=1)
        pool_hours, pool_traces = sums.astype(np.int64).T.reshape(2, *pools.shape[:2])
        pool_first = pools.argmax(axis=2)
        pool_last = number - 1 - pools[:, :, ::-1].argmax(axis=2)
        spans = starts[pool_last] - starts[pool_first] >= MATURE_SPAN_SECONDS
        days = table.days[pool_first] != table.days[pool_last]
        mature = np.where(levels == FallbackLevel.EXACT, True, np.where(levels == FallbackLevel.NEARBY, days, spans))
        mature &= (pool_hours >= MATURE_WINDOWS) & (pool_traces >= MATURE_TRACES) & (pool_traces >= least)
        chosen = mature.argmax(axis=1)
        rows = np.arange(len(own))
        is_predicted = mature.any(axis=1)
        self._pools = pools[rows, chosen]
        self._levels = levels[chosen]
        self._hours = pool_hours[rows, chosen]
        self._digests = (self._pools.astype(np.float64) @ table.digests).astype(np.int64)
        cumulative = self._digests.cumsum(axis=1)
        total = cumulative[:, -1]
        self._traces = total
        # What the arrays do not cover is evaluated hour by hour.
        is_covered = np.ones(len(own), dtype=bool)
        if quarantined.any():
            exact = member[slots[position:], 0][:, slots] & in_range
            recurring = (exact & quarantined).sum(axis=1)
            is_covered &= ~((recurring >= MATURE_WINDOWS) & (recurring >= exact.sum(axis=1) - recurring))
        is_covered &= ~self._is_sparse(low, high)
        width = len(table.buckets)
        offsets = np.arange(len(own)) * (int(total.max(initial=0)) + 1)
        flat = (cumulative + offsets[:, None]).ravel()

        def quantile(which: Array, ranks: Array) -> Array:
            found = np.searchsorted(flat, np.maximum(ranks, 1) + offsets[which]) - which * width
            return table.buckets[np.minimum(found, width - 1)]

        def ranks_of(q: Array, which: Array) -> Array:
            return np.ceil(q * total[which] - _ROUNDING).astype(np.int64)

        upper = quantile(rows, ranks_of(np.float64(0.75), rows))
        is_covered &= ~is_predicted | (upper < _SHORTEST_CUT) | (total < STREAM_MIN_TRACES)
        by_quantile = np.repeat(rows[:, None], len(QUANTILES), axis=1)
        baseline = quantile(by_quantile, ranks_of(_Q, by_quantile))
        self._baseline = baseline
        is_covered &= ~is_predicted | (baseline != ZERO_BUCKET).all(axis=1)
        # Distances and sampling variances.
        sizes, half_sizes = table.sizes[window], table.half_sizes[window]
        known = self._known(sizes)
        known &= is_predicted[:, None, None]
        distances = table.quantiles[window] - baseline[:, None, :]
        most = int(max(sizes.max(initial=0), half_sizes.max(initial=0))) + 1
        keys = np.concatenate(
            [(rows[:, None] * most + sizes).ravel(), (rows[:, None] * most + half_sizes).ravel()]
        )
        keys, inverse = np.unique(keys, return_inverse=True)
        of_row, of_size = keys // most, np.maximum(keys % most, MIN_EVALUATED_TRACES)
        distinct, which = np.unique(of_size, return_inverse=True)
        shares = np.array([_standard_error_ranks(size) for size in distinct.tolist()])[which]
        twice = np.repeat(of_row[:, None], shares.shape[1], axis=1)
        bounds = quantile(twice, ranks_of(shares, twice))
        variances_of = (bounds[:, 1::2] - bounds[:, ::2]) ** 2
        split = sizes.size
        variances = variances_of[inverse[:split]].reshape(distances.shape)
        half_variances = variances_of[inverse[split:]].reshape(len(own), 2, len(QUANTILES))
        swings = np.zeros((len(own), _SWINGS), dtype=np.int64)
        traces_enough = total >= LONG_WINDOW_MIN_HOURLY_TRACES * self._hours
        has_long = is_predicted & traces_enough
        has_level = is_predicted & (total >= LEVEL_MIN_TRACES * self._hours)
        # Deviations, of the hours before as they are stored.
        codes = np.zeros((number, MAX_LANES), dtype=np.uint8)
        for index, evaluation in enumerate(evaluations):
            if evaluation.deviations:
                codes[index, : len(evaluation.deviations)] = np.frombuffer(evaluation.deviations, dtype=np.uint8)
        lanes = np.where(known, _ZERO + np.clip(distances, -MOST_BUCKETS, MOST_BUCKETS), 0)
        codes[position:] = lanes.transpose(0, 2, 1).reshape(len(own), MAX_LANES)
        self._codes = codes
        before = np.zeros((len(own), MAX_LANES), dtype=np.uint8)
        previous = np.searchsorted(starts, mine - HOUR_SECONDS)
        has_previous = (previous < number) & (starts[np.minimum(previous, number - 1)] == mine - HOUR_SECONDS)
        has_previous &= previous >= low
        before[has_previous] = codes[previous[has_previous]]
        profile, self._has_profile = self._profiles(codes, quarantined, evaluations, low, high, is_predicted)
        self._profile = profile
        errors = distances - profile.transpose(0, 2, 1)
        squares = np.minimum(errors * errors, _MAX_SQUARE)
        swings[:, 0:6:2] = _error((squares * known).sum(axis=1), (variances * known).sum(axis=1))
        swings[:, 1:6:2] = known.sum(axis=1)
        if has_long.any():
            counted = self._known(half_sizes) & (half_sizes >= LONG_SWING_MIN_TRACES)[:, :, None]
            counted &= has_long[:, None, None]
            squares = np.minimum((table.half_quantiles[window] - baseline[:, None, :]) ** 2, _MAX_SQUARE)
            swings[:, 6:12:2] = _error((squares * counted).sum(axis=1), (half_variances * counted).sum(axis=1))
            swings[:, 7:12:2] = counted.sum(axis=1)
        if has_level.any():
            earlier = before.reshape(-1, len(QUANTILES), MARKS)[:, :, -LEVEL_MARKS:].astype(np.int64)
            known_earlier = earlier > 0
            earlier = earlier - _ZERO - profile[:, :, -LEVEL_MARKS:]
            values = np.concatenate([earlier.transpose(0, 2, 1), errors], axis=1)
            are_known = np.concatenate([known_earlier.transpose(0, 2, 1), known], axis=1)
            sums = np.zeros((len(own), LEVEL_MARKS + MARKS + 1, len(QUANTILES)), dtype=np.int64)
            np.cumsum(values * are_known, axis=1, out=sums[:, 1:])
            numbers_known = np.zeros_like(sums)
            np.cumsum(are_known, axis=1, out=numbers_known[:, 1:])
            totals = sums[:, LEVEL_MARKS:-1] - sums[:, : -LEVEL_MARKS - 1]
            known_sums = numbers_known[:, LEVEL_MARKS:-1] - numbers_known[:, : -LEVEL_MARKS - 1]
            numerator, denominator = LEVEL_SHARE
            level = np.rint(numerator * totals / np.maximum(denominator * known_sums, 1)).astype(np.int64)
            level = np.clip(level, -BUCKETS_PER_OCTAVE, BUCKETS_PER_OCTAVE)
            counted = known & (known_sums >= LEVEL_MIN_MARKS) & has_level[:, None, None]
            squares = np.minimum((errors - level) ** 2, _MAX_SQUARE)
            swings[:, 12:18:2] = _error((squares * counted).sum(axis=1), (variances * counted).sum(axis=1))
            swings[:, 13:18:2] = counted.sum(axis=1)
        measured = (sizes >= MIN_EVALUATED_TRACES) & is_predicted[:, None]
        flat_windows = np.arange(table.sizes.size).reshape(table.sizes.shape)[window]
        above = sizes - table.count_all_up_to(window, baseline[:, 0])
        one = np.maximum(sizes, 2)
        swings[:, ERROR_SUMS] = measured.sum(axis=1)
        swings[:, ERROR_SUMS + 1] = (SHARE_UNITS * above // one * measured).sum(axis=1)
        unlike = 2 * SHARE_UNITS * above * (sizes - above) // (one * (one - 1))
        swings[:, ERROR_SUMS + 2] = (unlike * measured).sum(axis=1)
        first, second = before[:, :MARKS], codes[position:, :MARKS]
        both = (first > 0) & (second > 0)
        first_positive, second_positive = (first > _ZERO) & both, (second > _ZERO) & both
        swings[:, ERROR_SUMS + 3] = both.sum(axis=1)
        swings[:, ERROR_SUMS + 4] = first_positive.sum(axis=1) + second_positive.sum(axis=1)
        swings[:, ERROR_SUMS + 5] = (first_positive ^ second_positive).sum(axis=1)
        swings[~is_predicted] = 0
        self._swings = swings
        earlier_swings = np.array(
            [NO_SWINGS if each.quarantined else each.swings for each in evaluations], dtype=np.int64
        ).reshape(position, _SWINGS)
        self._all_swings = np.zeros((number + 1, _SWINGS), dtype=np.int64)
        np.cumsum(np.concatenate([earlier_swings, swings]), axis=0, out=self._all_swings[1:])
        # Which hours need a look.
        reach = -(-parameters.max_window_seconds // HOUR_SECONDS)
        follows = np.zeros(len(own), dtype=bool)
        follows[1:] = mine[1:] - mine[:-1] == HOUR_SECONDS
        is_whole = table.is_whole[window]
        chain_ = is_predicted & is_whole & is_covered
        is_reached = chain_.copy()
        for step in range(1, reach + 1):
            is_reached[step:] &= chain_[:-step] & follows[1 : len(own) - step + 1]
            is_reached[:step] = False
        gates = _gates(baseline, parameters)
        gate, small, stat = gates[..., 0], gates[..., 1], gates[..., 2]
        has_small = has_long | has_level
        # Of hours that are neither anomalous nor begin a streak, no more is asked.
        slow = counts[position:, None] - table.own_up_to(position, gate)
        fast = table.own_up_to(position, 2 * baseline[:, :1] - gate[:, :1])[:, 0]
        self.is_usual = ((slow < MIN_EXCEEDANCES) | (table.own[position:] <= gate)).all(axis=1)
        self.is_usual &= (2 * fast <= counts[position:]) & (2 * slow[:, 0] <= counts[position:])
        gate_all, small_all, stat_all, has_small_all = gate.copy(), small.copy(), stat.copy(), has_small.copy()
        small_any = np.where(has_small[:, None], small, _FAR)
        for step in range(1, reach + 1):
            gate_all[step:] = np.minimum(gate_all[step:], gate[:-step])
            stat_all[step:] = np.minimum(stat_all[step:], stat[:-step])
            small_all[step:] = np.minimum(small_all[step:], small[:-step])
            has_small_all[step:] &= has_small[:-step]
            small_any[step:] = np.minimum(small_any[step:], np.where(has_small[:-step, None], small[:-step], _FAR))
        lowest = np.minimum(gate_all, small_any)
        exceeds = (table.quantiles[window] > lowest[:, None, :]) & (sizes >= MIN_EXCEEDANCES)[:, :, None]
        exceeds &= (is_reached & is_covered)[:, None, None]
        self.needs_look = np.zeros(len(own), dtype=bool)
        self._look(exceeds, flat_windows, sizes, table.long_sizes[window], gate_all, small_all, stat_all, has_small,
                   has_small_all)
        self._is_known = (is_covered & is_predicted).tolist()
        ends = mine + HOUR_SECONDS
        settled = ends <= until - (reach + 1) * HOUR_SECONDS
        self.status = np.where(
            is_covered & is_whole & settled, np.where(is_predicted, np.where(is_reached, QUIET, SCALAR), LEARNING), SCALAR
        ).tolist()
        self.needs_look = self.needs_look.tolist()
        self.is_usual = self.is_usual.tolist()
        self._swing_rows = swings.tolist()
        self._is_plain = np.array(self.status) != SCALAR
        self._is_plain &= ~np.array(self.needs_look) & (np.array(self.is_usual) | ~is_predicted)
        self._is_plain &= table.has_few_failures[window]
        self._follows = follows
        self.find_stretches(None, parameters)
        self._code_rows = codes[position:].tobytes()

    def find_stretches(self, most_requests: float | None, parameters: Parameters) -> None:
        """Find the hours after one another in which nothing at all can happen.

        Args:
            most_requests: upper bound of the usual requests of an hour; None if traffic is not judged.
            parameters: settings of the detector.
        """
        table = self._table
        window = slice(self.position - table.first, None)
        has_traffic = np.zeros(len(self._is_plain), dtype=bool)
        if most_requests is not None:
            has_traffic = _may_drop(
                np.concatenate([table.before[window], table.by_mark[window]], axis=1),
                most_requests * table.patterns.shares[:-1][window],
                parameters,
            ) & (table.patterns.hours[:-1][window] >= PATTERN_MIN_HOURS)
            has_traffic[: max(0, table.first + 2 - self.position)] = True
            if parameters.traffic_surge is not None:
                has_traffic[:] = True
        self.may_drop = has_traffic.tolist()
        plain = self._is_plain & ~has_traffic
        # A stretch ends where an hour is not plain, or does not follow the one before.
        number = len(plain)
        rows = np.arange(number)
        ends_before = ~plain
        breaks = np.flatnonzero(ends_before | ~self._follows)
        following = np.searchsorted(breaks, rows, side="right")
        ends = np.concatenate([breaks, [number]])[following]
        self.stretch_ends = np.where(plain, ends, rows).tolist()

    def _is_sparse(self, low: Array, high: Array) -> Array:
        table = self._table
        traces = np.concatenate([[0], np.cumsum(table.counts)])
        number = high - low
        sparse = (number > 0) & (traces[high] - traces[low] <= MAX_TRACES_PER_HOUR * number)
        if sparse.any():
            runs = table.runs
            latest = np.maximum(low, high - OBSERVED_HOURS)
            number = high - latest
            sparse &= runs[high] - runs[latest] <= MAX_RUNS_PER_HOUR * number
            sparse &= traces[high] - traces[latest] <= MAX_TRACES_PER_HOUR * number
        return sparse

    @staticmethod
    def _known(sizes: Array) -> Array:
        """For which quantiles windows have enough expected exceedances."""
        enough = sizes[..., None] * (1 - _Q) >= MIN_SWING_EXCEEDANCES - _ROUNDING
        return enough & (sizes >= MIN_EVALUATED_TRACES)[..., None]

    def _look(
        self, exceeds: Array, flat_windows: Array, sizes: Array, long_sizes: Array, gate: Array, small: Array,
        stat: Array, has_small: Array, has_small_all: Array,
    ) -> None:
        table, parameters = self._table, self._parameters
        rows, marks = np.nonzero(exceeds.any(axis=2))
        if not len(rows):
            return
        n = sizes[rows, marks]
        windows = flat_windows[rows, marks]
        gated = table.at_ranks(windows, np.minimum(_ranks(_Q, n[:, None]), (n - MIN_EXCEEDANCES + 1)[:, None]))
        over_gate = gated > gate[rows]
        over_small = (gated > small[rows]) & has_small[rows][:, None]
        certain = (over_gate.any(axis=1) & (n >= LADDER_MIN_TRACES)) | (
            over_small.any(axis=1) & (~has_small_all[rows] | (long_sizes[rows, marks] >= LONG_WINDOW_MIN_TRACES))
        )
        self.needs_look[rows[certain]] = True
        tested = (over_gate | over_small) & ~self.needs_look[rows][:, None]
        which, quantiles = np.nonzero(tested)
        if not len(which):
            return
        beyond = n[which] - table.count_up_to(windows[which], stat[rows[which], quantiles])
        tests = zip(rows[which].tolist(), quantiles.tolist(), n[which].tolist(), beyond.tolist(), strict=True)
        alpha = parameters.alpha
        for row, quantile, traces, slow in set(tests):
            if not self.needs_look[row]:
                correlation = correlation_of(int(self._traces[row]))
                if tail_probability(slow, traces, 1 - QUANTILES[quantile], correlation, enough=alpha) < alpha:
                    self.needs_look[row] = True

    def _profiles(
        self, codes: Array, quarantined: Array, evaluations: Sequence[HourEvaluation], low: Array, high: Array,
        is_predicted: Array,
    ) -> tuple[Array, Array]:
        table, position = self._table, self.position
        number = len(codes)
        own = np.arange(position, number)
        profile = np.zeros((len(own), MAX_LANES), dtype=np.int64)
        has_profile = np.zeros(len(own), dtype=bool)
        counted = codes * ~quarantined[:, None]

        def sums(flags: Array) -> Array:
            found = np.zeros((number + 1, MAX_LANES), dtype=np.int32)
            np.cumsum(flags, axis=0, out=found[1:])
            return found

        known, above = sums(counted > 0), sums(counted > _ZERO + PATTERN_BUCKETS)
        known_at, above_at = known[own] - known[low], above[own] - above[low]
        found = (2 * above_at > known_at) & (known_at >= PROFILE_MIN_HOURS)
        found &= is_predicted[:, None]
        raised = np.flatnonzero(found.any(axis=1))
        if len(raised):
            patterns, lanes = np.nonzero(found[raised])
            each, numbers = raised[patterns, None], np.arange(number)
            in_reach = (numbers >= low[each]) & (numbers < position + each)
            profile[raised] = _medians(counted.T[lanes] * in_reach, found[raised], known_at[raised], PROFILE_MIN_HOURS)
            has_profile[raised] = True
        # Patterns of one hour of the day.
        hours_of_day = table.slots % 24
        order = np.argsort(hours_of_day, kind="stable")
        keys = hours_of_day[order] * number + order
        mine = hours_of_day[position:] * number
        begin, end = np.searchsorted(keys, mine + low), np.searchsorted(keys, mine + high)
        enough = is_predicted & (end - begin >= DAILY_PATTERN_MIN_HOURS)
        if not enough.any():
            return profile.reshape(-1, len(QUANTILES), MARKS), has_profile
        # Hours of the day as a matrix: for each of the hours the earlier ones, in time order.
        rows = np.flatnonzero(enough)
        places = begin[rows, None] + np.arange(int((end - begin)[rows].max()))
        group = order[np.minimum(places, number - 1)]
        is_usual = (places < end[rows, None]) & ~quarantined[group]
        deviations = codes[group].astype(np.int16) * is_usual[:, :, None]
        own_buckets, starts = table.own, table.starts
        around = np.zeros(number, dtype=bool)
        excess = np.zeros((number, len(QUANTILES)), dtype=np.int64)
        if number > 2:
            around[1:-1] = (starts[1:-1] - starts[:-2] == HOUR_SECONDS) & (starts[2:] - starts[1:-1] == HOUR_SECONDS)
            # In half buckets.
            excess[1:-1] = 2 * own_buckets[1:-1] - own_buckets[:-2] - own_buckets[2:]
        weekend = table.slots[group] >= 24
        earlier = np.where(weekend, (weekend & is_usual).cumsum(axis=1), (~weekend & is_usual).cumsum(axis=1))
        exact = is_usual & (earlier > MATURE_WINDOWS)
        used = exact & around[group] & (group > low[rows, None])
        used &= (self._levels[rows] > FallbackLevel.EXACT)[:, None]
        numbers = used.sum(axis=1)
        raised = np.flatnonzero(numbers)
        if len(raised):
            ordered = np.sort(np.where(used[raised, :, None], excess[group[raised]], _FAR), axis=1)
            middle, each = numbers[raised], np.arange(len(raised))
            doubled = ordered[each, (middle - 1) // 2] + ordered[each, middle // 2]
            by = np.maximum(np.rint(doubled / 4), 0).astype(np.int16)
            before = deviations[raised]
            more = np.minimum(before + np.repeat(by, MARKS, axis=1)[:, None, :], 2 * _ZERO - 1)
            deviations[raised] = np.where((before > 0) & exact[raised, :, None], more, before)
        known_at = (deviations > 0).sum(axis=1)
        above_at = (deviations > _ZERO + DAILY_PATTERN_BUCKETS).sum(axis=1)
        found = (2 * above_at > known_at) & (known_at >= DAILY_PATTERN_MIN_HOURS)
        daily = np.flatnonzero(found.any(axis=1))
        if len(daily):
            each, lanes = np.nonzero(found[daily])
            patterns = _medians(
                deviations[daily[each], :, lanes], found[daily], known_at[daily], DAILY_PATTERN_MIN_HOURS
            )
            profile[rows[daily]] = np.maximum(profile[rows[daily]], patterns)
            has_profile[rows[daily]] = True
        return profile.reshape(-1, len(QUANTILES), MARKS), has_profile

    def evaluation(self, index: int) -> HourEvaluation:
        """The evaluation of an hour."""
        row = index - self.position
        code = self._code_rows[row * MAX_LANES : (row + 1) * MAX_LANES].rstrip(b"\0")
        return HourEvaluation(False, tuple(self._swing_rows[row]), code)

    def stream_after(self, index: int, stream: StreamState) -> StreamState:
        """The stream state after an hour."""
        if stream == UNDECIDED and self._traces[index - self.position] >= _CERTAIN_TRACES:
            return _REQUESTS
        return stream

    def expectation(self, index: int, stream: StreamState) -> Expectation | None:
        """The baseline of an hour; None where it must be computed one by one."""
        if not self._is_known[index - self.position]:
            return None
        prediction = self.prediction(index)
        return Expectation(self._pool, prediction, self.stream_after(index, stream))

    def prediction(self, index: int) -> Prediction:
        """The prediction of an hour."""
        row = index - self.position
        table = self._table
        counts = self._digests[row]
        nonzero = np.flatnonzero(counts)
        digest = Digest.of_ascending(
            dict(zip(table.buckets[nonzero].tolist(), counts[nonzero].tolist(), strict=True))
        )
        hours = tuple([table.hours[each] for each in np.flatnonzero(self._pools[row]).tolist()])
        pool = self._pool = Pool(FallbackLevel(int(self._levels[row])), table.hours[index].slot, hours, True, (), digest)
        swings = tuple((self._all_swings[index] - self._all_swings[self._low[row]]).tolist())
        profile: HourProfile = ()
        if self._has_profile[row]:
            profile = tuple(map(tuple, self._profile[row].tolist()))
        return Prediction(pool, swings, self._parameters, profile)


def _may_drop(counts: Array, most: Array, parameters: Parameters) -> Array:
    """For which hours :func:`exporter.detection.traffic_history.may_drop` may be true, from the same upper bounds.

    Args:
        counts: requests by mark, those of the hour before and of the hour.
        most: upper bounds of the usual requests at the marks of either.
        parameters: settings of the detector.
    """
    # Sums are rounded in another order, so the margins are wider.
    least, drop = MIN_USUAL_REQUESTS * (1 - 1e-8), parameters.traffic_drop * (1 + 1e-8)
    shortest = -(-parameters.window_seconds // MARK_SECONDS)
    twice = np.concatenate([most, most], axis=1)
    may = np.zeros(len(counts), dtype=bool)
    usual, requests = np.zeros_like(most), np.zeros_like(counts[:, MARKS:])
    for length in range(1, MARKS + 1):
        of_first = twice[:, MARKS - length + 1 : 2 * MARKS - length + 1]
        usual = usual + of_first
        requests = requests + counts[:, MARKS - length + 1 : 2 * MARKS - length + 1]
        if length < shortest:
            continue
        limit = usual if length == shortest else np.minimum(usual, MIN_USUAL_REQUESTS + of_first)
        may |= ((usual >= least) & (requests < drop * limit)).any(axis=1)
    return may


def _medians(codes: Array, lanes: Array, known: Array, least: int) -> Array:
    """Return patterns: the medians in some lanes, and what higher quantiles inherit.

    Args:
        codes: encoded deviations of each lane that has a median, by hour; 0 where unknown.
        lanes: which lanes of each pattern have a median above the limit.
        known: the number of known deviations by pattern and lane.
        least: minimum number for a median.
    """
    codes.sort(axis=1)
    counts = known[lanes]
    found = np.zeros(lanes.shape, dtype=np.int64)
    found[lanes] = codes[np.arange(len(counts)), codes.shape[1] - counts + (counts - 1) // 2]
    found[lanes] -= _ZERO
    is_found = lanes.copy()
    for lane in range(MARKS, MAX_LANES, MARKS):
        mine, lower = slice(lane, lane + MARKS), slice(lane - MARKS, lane)
        inherits = ~is_found[:, mine] & is_found[:, lower] & (known[:, mine] < least)
        found[:, mine] = np.where(inherits, found[:, lower], found[:, mine])
        is_found[:, mine] |= inherits
    return found


def can_cover(detector: Detector, stream: StreamState) -> bool:
    """Whether hours of a series can be evaluated with arrays."""
    parameters = detector.parameters
    return (
        parameters.parts == ALL_PARTS
        and detector.is_enabled
        and detector.own_marks is None
        and detector.hint.reason is None
        and stream in COVERED_STREAMS
        and parameters.window_seconds % MARK_SECONDS == 0
        and parameters.max_window_seconds % MARK_SECONDS == 0
        and parameters.max_window_seconds >= parameters.window_seconds
        and parameters.min_traces > 0
    )
