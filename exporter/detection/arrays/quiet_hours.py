"""Evaluation of many hours of one series at once, with arrays, supposing that none of them is anomalous.

Nearly all hours of a history are as usual. What the evaluation of such an hour yields depends on the hours before it
only through which of them are quarantined. So for all hours of a series at once, arrays hold what
:mod:`exporter.detection.history` would compute hour by hour: pools, predicted quantiles, the evaluation windows
compared with them, patterns, and sums of squares. All of these are integers, so the results are the same to the last
bit.

:class:`QuietHours` also says for each hour whether any test could be positive, by the same lower bounds of thresholds.
Such an hour, and any other that is not as usual, is evaluated on its own. If that changes which hours are quarantined,
the hours after it are computed again.

This module needs numpy. Only the worker processes that evaluate long histories import it.
"""

from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import repeat
from typing import Final, cast

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
from exporter.baseline.traffic import MIN_USUAL_REQUESTS, PATTERN_MIN_HOURS
from exporter.detection.arrays.hour_table import ABOVE_ALL, SHARES, Array, HourTable, SortedWindows, ranks_of, sums_of
from exporter.detection.detector import Detector, Expectation, SeriesState
from exporter.detection.likeness import SHARE_UNITS
from exporter.detection.measurement import LEAST_JOINT_SHARE, MAX_SQUARE, standard_error_ranks
from exporter.detection.parameters import (
    ALL_PARTS,
    BUSY_SWING_HOURS,
    DAILY_PATTERN_BUCKETS,
    DAILY_PATTERN_MIN_HOURS,
    LADDER_MIN_TRACES,
    LEVEL_MARKS,
    LEVEL_MIN_MARKS,
    LEVEL_MIN_TRACES,
    LEVEL_SHARE,
    LONG_SWING_MIN_TRACES,
    LONG_WINDOW_MIN_HOURLY_TRACES,
    LONG_WINDOW_MIN_TRACES,
    MIN_EVALUATED_TRACES,
    MIN_EXCEEDANCES,
    MIN_SWING_EXCEEDANCES,
    PROFILE_MIN_HOURS,
    STAT_FLOOR_RATIO,
    TAIL_ALPHA_SHARE,
    TAIL_MIN_HOURLY_TRACES,
    TAIL_STEPS,
    TAIL_WINDOWS_MARKS,
    Parameters,
)
from exporter.detection.prediction import Prediction
from exporter.detection.runs import MAX_RUNS_PER_HOUR, MAX_TRACES_PER_HOUR, OBSERVED_HOURS
from exporter.detection.significance import tail_probability
from exporter.detection.streams import CERTAIN_TRACES, REQUESTS, SHORTEST_CUT, UNDECIDED, StreamState
from exporter.detection.swing import least_busy
from exporter.detection.thresholds import buckets_of, correlation_of, floor_of
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.deviations import MARKS, MAX_LANES, MOST_BUCKETS, ZERO_CODE
from exporter.model.histogram import BUCKETS_PER_OCTAVE, ZERO_BUCKET, Digest
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hours import ERROR_SUMS, NO_SWINGS, PATTERN_BUCKETS, QUANTILES, HourEvaluation, HourProfile, Swings

