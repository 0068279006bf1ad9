"""The baselines of many hours of one series at once, with arrays.

For each hour this chooses the fallback level and pools its digests, as :mod:`exporter.baseline.levels` does for one.
"""

from functools import lru_cache
from typing import Final

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
from exporter.detection.arrays.hour_table import SHARES, Array, HourTable, ranks_of, sums_before, sums_of
from exporter.detection.parameters import LEVEL_MIN_TRACES, LONG_WINDOW_MIN_HOURLY_TRACES, TAIL_MIN_HOURLY_TRACES
from exporter.detection.runs import MAX_RUNS_PER_HOUR, MAX_TRACES_PER_HOUR, OBSERVED_HOURS
from exporter.detection.streams import SHORTEST_CUT
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram import ZERO_BUCKET, Digest
from exporter.model.hour_evaluation import QUANTILES

_UPPER_QUARTILE: Final = 0.75


class HourPools:
    """The pools of the hours of a table from some position on, supposing that none of these is quarantined.

    The attributes have an item for each hour from the position on.

    Attributes:
        position: position of the first hour in the table.
        own: these hours in the arrays of the table that have a row for each hour to be evaluated.
        count: number of hours.
        rows: their numbers.
        starts: their starts, Unix seconds.
        low: position in the table of the first hour of the look-back.
        high: position behind the last hour that may be pooled.
        is_predicted: whether there is a mature pool.
        is_simple: whether nothing else decides about the hour: it is evaluated by window, its baseline is not zero, no
            quarantined hours are released, and the series is no stream.
        levels: fallback level of the pool.
        hours: number of pooled hours.
        traces: number of pooled traces.
        has_long_window: whether the pooled hours have enough traffic for the window of half an hour, on average.
        has_level: whether they have enough for the level of now.
        has_tail: whether they have enough for the slowest traces to be counted.
        baseline: bucket of each of :data:`.QUANTILES` in the pool.
    """

    def __init__(
        self, table: HourTable, rules: FallbackRules, position: int, changepoint: int | None, quarantined: Array
    ) -> None:
        """Choose the pools.

        Args:
            table: the hours.
            rules: which fallback levels may serve.
            position: position of the first hour.
            changepoint: start of the series' present behaviour, if a change was accepted.
            quarantined: for each hour of the table whether it is quarantined.
        """
        self.position, self._table = position, table
        self.starts = table.starts[position:]
        self.count = len(self.starts)
        self.rows = np.arange(self.count)
        since = np.maximum(self.starts - rules.lookback_seconds, changepoint or 0)
        self.low = np.searchsorted(table.starts, since)
        self.high = np.maximum(np.searchsorted(table.starts, self.starts - HOUR_SECONDS), self.low)
        self.own = slice(position - table.first, None)
        self._choose(rules, quarantined)
        self.has_long_window, self.has_level, self.has_tail = (
            self.is_predicted & (self.traces >= hourly_traces * self.hours)
            for hourly_traces in (LONG_WINDOW_MIN_HOURLY_TRACES, LEVEL_MIN_TRACES, TAIL_MIN_HOURLY_TRACES)
        )

    def _choose(self, rules: FallbackRules, quarantined: Array) -> None:
        """Choose the pool of each hour, and find out for which hours everything else is simple."""
        table, positions = self._table, np.arange(len(self._table.hours))
        slots, counts, starts = table.slots, table.counts, table.starts
        in_range = (positions >= self.low[:, None]) & (positions < self.high[:, None])
        members, levels, least = _members(rules)
        own_slots = slots[self.position :]
        is_usable = ~quarantined
        candidates = members[:, :, slots].take(own_slots, axis=0) & (in_range & is_usable)[:, None, :]
        # Numbers of hours and of traces by slot, of which those that a level pools are added.
        of_slot = (slots[:, None] == np.arange(len(SLOTS))) & is_usable[:, None]
        sums = [sums_before(each) for each in (of_slot, of_slot * counts[:, None])]
        by_slot = [each[self.high] - each[self.low] for each in sums]
        hours, traces = (np.matmul(members[own_slots], each[:, :, None])[:, :, 0] for each in by_slot)
        first = candidates.argmax(axis=2)
        last = len(counts) - 1 - candidates[:, :, ::-1].argmax(axis=2)
        spans = starts[last] - starts[first] >= MATURE_SPAN_SECONDS
        spans = np.where(levels == FallbackLevel.NEARBY, table.days[first] != table.days[last], spans)
        is_mature = (spans | (levels == FallbackLevel.EXACT)) & (hours >= MATURE_WINDOWS) & (traces >= MATURE_TRACES)
        is_mature &= traces >= least
        chosen = is_mature.argmax(axis=1)
        self.is_predicted = is_mature.any(axis=1)
        self._members = candidates[self.rows, chosen]
        self.levels = levels[chosen]
        self.hours = hours[self.rows, chosen]
        self._digests = (self._members.astype(np.float64) @ table.digests).astype(np.int64)
        cumulative = self._digests.cumsum(axis=1)
        self.traces = cumulative[:, -1]
        # All rows one after the other, so that a search finds quantiles of all.
        self._offsets = self.rows * (int(self.traces.max()) + 1)
        self._cumulative = (cumulative + self._offsets[:, None]).ravel()
        self.baseline = self.quantiles(np.broadcast_to(SHARES, (self.count, len(QUANTILES))), self.rows[:, None])
        upper = self.quantiles(np.full((self.count, 1), _UPPER_QUARTILE), self.rows[:, None])[:, 0]
        is_simple = (upper < SHORTEST_CUT) & (self.baseline != ZERO_BUCKET).all(axis=1)
        self.is_simple = (is_simple | ~self.is_predicted) & ~self._is_sparse()
        if quarantined.any():
            exact = members[own_slots, 0][:, slots] & in_range
            number = (exact & quarantined).sum(axis=1)
            # They may recur, see levels.is_recurring(): then they are released.
            self.is_simple &= (number < MATURE_WINDOWS) | (2 * number < exact.sum(axis=1))

    def quantiles(self, shares: Array, rows: Array) -> Array:
        """Return quantiles of the pools of some rows; arbitrary without a pool."""
        width = len(self._table.buckets)
        rows = np.broadcast_to(rows, shares.shape)
        ranks = ranks_of(shares, self.traces[rows])
        found = np.searchsorted(self._cumulative, ranks + self._offsets[rows]) - rows * width
        quantiles: Array = self._table.buckets[np.minimum(found, width - 1)]
        return quantiles

    def up_to(self, rows: Array, columns: Array) -> Array:
        """Return the number of pooled traces of some rows up to the buckets at some positions, which may be -1."""
        width = len(self._table.buckets)
        found: Array = self._cumulative[rows * width + np.maximum(columns, 0)] - self._offsets[rows]
        return found

    def pool(self, index: int) -> Pool:
        """Return the pool of an hour that has one, by its position in the table."""
        row, table = index - self.position, self._table
        counts = self._digests[row]
        present = np.flatnonzero(counts)
        digest = Digest.of_ascending(dict(zip(table.buckets[present].tolist(), counts[present].tolist(), strict=True)))
        hours = tuple([table.hours[each] for each in np.flatnonzero(self._members[row]).tolist()])
        return Pool(FallbackLevel(int(self.levels[row])), table.hours[index].slot, hours, True, (), digest)

    def _is_sparse(self) -> Array:
        """Return for which hours the series is evaluated by run, as :func:`.runs.is_sparse` does."""
        low, high = self.low, self.high
        traces = sums_of(self._table.counts)
        hours = high - low
        found: Array = (hours > 0) & (traces[high] - traces[low] <= MAX_TRACES_PER_HOUR * hours)
        if found.any():
            latest = np.maximum(low, high - OBSERVED_HOURS)
            hours, runs = high - latest, self._table.runs
            found &= runs[high] - runs[latest] <= MAX_RUNS_PER_HOUR * hours
            found &= traces[high] - traces[latest] <= MAX_TRACES_PER_HOUR * hours
        return found


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
