"""Finds out in which hours of one series a test may be positive, with arrays.

All tests are made with lower bounds of their thresholds, those for a swing of zero: what these exclude is certain. The
other hours are evaluated on their own, with their thresholds.
"""

import numpy as np

from exporter.baseline.levels import FallbackLevel
from exporter.detection.arrays.hour_table import ABOVE_ALL, SHARES, Array, HourTable, SortedWindows, ranks_of, sums_of
from exporter.detection.arrays.pools import HourPools
from exporter.detection.parameters import (
    LADDER_MIN_TRACES,
    LONG_WINDOW_MIN_TRACES,
    MIN_EVALUATED_TRACES,
    MIN_EXCEEDANCES,
    STAT_FLOOR_RATIO,
    TAIL_ALPHA_SHARE,
    TAIL_MIN_HOURLY_TRACES,
    TAIL_STEPS,
    TAIL_WINDOWS_MARKS,
    Parameters,
)
from exporter.detection.significance import tail_probability
from exporter.detection.thresholds import buckets_of, correlation_of, floor_of
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.deviations import MARKS
from exporter.model.histogram import BUCKETS_PER_OCTAVE
from exporter.model.hour_evaluation import QUANTILES

_TINY, _MARGIN = 1e-12, 1e-6
"""Stands for a mean of zero, which has no logarithm; and by how much rounding may raise a probability."""