_ROUNDING: Final = 1e-9
_ALL: Final = len(QUANTILES)
_LONG, _LEVEL = 2 * _ALL, 4 * _ALL
"""Positions of the sums for the windows of half an hour and for the level in `Swings`, as in `prediction`."""
_NEVER: Final = 1 << 40
_TINY, _MARGIN = 1e-12, 1e-6
"""Stands for a mean of zero, which has no logarithm; and by how much rounding may raise a probability."""
_HOURS_OF_DAY: Final = 24
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
        self._starts = table.starts[position:]
        self._count = len(self._starts)
        self._rows, self._positions = np.arange(self._count), np.arange(len(table.hours))
        self._own = slice(position - table.first, None)
        self._earlier = [hour.evaluation for hour in table.hours[:position]]
        self._quarantined = np.zeros(len(table.hours), dtype=bool)
        self._quarantined[:position] = [each.quarantined for each in self._earlier]
        since = np.maximum(self._starts - detector.rules.lookback_seconds, changepoint or 0)
        self._low = np.searchsorted(table.starts, since)
        self._high = np.maximum(np.searchsorted(table.starts, self._starts - HOUR_SECONDS), self._low)
        self._choose_pools(detector.rules)
        self._follows = np.diff(self._starts, prepend=0) == HOUR_SECONDS
        self._windows = self._own_windows()
        self._codes, self._variances, self._half_variances = self._compare_windows()
        self._profile, self._has_profile = self._find_patterns()
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
        # A window may extend into so many hours before its own.
        self._reach = -(-detector.parameters.max_window_seconds // HOUR_SECONDS)
        self._find_exceptions(until, few_failures, most_requests)
        self._evaluations = self._all_evaluations()

    def _choose_pools(self, rules: FallbackRules) -> None:
        """Choose the pool of each hour, and find out for which hours everything else is simple."""
        table, position = self._table, self._positions
        slots, counts, starts = table.slots, table.counts, table.starts
        in_range = (position >= self._low[:, None]) & (position < self._high[:, None])
        members, levels, least = _members(rules)
        own_slots = slots[self.position :]
        is_usable = ~self._quarantined
        candidates = members[:, :, slots].take(own_slots, axis=0) & (in_range & is_usable)[:, None, :]
        # Numbers of hours and of traces by slot, of which those that a level pools are added.
        of_slot = (slots[:, None] == np.arange(len(SLOTS))) & is_usable[:, None]
        sums = [_sums_before(each) for each in (of_slot, of_slot * counts[:, None])]
        by_slot = [each[self._high] - each[self._low] for each in sums]
        hours, traces = (np.matmul(members[own_slots], each[:, :, None])[:, :, 0] for each in by_slot)
        first = candidates.argmax(axis=2)
        last = len(counts) - 1 - candidates[:, :, ::-1].argmax(axis=2)
        spans = starts[last] - starts[first] >= MATURE_SPAN_SECONDS
        spans = np.where(levels == FallbackLevel.NEARBY, table.days[first] != table.days[last], spans)
        is_mature = (spans | (levels == FallbackLevel.EXACT)) & (hours >= MATURE_WINDOWS) & (traces >= MATURE_TRACES)
        is_mature &= traces >= least
        chosen = is_mature.argmax(axis=1)
        self._is_predicted = is_mature.any(axis=1)
        self._members = candidates[self._rows, chosen]
        self._levels = levels[chosen]
        self._hours = hours[self._rows, chosen]
        self._digests = (self._members.astype(np.float64) @ table.digests).astype(np.int64)
        cumulative = self._digests.cumsum(axis=1)
        self._traces = cumulative[:, -1]
        # All rows one after the other, so that a search finds quantiles of all.
        self._offsets = self._rows * (int(self._traces.max()) + 1)
        self._cumulative = (cumulative + self._offsets[:, None]).ravel()
        self._baseline = self._quantiles(np.broadcast_to(SHARES, (self._count, _ALL)), self._rows[:, None])
        upper = self._quantiles(np.full((self._count, 1), 0.75), self._rows[:, None])[:, 0]
        is_simple = (upper < SHORTEST_CUT) & (self._baseline != ZERO_BUCKET).all(axis=1)
        self._is_simple = (is_simple | ~self._is_predicted) & ~self._is_sparse()
        if self._quarantined.any():
            exact = members[own_slots, 0][:, slots] & in_range
            quarantined = (exact & self._quarantined).sum(axis=1)
            # They may recur, see levels.is_recurring(): then they are released.
            self._is_simple &= (quarantined < MATURE_WINDOWS) | (2 * quarantined < exact.sum(axis=1))

    def _quantiles(self, shares: Array, rows: Array) -> Array:
        """Return quantiles of the pools of some rows; arbitrary without a pool."""
        width = len(self._table.buckets)
        rows = np.broadcast_to(rows, shares.shape)
        ranks = ranks_of(shares, self._traces[rows])
        found = np.searchsorted(self._cumulative, ranks + self._offsets[rows]) - rows * width
        quantiles: Array = self._table.buckets[np.minimum(found, width - 1)]
        return quantiles

    def _is_sparse(self) -> Array:
        """Return for which hours the series is evaluated by run, as :func:`.runs.is_sparse` does."""
        low, high = self._low, self._high
        traces = sums_of(self._table.counts)
        hours = high - low
        found: Array = (hours > 0) & (traces[high] - traces[low] <= MAX_TRACES_PER_HOUR * hours)
        if found.any():
            latest = np.maximum(low, high - OBSERVED_HOURS)
            hours, runs = high - latest, self._table.runs
            found &= runs[high] - runs[latest] <= MAX_RUNS_PER_HOUR * hours
            found &= traces[high] - traces[latest] <= MAX_TRACES_PER_HOUR * hours
        return found

    def _own_windows(self) -> SortedWindows:
        """Return the evaluation windows; they do not extend into an hour without a prediction."""
        windows = SortedWindows(*[each[self._own] for each in self._table.windows])
        is_whole = self._table.is_whole[self._own]
        has_none = np.concatenate([[False], (self._is_simple & ~self._is_predicted)[:-1]])
        self._is_first = self._is_predicted & self._is_simple & is_whole & has_none & self._follows
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
        self._sizes, self._half_sizes = windows.sizes, halves.sizes[self._own]
        self._distances = windows.quantiles - self._baseline[:, None, :]
        self._known = _is_measurable(self._sizes) & self._is_predicted[:, None, None]
        # Sampling variances depend on the pool and on the size only.
        sizes = np.concatenate([self._sizes, self._half_sizes], axis=1)
        most = int(sizes.max()) + 1
        pairs, inverse = np.unique(self._rows[:, None] * most + sizes, return_inverse=True)
        rows, of_pairs = pairs // most, np.maximum(pairs % most, MIN_EVALUATED_TRACES)
        distinct, which = np.unique(of_pairs, return_inverse=True)
        shares = np.array([standard_error_ranks(size) for size in distinct.tolist()])[which]
        bounds = self._quantiles(shares, rows[:, None])
        variances = ((bounds[:, 1::2] - bounds[:, ::2]) ** 2)[inverse.reshape(sizes.shape)]
        codes = np.zeros((len(self._table.hours), MAX_LANES), dtype=np.uint8)
        for row, evaluation in zip(codes, self._earlier):  # noqa: B905 - those before the first hour
            row[: len(evaluation.deviations)] = np.frombuffer(evaluation.deviations, dtype=np.uint8)
        lanes = np.where(self._known, ZERO_CODE + np.clip(self._distances, -MOST_BUCKETS, MOST_BUCKETS), 0)
        codes[self.position :] = lanes.transpose(0, 2, 1).reshape(self._count, MAX_LANES)
        return codes, variances[:, :MARKS], variances[:, MARKS:]

    def _find_patterns(self) -> tuple[Array, Array]:
        """Return the pattern of each hour by quantile and mark, and which hours have one.

        See :meth:`.SeriesHours.profile` and :func:`.profile.pattern_of_hour`.
        """
        counted = self._codes * ~self._quarantined[:, None]
        own = self._positions[self.position :]
        known = _sums_before(counted > 0)
        above = _sums_before(counted > ZERO_CODE + PATTERN_BUCKETS)
        known, above = known[own] - known[self._low], above[own] - above[self._low]
        found = (2 * above > known) & (known >= PROFILE_MIN_HOURS) & self._is_predicted[:, None]
        profile = np.zeros((self._count, MAX_LANES), dtype=np.int64)
        rows, lanes = np.nonzero(found)
        if len(rows):
            hours = self._positions
            in_reach = (hours >= self._low[rows, None]) & (hours < own[rows, None])
            profile = _medians(counted.T[lanes] * in_reach, found, known, PROFILE_MIN_HOURS)
        daily, has_daily = self._find_daily_patterns()
        has_profile = found.any(axis=1) | has_daily
        return np.maximum(profile, daily).reshape(-1, _ALL, MARKS), has_profile

    def _find_daily_patterns(self) -> tuple[Array, Array]:
        """Return the patterns of one hour of the day by lane, and which hours have one."""
        number = len(self._table.hours)
        profile = np.zeros((self._count, MAX_LANES), dtype=np.int64)
        has_profile = np.zeros(self._count, dtype=bool)
        # The hours by hour of the day, and in time order within each.
        of_day = self._table.slots % _HOURS_OF_DAY
        order = np.argsort(of_day, kind="stable")
        keys, own = of_day[order] * number + order, of_day[self.position :] * number
        begins, ends = np.searchsorted(keys, own + self._low), np.searchsorted(keys, own + self._high)
        rows = np.flatnonzero(self._is_predicted & (ends - begins >= DAILY_PATTERN_MIN_HOURS))
        if not len(rows):
            return profile, has_profile
        places = begins[rows, None] + np.arange(int((ends - begins)[rows].max()))
        hours = order[np.minimum(places, number - 1)]
        is_counted = (places < ends[rows, None]) & ~self._quarantined[hours]
        deviations = self._codes[hours].astype(np.int16) * is_counted[:, :, None]
        self._transfer(deviations, rows, hours, is_counted)
        known = (deviations > 0).sum(axis=1)
        above = (deviations > ZERO_CODE + DAILY_PATTERN_BUCKETS).sum(axis=1)
        found = (2 * above > known) & (known >= DAILY_PATTERN_MIN_HOURS)
        each, lanes = np.nonzero(found)
        if len(each):
            profile[rows] = _medians(deviations[each, :, lanes], found, known, DAILY_PATTERN_MIN_HOURS)
            has_profile[rows] = found.any(axis=1)
        return profile, has_profile

    def _transfer(self, deviations: Array, rows: Array, hours: Array, is_counted: Array) -> None:
        """Raise deviations from baselines of the exact slot, where the hours around serve.

        See :func:`.profile.deviations_from_hours_around`.

        Args:
            deviations: encoded deviations of earlier hours, by row; changed.
            rows: for which hours.
            hours: the earlier hours.
            is_counted: which of them count.
        """
        table = self._table
        follows = np.diff(table.starts) == HOUR_SECONDS
        has_neighbours = np.zeros(len(table.hours), dtype=bool)
        excess = np.zeros((len(table.hours), _ALL), dtype=np.int64)
        has_neighbours[1:-1] = follows[:-1] & follows[1:]
        # In half buckets.
        excess[1:-1] = 2 * table.quantiles[1:-1] - table.quantiles[:-2] - table.quantiles[2:]
        is_late = table.slots[hours] >= _HOURS_OF_DAY
        of_slot = [(is_counted & each).cumsum(axis=1) for each in (is_late, ~is_late)]
        is_exact = is_counted & (np.where(is_late, *of_slot) > MATURE_WINDOWS)
        is_used = is_exact & has_neighbours[hours] & (hours > self._low[rows, None])
        is_used &= (self._levels[rows] > FallbackLevel.EXACT)[:, None]
        used = is_used.sum(axis=1)
        raised = np.flatnonzero(used)
        if not len(raised):
            return
        ordered = np.sort(np.where(is_used[raised, :, None], excess[hours[raised]], _NEVER), axis=1)
        each, used = np.arange(len(raised)), used[raised]
        twice_the_median = ordered[each, (used - 1) // 2] + ordered[each, used // 2]
        by = np.repeat(np.maximum(np.rint(twice_the_median / 4), 0).astype(np.int16), MARKS, axis=1)
        before = deviations[raised]
        after = np.minimum(before + by[:, None, :], ZERO_CODE + MOST_BUCKETS)
        deviations[raised] = np.where((before > 0) & is_exact[raised, :, None], after, before)

    def _measure(self) -> Array:
        """Return the swings of all hours, as :func:`.measure_hour` does."""
        swings = np.zeros((self._count, len(NO_SWINGS)), dtype=np.int64)
        known, sizes = self._known, self._sizes
        errors = self._distances - self._profile.transpose(0, 2, 1)
        swings[:, :_LONG] = _squared(errors, self._variances, known)
        self._has_long = self._is_predicted & (self._traces >= LONG_WINDOW_MIN_HOURLY_TRACES * self._hours)
        self._has_level = self._is_predicted & (self._traces >= LEVEL_MIN_TRACES * self._hours)
        if self._has_long.any():
            counted = _is_measurable(self._half_sizes) & (self._half_sizes >= LONG_SWING_MIN_TRACES)[:, :, None]
            counted &= self._has_long[:, None, None]
            distances = self._table.halves.quantiles[self._own] - self._baseline[:, None, :]
            swings[:, _LONG:_LEVEL] = _squared(distances, self._half_variances, counted)
        before = self._codes_before()
        if self._has_level.any():
            levels, are_known = self._levels_of_now(errors, before)
            counted = known & are_known & self._has_level[:, None, None]
            swings[:, _LEVEL:ERROR_SUMS] = _squared(errors - levels, self._variances, counted)
        measured = (sizes >= MIN_EVALUATED_TRACES) & self._is_predicted[:, None]
        median = self._baseline[:, :1, None].astype(np.int16)
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
        previous = np.searchsorted(starts, self._starts - HOUR_SECONDS)
        is_there = (starts[previous] == self._starts - HOUR_SECONDS) & (previous >= self._low)
        codes: Array = self._codes[previous] * is_there[:, None]
        return codes

    def _levels_of_now(self, errors: Array, before: Array) -> tuple[Array, Array]:
        """Return the level before each window in buckets, and where it is known; see :func:`.prediction.levels_of`."""
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
        table, position = self._table, self.position
        is_whole = table.is_whole[self._own]
        follows = self._follows
        # Windows are complete where all hours that they extend into have predictions.
        is_complete = has_prediction = self._is_predicted & is_whole & self._is_simple
        for _ in range(self._reach):
            is_complete = has_prediction & follows & np.concatenate([[False], is_complete[:-1]])
        is_settled = self._starts + HOUR_SECONDS <= until
        is_covered = is_whole & is_settled & self._is_simple & (is_complete | ~self._is_predicted)
        counts = table.counts[position:]
        floors = _floors(self._baseline, self._parameters)
        gate = floors[..., 0]
        slow = counts[:, None] - table.count_up_to(position, gate)
        fast = table.count_up_to(position, 2 * self._baseline[:, :1] - gate[:, :1])[:, 0]
        is_above = (slow >= MIN_EXCEEDANCES) & (table.quantiles[position:] > gate)
        is_below = 2 * fast > counts
        is_usual = (~is_above.any(axis=1) & ~is_below & (2 * slow[:, 0] <= counts)) | ~self._is_predicted
        for row in np.flatnonzero(~is_usual & is_covered & (2 * slow[:, 0] <= counts)).tolist():
            is_usual[row] = not self._is_significant(row, is_above[row], fast[row], floors[row, :, 2])
        needs_look = self._find_looks(is_covered & self._is_predicted, floors)
        needs_look |= self._find_tails(is_covered & self._is_predicted, floors)
        may_drop = np.zeros(self._count, dtype=bool)
        if most_requests is not None:
            patterns, parameters = table.patterns, self._parameters
            most = most_requests * patterns.shares[:-1][self._own]
            may_drop = _may_drop(table.by_mark[self._own], most, parameters)
            may_drop |= parameters.traffic_surge is not None
            may_drop &= patterns.hours[:-1][self._own] >= PATTERN_MIN_HOURS
            # Before the first hours, requests are not known.
            may_drop[: max(0, table.first + 2 - position)] = True
        is_plain = is_covered & is_usual & ~needs_look & ~may_drop & few_failures[self._own]
        breaks = np.flatnonzero(~is_plain | ~follows)
        behind = np.append(breaks, self._count)[np.searchsorted(breaks, self._rows, side="right")]
        self.is_covered: list[bool] = is_covered.tolist()
        self.is_measured: list[bool] = (is_complete | self._is_first).tolist()
        self.is_predicted: list[bool] = self._is_predicted.tolist()
        self.needs_look: list[bool] = needs_look.tolist()
        self.is_usual: list[bool] = is_usual.tolist()
        self.may_drop: list[bool] = may_drop.tolist()
        self.ends: list[int] = np.where(is_plain, behind, self._rows).tolist()
        self._has_expectation: list[bool] = (self._is_predicted & self._is_simple).tolist()

    def _is_significant(self, row: int, is_above: Array, fast: int, stats: Array) -> bool:
        """Whether an hour fails the test of :func:`.settlement.is_anomalous` by lower bounds of the thresholds.

        Args:
            row: the hour.
            is_above: which of its quantiles lie above the gate, with enough slow traces.
            fast: number of traces that are fast.
            stats: lower bounds of the statistical thresholds.
        """
        table, parameters, index = self._table, self._parameters, self.position + row
        traces = int(table.counts[index])
        if traces < MIN_EVALUATED_TRACES:
            return False
        correlation = correlation_of(int(self._traces[row]))
        tests = [(table.count_above(index, stats[each]), 1 - QUANTILES[each]) for each in np.flatnonzero(is_above)]
        if 2 * fast > traces:
            tests.append((int(fast), 0.5))
        return any(
            tail_probability(number, traces, share, correlation, enough=parameters.alpha) < parameters.alpha
            for number, share in tests
        )

    def _find_looks(self, rows: Array, floors: Array) -> Array:
        """Return in which of some hours a test of a window may be positive.

        By the bounds of :func:`.verdict.can_be_shifted` and :func:`.small_shift.can_be_small_shift`: what these exclude
        is excluded here, but not the other way round.
        """
        parameters, sizes = self._parameters, self._sizes
        floors = self._lowest(floors)
        gate, small, stat = floors[..., 0], floors[..., 1], floors[..., 2]
        has_small = self._has_long | self._has_level
        if parameters.parts.near_baselines:
            has_small &= self._levels <= FallbackLevel.NEARBY
        # Of a series that has small tests in an hour but not in the one before, all windows are looked at.
        has_all_small = ~self._lowest(~has_small[:, None], np.maximum)[:, 0]
        lowest = np.where(has_small[:, None], np.minimum(gate, small), gate)
        windows = self._windows
        exceeds = windows.quantiles > lowest[:, None, :]
        exceeds &= ((sizes >= MIN_EXCEEDANCES) & rows[:, None])[:, :, None]
        needs_look = np.zeros(self._count, dtype=bool)
        rows, marks = np.nonzero(exceeds.any(axis=2))
        if not len(rows):
            return needs_look
        traces, buckets = sizes[rows, marks], windows.rows[rows, marks]
        ranks = np.minimum(ranks_of(SHARES, traces[:, None]), traces[:, None] - MIN_EXCEEDANCES + 1)
        gated = np.take_along_axis(buckets, ranks - 1, axis=1)
        exceeds_gate = gated > gate[rows]
        exceeds_small = (gated > small[rows]) & has_small[rows, None]
        half_hours = self._table.half_hour_sizes[self._own][rows, marks]
        is_certain = exceeds_gate.any(axis=1) & (traces >= LADDER_MIN_TRACES)
        is_certain |= exceeds_small.any(axis=1) & (~has_all_small[rows] | (half_hours >= LONG_WINDOW_MIN_TRACES))
        needs_look[rows[is_certain]] = True
        each, quantiles = np.nonzero((exceeds_gate | exceeds_small) & ~needs_look[rows, None])
        limits = stat[rows[each], quantiles].astype(np.int16)
        beyond = traces[each] - np.count_nonzero(buckets[each] <= limits[:, None], axis=1)
        # Windows that follow one another are often the same.
        tests = set(zip(*[column.tolist() for column in (rows[each], quantiles, beyond, traces[each])], strict=True))
        for row, quantile, slow, of in tests:
            if not needs_look[row]:
                correlation = correlation_of(int(self._traces[row]))
                chance = tail_probability(slow, of, 1 - QUANTILES[quantile], correlation, enough=parameters.alpha)
                needs_look[row] = chance < parameters.alpha
        return needs_look

    def _find_tails(self, rows: Array, floors: Array) -> Array:
        """Return in which of some hours the test of the slowest traces may be positive; see :mod:`.tail_shift`.

        It is not where a single term of the tail probability is too high, with the lowest share that may be expected.
        """
        table, alpha = self._table, TAIL_ALPHA_SHARE * self._parameters.alpha
        needs_look = np.zeros(self._count, dtype=bool)
        has_tail = self._is_predicted & (self._traces >= TAIL_MIN_HOURLY_TRACES * self._hours)
        if not has_tail.any():
            return needs_look
        limits = np.where(has_tail, floors[:, -1, 0], ABOVE_ALL)
        # Most windows contain no such trace.
        last = np.maximum(self._sizes - 1, 0)[:, :, None]
        highest = np.take_along_axis(table.windows.rows[self._own], last, axis=2)[:, :, 0]
        has_slow = rows[:, None] & (self._sizes > 0) & (highest > self._lowest(limits[:, None]))
        of_hours, marks = np.nonzero(has_slow)
        hours, numbers, above = table.count_by_mark(self._starts, limits, TAIL_STEPS)
        ends = table.position_of(self._starts)[of_hours] + marks + 1
        begins = ends - TAIL_WINDOWS_MARKS[-1]
        counts = sums_of(above[0])
        is_enough = counts[ends] - counts[begins] >= MIN_EXCEEDANCES
        of_hours, ends = of_hours[is_enough], ends[is_enough]
        if not len(ends):
            return needs_look
        totals = sums_of(numbers)
        logarithms = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, int(above[0].max()) * MARKS + 2)))])
        each = np.arange(self._count)
        for step in range(TAIL_STEPS):
            slow = above[step]
            limit = limits + step * BUCKETS_PER_OCTAVE - buckets_of(STAT_FLOOR_RATIO)
            columns = np.searchsorted(table.buckets, limit, side="right")
            up_to = np.where(columns > 0, self._cumulative_of(each, columns - 1), 0)
            shares = (self._traces - up_to + 1) / np.maximum(self._traces, 1)
            means, counts, present = sums_of(numbers * shares[hours]), sums_of(slow), sums_of(slow > 0)
            for length in TAIL_WINDOWS_MARKS:
                begins = ends - length
                of_marks = slow[begins[:, None] + np.arange(length)]
                k = np.maximum(counts[ends] - counts[begins] - of_marks.max(axis=1), present[ends] - present[begins])
                mean = np.maximum(means[ends] - means[begins], _TINY)
                may_be = (k >= MIN_EXCEEDANCES) & (totals[ends] - totals[begins] >= TAIL_MIN_HOURLY_TRACES)
                may_be &= (k > mean) & (np.exp(k * np.log(mean) - mean - logarithms[k]) < alpha * (1 + _MARGIN))
                needs_look[of_hours[may_be]] = True
        return needs_look

    def _cumulative_of(self, rows: Array, columns: Array) -> Array:
        """Return the number of pooled traces of some rows up to the buckets at some positions, which may be -1."""
        width = len(self._table.buckets)
        found: Array = self._cumulative[rows * width + np.maximum(columns, 0)] - self._offsets[rows]
        return found

    def _lowest(self, values: Array, choose: np.ufunc = np.minimum) -> Array:
        """Return the lowest of each hour and of those before that its windows extend into."""
        found = values.copy()
        for step in range(1, self._reach + 1):
            found[step:] = choose(found[step:], values[:-step])
        return found

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
        is_certain = stream == UNDECIDED and self._traces[index - self.position] >= CERTAIN_TRACES
        return REQUESTS if is_certain else stream

    def prediction(self, index: int) -> Prediction:
        """Return the prediction of an hour that has one, by its position in the table."""
        return self._predict(index, self._pool(index))

    def _predict(self, index: int, pool: Pool) -> Prediction:
        row = index - self.position
        low = int(self._low[row])
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
        pool = self._pool(index)
        return Expectation(pool, self._predict(index, pool), self.stream_after(index, stream))

    def _pool(self, index: int) -> Pool:
        row, table = index - self.position, self._table
        counts = self._digests[row]
        present = np.flatnonzero(counts)
        digest = Digest.of_ascending(dict(zip(table.buckets[present].tolist(), counts[present].tolist(), strict=True)))
        hours = tuple([table.hours[each] for each in np.flatnonzero(self._members[row]).tolist()])
        return Pool(FallbackLevel(int(self._levels[row])), table.hours[index].slot, hours, True, (), digest)


