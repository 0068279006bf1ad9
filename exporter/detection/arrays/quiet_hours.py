"""Evaluation of many hours of one series at once, with arrays, supposing that none of them is anomalous.

Nearly all hours of a history are as usual. What the evaluation of such an hour yields depends on the hours before it
only through which of them are quarantined. So for all hours of a series at once, arrays hold what
:mod:`exporter.detection.history` would compute hour by hour: pools, predicted quantiles, the evaluation windows
compared with them, patterns, and sums of squares. All of these are integers, so the results are the same to the last
bit. :mod:`.pools`, :mod:`.patterns` and :mod:`.looks` do a part of it each.

:class:`QuietHours` also says for each hour whether any test could be positive, by the same lower bounds of thresholds.
Such an hour, and any other that is not as usual, is evaluated on its own. If that changes which hours are quarantined,
the hours after it are computed again.

This module needs numpy. Only the worker processes that evaluate long histories import it.
"""

from bisect import bisect_left, bisect_right
from itertools import repeat
from typing import Final, cast

import numpy as np

from exporter.baseline.levels import (
    Pool,
)
from exporter.baseline.traffic import MIN_USUAL_REQUESTS, PATTERN_MIN_HOURS
from exporter.detection.arrays.hour_table import ABOVE_ALL, SHARES, Array, HourTable, SortedWindows
from exporter.detection.arrays.looks import Looks
from exporter.detection.arrays.patterns import find_patterns
from exporter.detection.arrays.pools import HourPools
from exporter.detection.detector import Detector, Expectation, SeriesState
from exporter.detection.likeness import SHARE_UNITS
from exporter.detection.measurement import LEAST_JOINT_SHARE, LEVEL_SUMS, LONG_SUMS, MAX_SQUARE, standard_error_ranks
from exporter.detection.parameters import (
    ALL_PARTS,
    BUSY_SWING_HOURS,
    LEVEL_MARKS,
    LEVEL_MIN_MARKS,
    LEVEL_SHARE,
    LONG_SWING_MIN_TRACES,
    MIN_EVALUATED_TRACES,
    MIN_SWING_EXCEEDANCES,
    Parameters,
)
from exporter.detection.prediction import Prediction
from exporter.detection.streams import CERTAIN_TRACES, REQUESTS, UNDECIDED, StreamState
from exporter.detection.swing import least_busy
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.deviations import MARKS, MAX_LANES, MOST_BUCKETS, ZERO_CODE
from exporter.model.histogram import BUCKETS_PER_OCTAVE
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hour_evaluation import ERROR_SUMS, NO_SWINGS, QUANTILES, HourEvaluation, HourProfile, Swings

_ROUNDING: Final = 1e-9
_ALL: Final = len(QUANTILES)
_COVERED_STREAMS: Final = (UNDECIDED, REQUESTS)
"""What a series is whose durations say that its spans are requests, or nothing yet."""


def can_cover(detector: Detector, state: SeriesState) -> bool:
    """Whether hours of a series can be evaluated with arrays at all, from a state on.

    Marks that people have set, streams, and settings that only benchmarks use are left to the evaluation by hour.
    """
    parameters = detector.parameters
    return (
        parameters.parts == ALL_PARTS
        and detector.is_judged(state.stream)
        and is_covered_stream(state.stream)
        and detector.own_marks is None
        and not state.tolerances
        and parameters.window_seconds % MARK_SECONDS == 0
        and parameters.max_window_seconds % MARK_SECONDS == 0
        and MARK_SECONDS <= parameters.window_seconds <= parameters.max_window_seconds
        and parameters.min_traces > 0
    )


def is_covered_stream(stream: StreamState) -> bool:
    """Whether the durations of a series have never been those of a stream."""
    return stream in _COVERED_STREAMS