class Looks:
    """Tests of many hours by lower bounds of their thresholds."""

    def __init__(self, table: HourTable, pools: HourPools, windows: SortedWindows, parameters: Parameters) -> None:
        """Prepare the tests.

        Args:
            table: the hours.
            pools: the baselines of those to test.
            windows: their evaluation windows.
            parameters: settings of the detector.
        """
        self._table, self._pools, self._windows, self._parameters = table, pools, windows, parameters
        self._floors = _floors(pools.baseline, parameters)
        # A window may extend into so many hours before its own.
        self.reach = -(-parameters.max_window_seconds // HOUR_SECONDS)

    def are_usual(self, rows: Array) -> Array:
        """Return which hours are certainly not anomalous by themselves, and begin no streak.

        Args:
            rows: for each hour whether it is to be tested exactly, where a bound alone does not exclude it.
        """
        table, pools = self._table, self._pools
        counts, gate = table.counts[pools.position :], self._floors[..., 0]
        slow = counts[:, None] - table.count_up_to(pools.position, gate)
        fast = table.count_up_to(pools.position, 2 * pools.baseline[:, :1] - gate[:, :1])[:, 0]
        is_above = (slow >= MIN_EXCEEDANCES) & (table.quantiles[pools.position :] > gate)
        has_few_slow = 2 * slow[:, 0] <= counts
        is_usual: Array = (~is_above.any(axis=1) & (2 * fast <= counts) & has_few_slow) | ~pools.is_predicted
        for row in np.flatnonzero(~is_usual & rows & has_few_slow).tolist():
            is_usual[row] = not self._is_significant(row, is_above[row], fast[row], self._floors[row, :, 2])
        return is_usual

    def at_windows(self, rows: Array) -> Array:
        """Return in which of some hours a test of a window may be positive.

        By the bounds of :func:`.verdict.can_be_shifted` and :func:`.small_shift.can_be_small_shift`: what these exclude
        is excluded here, but not the other way round.
        """
        parameters, windows, sizes = self._parameters, self._windows, self._windows.sizes
        floors = self._lowest(self._floors)
        gate, small, stat = floors[..., 0], floors[..., 1], floors[..., 2]
        has_small = self._pools.has_long_window | self._pools.has_level
        if parameters.parts.near_baselines:
            has_small &= self._pools.levels <= FallbackLevel.NEARBY
        # Of a series that has small tests in an hour but not in the one before, all windows are looked at.
        has_all_small = ~self._lowest(~has_small[:, None], np.maximum)[:, 0]
        lowest = np.where(has_small[:, None], np.minimum(gate, small), gate)
        exceeds = windows.quantiles > lowest[:, None, :]
        exceeds &= ((sizes >= MIN_EXCEEDANCES) & rows[:, None])[:, :, None]
        needs_look = np.zeros(self._pools.count, dtype=bool)
        rows, marks = np.nonzero(exceeds.any(axis=2))
        if not len(rows):
            return needs_look
        traces, buckets = sizes[rows, marks], windows.rows[rows, marks]
        ranks = np.minimum(ranks_of(SHARES, traces[:, None]), traces[:, None] - MIN_EXCEEDANCES + 1)
        gated = np.take_along_axis(buckets, ranks - 1, axis=1)
        exceeds_gate = gated > gate[rows]
        exceeds_small = (gated > small[rows]) & has_small[rows, None]
        half_hours = self._table.half_hour_sizes[self._pools.own][rows, marks]
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
                correlation = correlation_of(int(self._pools.traces[row]))
                chance = tail_probability(slow, of, 1 - QUANTILES[quantile], correlation, enough=parameters.alpha)
                needs_look[row] = chance < parameters.alpha
        return needs_look

    def at_tails(self, rows: Array) -> Array:
        """Return in which of some hours the test of the slowest traces may be positive; see :mod:`.tail_shift`.

        It is not where a single term of the tail probability is too high, with the lowest share that may be expected.
        """
        table, pools, sizes = self._table, self._pools, self._windows.sizes
        alpha = TAIL_ALPHA_SHARE * self._parameters.alpha
        needs_look = np.zeros(pools.count, dtype=bool)
        if not pools.has_tail.any():
            return needs_look
        limits = np.where(pools.has_tail, self._floors[:, -1, 0], ABOVE_ALL)
        # Most windows contain no such trace.
        last = np.maximum(sizes - 1, 0)[:, :, None]
        highest = np.take_along_axis(table.windows.rows[pools.own], last, axis=2)[:, :, 0]
        has_slow = rows[:, None] & (sizes > 0) & (highest > self._lowest(limits[:, None]))
        of_hours, marks = np.nonzero(has_slow)
        hours, numbers, above = table.count_by_mark(pools.starts, limits, TAIL_STEPS)
        ends = table.position_of(pools.starts)[of_hours] + marks + 1
        begins = ends - TAIL_WINDOWS_MARKS[-1]
        counts = sums_of(above[0])
        is_enough = counts[ends] - counts[begins] >= MIN_EXCEEDANCES
        of_hours, ends = of_hours[is_enough], ends[is_enough]
        if not len(ends):
            return needs_look
        totals = sums_of(numbers)
        logarithms = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, int(above[0].max()) * MARKS + 2)))])
        for step in range(TAIL_STEPS):
            slow = above[step]
            limit = limits + step * BUCKETS_PER_OCTAVE - buckets_of(STAT_FLOOR_RATIO)
            columns = np.searchsorted(table.buckets, limit, side="right")
            up_to = np.where(columns > 0, pools.up_to(pools.rows, columns - 1), 0)
            shares = (pools.traces - up_to + 1) / np.maximum(pools.traces, 1)
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

    def _is_significant(self, row: int, is_above: Array, fast: int, stats: Array) -> bool:
        """Whether an hour fails the test of :func:`.settlement.is_anomalous` by lower bounds of the thresholds.

        Args:
            row: the hour.
            is_above: which of its quantiles lie above the gate, with enough slow traces.
            fast: number of traces that are fast.
            stats: lower bounds of the statistical thresholds.
        """
        table, parameters, index = self._table, self._parameters, self._pools.position + row
        traces = int(table.counts[index])
        if traces < MIN_EVALUATED_TRACES:
            return False
        correlation = correlation_of(int(self._pools.traces[row]))
        tests = [(table.count_above(index, stats[each]), 1 - QUANTILES[each]) for each in np.flatnonzero(is_above)]
        if 2 * fast > traces:
            tests.append((int(fast), 0.5))
        return any(
            tail_probability(number, traces, share, correlation, enough=parameters.alpha) < parameters.alpha
            for number, share in tests
        )

    def _lowest(self, values: Array, choose: np.ufunc = np.minimum) -> Array:
        """Return the lowest of each hour and of those before that its windows extend into."""
        found = values.copy()
        for step in range(1, self.reach + 1):
            found[step:] = choose(found[step:], values[:-step])
        return found


def _floors(buckets: Array, parameters: Parameters) -> Array:
    """Return the gate, the gate of small tests and the statistical threshold of some baselines for a swing of zero."""
    distinct, which = np.unique(buckets, return_inverse=True)
    floors = [floor_of(bucket, parameters.ratio, parameters.min_delta_seconds) for bucket in distinct.tolist()]
    found = np.array([(floor.gate, floor.small_gate, floor.stat) for floor in floors], dtype=np.int64)
    return found[which.reshape(buckets.shape)]