@lru_cache(maxsize=64)
def _members(rules: FallbackRules) -> tuple[Array, Array, Array]:
    """Return which slots the levels of each slot pool, the levels, and the traces that each requires."""
    numbers = {slot: number for number, slot in enumerate(SLOTS)}
    levels = list(rules.levels())
    members = np.zeros((len(SLOTS), len(levels), len(SLOTS)), dtype=bool)
    for slot, of_slot in rules.by_slot.items():
        for position, rule in enumerate(of_slot):
            members[numbers[slot], position, [numbers[each] for each in rule.slots]] = True
    return members, np.array([int(level) for level, _ in levels]), np.array([least for _, least in levels])


def _floors(buckets: Array, parameters: Parameters) -> Array:
    """Return the gate, the gate of small tests and the statistical threshold of some baselines for a swing of zero."""
    distinct, which = np.unique(buckets, return_inverse=True)
    floors = [floor_of(bucket, parameters.ratio, parameters.min_delta_seconds) for bucket in distinct.tolist()]
    found = np.array([(floor.gate, floor.small_gate, floor.stat) for floor in floors], dtype=np.int64)
    return found[which.reshape(buckets.shape)]


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


def _sums_before(flags: Array) -> Array:
    """Return the sum of the rows before each, and of all."""
    sums = np.zeros((len(flags) + 1, flags.shape[1]), dtype=np.int64)
    np.cumsum(flags, axis=0, out=sums[1:])
    return sums