class QuietHours:
    """What the hours of a series from some position on yield, supposing that none of them is anomalous.

    The attributes have an item for each hour from the position on.

    Attributes:
        position: position of the first hour in the table.
        is_covered: whether an hour can be taken from here.
        is_measured: whether its windows are compared with its baseline, even if it cannot be taken from here.
        is_predicted: whether it has a prediction.
        needs_look: whether a tick may change the flag: the hour must be evaluated on its own.
        is_usual: whether the hour is certainly not anomalous by itself, and begins no streak.
        may_drop: whether its traffic may be too low.
        ends: for an hour in which nothing at all can happen the first row behind it and those that follow on it for
            which that holds as well; for others their own row.
    """

    def __init__(
        self,
        table: HourTable,
        detector: Detector,
        position: int,
        until: int,
        changepoint: int | None,
        few_failures: Array,
        most_requests: float | None,
    ) -> None:
        """Compute all hours.

        Args:
            table: the hours; those before the position are evaluated.
            detector: the rules.
            position: position of the first hour.
            until: the evaluation ends here, Unix seconds.
            changepoint: start of the series' present behaviour, if a change was accepted.
            few_failures: for each hour of the table to be evaluated whether it has too few failures for a verdict.
            most_requests: upper bound of the usual requests of an hour; None if traffic is not judged.
        """
        self.position = position
        self._table, self._parameters = table, detector.parameters
        self._earlier = [hour.evaluation for hour in table.hours[:position]]
        quarantined = np.zeros(len(table.hours), dtype=bool)
        quarantined[:position] = [each.quarantined for each in self._earlier]
        pools = self._pools = HourPools(table, detector.rules, position, changepoint, quarantined)
        self._follows = np.diff(pools.starts, prepend=0) == HOUR_SECONDS
        self._windows = self._own_windows()
        self._codes, self._variances, self._half_variances = self._compare_windows()
        self._profile, self._has_profile = find_patterns(table, pools, self._codes, quarantined)
        self._swings = self._measure()
        before = [NO_SWINGS if each.quarantined else each.swings for each in self._earlier]
        swings = np.concatenate([np.array(before, dtype=np.int64).reshape(position, len(NO_SWINGS)), self._swings])
        self._sums = np.concatenate([np.zeros((1, len(NO_SWINGS)), dtype=np.int64), swings.cumsum(axis=0)])
        self._of_hours = swings
        self._is_counted = np.asarray(swings.any(axis=1))
        # Positions of the first hour of each local day, and the sums of all days but the last.
        days = np.flatnonzero(np.diff(table.days, prepend=-1))
        self._days: list[int] = days.tolist()
        self._daily: list[Swings] = list(map(tuple, np.diff(self._sums[days], axis=0).tolist()))
        self._find_exceptions(until, few_failures, most_requests)
        self._evaluations = self._all_evaluations()

    def _own_windows(self) -> SortedWindows:
        """Return the evaluation windows; they do not extend into an hour without a prediction."""
        windows = SortedWindows(*[each[self._pools.own] for each in self._table.windows])
        is_whole = self._table.is_whole[self._pools.own]
        has_none = np.concatenate([[False], (self._pools.is_simple & ~self._pools.is_predicted)[:-1]])
        self._is_first = self._pools.is_predicted & self._pools.is_simple & is_whole & has_none & self._follows
        if self._is_first.any():
            windows = SortedWindows(*[each.copy() for each in windows])
            for row in np.flatnonzero(self._is_first).tolist():
                sizes, quantiles, rows = self._table.windows_within(row + self.position)
                windows.sizes[row], windows.quantiles[row] = sizes, quantiles
                windows.rows[row] = ABOVE_ALL
                windows.rows[row, :, : rows.shape[1]] = rows
        return windows

    def _compare_windows(self) -> tuple[Array, Array, Array]:
        """Compare the windows with the predictions.

        Returns:
            The encoded deviations of all hours by lane, those before as they are stored, and the sampling variances of
            the evaluation windows and of those of half an hour.
        """
        windows, halves = self._windows, self._table.halves
        self._sizes, self._half_sizes = windows.sizes, halves.sizes[self._pools.own]
        self._distances = windows.quantiles - self._pools.baseline[:, None, :]
        self._known = _is_measurable(self._sizes) & self._pools.is_predicted[:, None, None]
        # Sampling variances depend on the pool and on the size only.
        sizes = np.concatenate([self._sizes, self._half_sizes], axis=1)
        most = int(sizes.max()) + 1
        pairs, inverse = np.unique(self._pools.rows[:, None] * most + sizes, return_inverse=True)
        rows, of_pairs = pairs // most, np.maximum(pairs % most, MIN_EVALUATED_TRACES)
        distinct, which = np.unique(of_pairs, return_inverse=True)
        shares = np.array([standard_error_ranks(size) for size in distinct.tolist()])[which]
        bounds = self._pools.quantiles(shares, rows[:, None, None])
        variances = ((bounds[..., 1] - bounds[..., 0]) ** 2)[inverse.reshape(sizes.shape)]
        codes = np.zeros((len(self._table.hours), MAX_LANES), dtype=np.uint8)
        for row, evaluation in zip(codes, self._earlier):  # noqa: B905 - those before the first hour
            row[: len(evaluation.deviations)] = np.frombuffer(evaluation.deviations, dtype=np.uint8)
        lanes = np.where(self._known, ZERO_CODE + np.clip(self._distances, -MOST_BUCKETS, MOST_BUCKETS), 0)
        codes[self.position :] = lanes.transpose(0, 2, 1).reshape(self._pools.count, MAX_LANES)
        return codes, variances[:, :MARKS], variances[:, MARKS:]

    def _measure(self) -> Array:
        """Return the swings of all hours, as :func:`.measure_hour` does."""
        swings = np.zeros((self._pools.count, len(NO_SWINGS)), dtype=np.int64)
        known, sizes = self._known, self._sizes
        errors = self._distances - self._profile.transpose(0, 2, 1)
        swings[:, :LONG_SUMS] = _squared(errors, self._variances, known)
        has_long, has_level = self._pools.has_long_window, self._pools.has_level
        if has_long.any():
            counted = _is_measurable(self._half_sizes) & (self._half_sizes >= LONG_SWING_MIN_TRACES)[:, :, None]
            counted &= has_long[:, None, None]
            distances = self._table.halves.quantiles[self._pools.own] - self._pools.baseline[:, None, :]
            swings[:, LONG_SUMS:LEVEL_SUMS] = _squared(distances, self._half_variances, counted)
        before = self._codes_before()
        if has_level.any():
            levels, are_known = self._levels_of_now(errors, before)
            counted = known & are_known & has_level[:, None, None]
            swings[:, LEVEL_SUMS:ERROR_SUMS] = _squared(errors - levels, self._variances, counted)
        measured = (sizes >= MIN_EVALUATED_TRACES) & self._pools.is_predicted[:, None]
        median = self._pools.baseline[:, :1, None].astype(np.int16)
        above = sizes - np.count_nonzero(self._windows.rows <= median, axis=2)
        some = np.maximum(sizes, 2)
        unlike = 2 * SHARE_UNITS * above * (sizes - above) // (some * (some - 1))
        now, earlier = self._codes[self.position :, :MARKS], before[:, :MARKS]
        both = (now > 0) & (earlier > 0)
        is_above, was_above = (now > ZERO_CODE) & both, (earlier > ZERO_CODE) & both
        swings[:, ERROR_SUMS:] = np.stack(
            [
                measured.sum(axis=1),
                (SHARE_UNITS * above // some * measured).sum(axis=1),
                (unlike * measured).sum(axis=1),
                both.sum(axis=1),
                is_above.sum(axis=1) + was_above.sum(axis=1),
                (is_above ^ was_above).sum(axis=1),
            ],
            axis=1,
        )
        return swings

    def _codes_before(self) -> Array:
        """Return the encoded deviations of the hour before each; all are unknown in hours without traffic."""
        starts = self._table.starts
        previous = np.searchsorted(starts, self._pools.starts - HOUR_SECONDS)
        is_there = (starts[previous] == self._pools.starts - HOUR_SECONDS) & (previous >= self._pools.low)
        codes: Array = self._codes[previous] * is_there[:, None]
        return codes

    def _levels_of_now(self, errors: Array, before: Array) -> tuple[Array, Array]:
        """Return the level before each window in buckets, and where it is known; see :func:`.measurement.levels_of`."""
        earlier = before.reshape(-1, _ALL, MARKS)[:, :, -LEVEL_MARKS:]
        distances = earlier.astype(np.int64) - ZERO_CODE - self._profile[:, :, -LEVEL_MARKS:]
        values = np.concatenate([distances.transpose(0, 2, 1), errors], axis=1)
        are_known = np.concatenate([(earlier > 0).transpose(0, 2, 1), self._known], axis=1)
        totals, known = (_of_last_marks(each) for each in (values * are_known, are_known))
        numerator, denominator = LEVEL_SHARE
        levels = np.rint(numerator * totals / np.maximum(denominator * known, 1)).astype(np.int64)
        return np.clip(levels, -BUCKETS_PER_OCTAVE, BUCKETS_PER_OCTAVE), known >= LEVEL_MIN_MARKS

    def _find_exceptions(self, until: int, few_failures: Array, most_requests: float | None) -> None:
        """Find out which hours can be taken from here, and in which of them something may happen."""
        table, pools, follows = self._table, self._pools, self._follows
        is_whole = table.is_whole[pools.own]
        # Windows are complete where all hours that they extend into have predictions.
        is_complete = has_prediction = pools.is_predicted & is_whole & pools.is_simple
        looks = Looks(table, pools, self._windows, self._parameters)
        for _ in range(looks.reach):
            is_complete = has_prediction & follows & np.concatenate([[False], is_complete[:-1]])
        is_settled = pools.starts + HOUR_SECONDS <= until
        is_covered = is_whole & is_settled & pools.is_simple & (is_complete | ~pools.is_predicted)
        is_usual = looks.are_usual(is_covered)
        needs_look = looks.at_windows(is_covered & pools.is_predicted) | looks.at_tails(is_covered & pools.is_predicted)
        may_drop = np.zeros(pools.count, dtype=bool)
        if most_requests is not None:
            patterns, parameters = table.patterns, self._parameters
            most = most_requests * patterns.shares[:-1][pools.own]
            may_drop = _may_drop(table.by_mark[pools.own], most, parameters)
            may_drop |= parameters.traffic_surge is not None
            may_drop &= patterns.hours[:-1][pools.own] >= PATTERN_MIN_HOURS
            # Before the first hours, requests are not known.
            may_drop[: max(0, table.first + 2 - self.position)] = True
        is_plain = is_covered & is_usual & ~needs_look & ~may_drop & few_failures[pools.own]
        breaks = np.flatnonzero(~is_plain | ~follows)
        behind = np.append(breaks, pools.count)[np.searchsorted(breaks, pools.rows, side="right")]
        self.is_covered: list[bool] = is_covered.tolist()
        self.is_measured: list[bool] = (is_complete | self._is_first).tolist()
        self.is_predicted: list[bool] = pools.is_predicted.tolist()
        self.needs_look: list[bool] = needs_look.tolist()
        self.is_usual: list[bool] = is_usual.tolist()
        self.may_drop: list[bool] = may_drop.tolist()
        self.ends: list[int] = np.where(is_plain, behind, pools.rows).tolist()
        self._has_expectation: list[bool] = (pools.is_predicted & pools.is_simple).tolist()

    def evaluation(self, index: int) -> HourEvaluation:
        """Return the evaluation of an hour, by its position in the table."""
        return self._evaluations[index - self.position]

    def _all_evaluations(self) -> list[HourEvaluation]:
        swings = map(tuple, self._swings.tolist())
        codes = self._codes[self.position :].tobytes()
        deviations = [codes[first : first + MAX_LANES].rstrip(b"\0") for first in range(0, len(codes), MAX_LANES)]
        fields = zip(repeat(False), swings, deviations)
        # As HourEvaluation._make() does, in half the time.
        return cast("list[HourEvaluation]", list(map(tuple.__new__, repeat(HourEvaluation), fields)))

    def stream_after(self, index: int, stream: StreamState) -> StreamState:
        """Return what a series is after an hour with a prediction, by its position in the table."""
        is_certain = stream == UNDECIDED and self._pools.traces[index - self.position] >= CERTAIN_TRACES
        return REQUESTS if is_certain else stream

    def prediction(self, index: int) -> Prediction:
        """Return the prediction of an hour that has one, by its position in the table."""
        return self._predict(index, self._pools.pool(index))

    def _predict(self, index: int, pool: Pool) -> Prediction:
        row = index - self.position
        low = int(self._pools.low[row])
        swings = self._sum(low, index)
        # Days that begin after the first hour and before this one.
        first, behind = bisect_right(self._days, low), bisect_left(self._days, index)
        daily = [swings]
        if first < behind:
            begun, last = self._days[first], self._days[behind - 1]
            daily = [self._sum(low, begun), *self._daily[first : behind - 1], self._sum(last, index)]
        profile: HourProfile = ()
        if self._has_profile[row]:
            profile = tuple(map(tuple, self._profile[row].tolist()))
        return Prediction(pool, swings, self._parameters, profile, daily, self._busy(pool, low, index))

    def _busy(self, pool: Pool, low: int, index: int) -> list[Swings]:
        """Return the sums for each day of the hours that tell the swing, as :meth:`.SeriesHours.busy_swings` does."""
        least = least_busy(pool, self._parameters)
        if least is None:
            return []
        table, counted = self._table, self._is_counted[low:index]
        busy = low + np.flatnonzero(counted & (table.counts[low:index] >= least))
        if BUSY_SWING_HOURS * len(busy) < counted.sum() or not len(busy):
            return []
        of_days = np.add.reduceat(self._of_hours[busy], np.flatnonzero(np.diff(table.days[busy], prepend=-1)))
        return list(map(tuple, of_days.tolist()))

    def _sum(self, first: int, behind: int) -> Swings:
        return tuple((self._sums[behind] - self._sums[first]).tolist())

    def expectation(self, index: int, stream: StreamState) -> Expectation | None:
        """Return the baseline of an hour, by its position in the table; None where it is not simple.

        Args:
            index: position of the hour.
            stream: what the series was in the hour before.
        """
        if not self._has_expectation[index - self.position]:
            return None
        pool = self._pools.pool(index)
        return Expectation(pool, self._predict(index, pool), self.stream_after(index, stream))


def _is_measurable(sizes: Array) -> Array:
    """Return for which quantiles windows have enough expected exceedances, in one more dimension."""
    enough: Array = sizes[..., None] * (1 - SHARES) >= MIN_SWING_EXCEEDANCES - _ROUNDING
    return enough & (sizes >= MIN_EVALUATED_TRACES)[..., None]


def _squared(distances: Array, variances: Array, counted: Array) -> Array:
    """Return the squared errors of each hour and their numbers, in turn for each quantile."""
    squares = (np.minimum(distances * distances, MAX_SQUARE) * counted).sum(axis=1)
    expected = (variances * counted).sum(axis=1)
    errors = np.maximum(4 * squares // LEAST_JOINT_SHARE, 4 * squares - expected)
    return np.stack([errors, counted.sum(axis=1)], axis=2).reshape(len(errors), -1)


def _of_last_marks(values: Array) -> Array:
    """Return sums over the marks before each of an hour, which follow on those of the hour before, along axis 1."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1, values.shape[2]), dtype=np.int64)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    found: Array = sums[:, LEVEL_MARKS:-1] - sums[:, : -LEVEL_MARKS - 1]
    return found


def _may_drop(counts: Array, most: Array, parameters: Parameters) -> Array:
    """Return for which hours :func:`exporter.detection.traffic.history.may_drop` may be true.

    Args:
        counts: requests by mark, those of the hour before and of the hour.
        most: upper bounds of the usual requests at the marks of either.
        parameters: settings of the detector.
    """
    # Sums are rounded in another order, so the margins are wider.
    least, drop = MIN_USUAL_REQUESTS * (1 - 1e-8), parameters.traffic_drop * (1 + 1e-8)
    shortest = -(-parameters.window_seconds // MARK_SECONDS)
    most = np.concatenate([most, most], axis=1)
    may = np.zeros(len(counts), dtype=bool)
    usual: Array = np.zeros(())
    requests: Array = np.zeros((), dtype=np.int64)
    for length in range(1, MARKS + 1):
        begins = slice(MARKS - length + 1, 2 * MARKS - length + 1)
        usual, requests = usual + most[:, begins], requests + counts[:, begins]
        if length >= shortest:
            limit = usual if length == shortest else np.minimum(usual, MIN_USUAL_REQUESTS + most[:, begins])
            may |= ((usual >= least) & (requests < drop * limit)).any(axis=1)
    return may