def _of_last_marks(values: Array) -> Array:
    """Return sums over the marks before each of an hour, which follow on those of the hour before, along axis 1."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1, values.shape[2]), dtype=np.int64)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    found: Array = sums[:, LEVEL_MARKS:-1] - sums[:, : -LEVEL_MARKS - 1]
    return found


def _medians(codes: Array, lanes: Array, known: Array, least: int) -> Array:
    """Return patterns: the medians in some lanes, and what higher quantiles inherit.

    Args:
        codes: encoded deviations of each lane that has a median, by hour; 0 where unknown. They are sorted.
        lanes: which lanes of each pattern have a median above the limit.
        known: number of known deviations by pattern and lane.
        least: minimum number for a median.
    """
    codes.sort(axis=1)
    counts = known[lanes]
    found = np.zeros(lanes.shape, dtype=np.int64)
    found[lanes] = codes[np.arange(len(codes)), codes.shape[1] - counts + (counts - 1) // 2]
    found[lanes] -= ZERO_CODE
    is_found = lanes.copy()
    for lane in range(MARKS, MAX_LANES, MARKS):
        own, lower = slice(lane, lane + MARKS), slice(lane - MARKS, lane)
        inherits = ~is_found[:, own] & is_found[:, lower] & (known[:, own] < least)
        found[:, own] = np.where(inherits, found[:, lower], found[:, own])
        is_found[:, own] |= inherits
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
