"""The patterns within the hour of many hours of one series, with arrays; see :mod:`exporter.detection.profile`."""

from typing import Final

import numpy as np

from exporter.baseline.levels import MATURE_WINDOWS, FallbackLevel
from exporter.detection.arrays.hour_table import Array, HourTable, sums_before
from exporter.detection.arrays.pools import HourPools
from exporter.detection.parameters import DAILY_PATTERN_BUCKETS, DAILY_PATTERN_MIN_HOURS, PROFILE_MIN_HOURS
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.deviations import MARKS, MAX_LANES, MOST_BUCKETS, ZERO_CODE
from exporter.model.hour_evaluation import PATTERN_BUCKETS, QUANTILES

_NEVER: Final = 1 << 40
_HOURS_OF_DAY: Final = 24


def find_patterns(table: HourTable, pools: HourPools, codes: Array, quarantined: Array) -> tuple[Array, Array]:
    """Return the pattern of each hour by quantile and mark, and which hours have one.

    See :meth:`.SeriesHours.profile` and :func:`.profile.pattern_of_hour`.

    Args:
        table: the hours.
        pools: their baselines.
        codes: encoded deviations by hour of the table and lane; 0 where unknown.
        quarantined: for each hour of the table whether it is quarantined.
    """
    counted = codes * ~quarantined[:, None]
    own = np.arange(pools.position, len(table.hours))
    known = sums_before(counted > 0)
    above = sums_before(counted > ZERO_CODE + PATTERN_BUCKETS)
    known, above = known[own] - known[pools.low], above[own] - above[pools.low]
    found = (2 * above > known) & (known >= PROFILE_MIN_HOURS) & pools.is_predicted[:, None]
    profile = np.zeros((pools.count, MAX_LANES), dtype=np.int64)
    rows, lanes = np.nonzero(found)
    if len(rows):
        hours = np.arange(len(table.hours))
        in_reach = (hours >= pools.low[rows, None]) & (hours < own[rows, None])
        profile = _medians(counted.T[lanes] * in_reach, found, known, PROFILE_MIN_HOURS)
    daily, has_daily = _find_daily_patterns(table, pools, codes, quarantined)
    has_profile = found.any(axis=1) | has_daily
    return np.maximum(profile, daily).reshape(-1, len(QUANTILES), MARKS), has_profile


def _find_daily_patterns(table: HourTable, pools: HourPools, codes: Array, quarantined: Array) -> tuple[Array, Array]:
    """Return the patterns of one hour of the day by lane, and which hours have one."""
    number = len(table.hours)
    profile = np.zeros((pools.count, MAX_LANES), dtype=np.int64)
    has_profile = np.zeros(pools.count, dtype=bool)
    # The hours by hour of the day, and in time order within each.
    of_day = table.slots % _HOURS_OF_DAY
    order = np.argsort(of_day, kind="stable")
    keys, own = of_day[order] * number + order, of_day[pools.position :] * number
    begins, ends = np.searchsorted(keys, own + pools.low), np.searchsorted(keys, own + pools.high)
    rows = np.flatnonzero(pools.is_predicted & (ends - begins >= DAILY_PATTERN_MIN_HOURS))
    if not len(rows):
        return profile, has_profile
    places = begins[rows, None] + np.arange(int((ends - begins)[rows].max()))
    hours = order[np.minimum(places, number - 1)]
    is_counted = (places < ends[rows, None]) & ~quarantined[hours]
    deviations = codes[hours].astype(np.int16) * is_counted[:, :, None]
    _transfer(table, pools, deviations, rows, hours, is_counted)
    known = (deviations > 0).sum(axis=1)
    above = (deviations > ZERO_CODE + DAILY_PATTERN_BUCKETS).sum(axis=1)
    found = (2 * above > known) & (known >= DAILY_PATTERN_MIN_HOURS)
    each, lanes = np.nonzero(found)
    if len(each):
        profile[rows] = _medians(deviations[each, :, lanes], found, known, DAILY_PATTERN_MIN_HOURS)
        has_profile[rows] = found.any(axis=1)
    return profile, has_profile


def _transfer(
    table: HourTable, pools: HourPools, deviations: Array, rows: Array, hours: Array, is_counted: Array
) -> None:
    """Raise deviations from baselines of the exact slot, where the hours around serve.

    See :func:`.profile.deviations_from_hours_around`.

    Args:
        table: the hours.
        pools: their baselines.
        deviations: encoded deviations of earlier hours, by row; changed.
        rows: for which hours.
        hours: the earlier hours.
        is_counted: which of them count.
    """
    follows = np.diff(table.starts) == HOUR_SECONDS
    has_neighbours = np.zeros(len(table.hours), dtype=bool)
    excess = np.zeros((len(table.hours), len(QUANTILES)), dtype=np.int64)
    has_neighbours[1:-1] = follows[:-1] & follows[1:]
    # In half buckets.
    excess[1:-1] = 2 * table.quantiles[1:-1] - table.quantiles[:-2] - table.quantiles[2:]
    is_late = table.slots[hours] >= _HOURS_OF_DAY
    of_slot = [(is_counted & each).cumsum(axis=1) for each in (is_late, ~is_late)]
    is_exact = is_counted & (np.where(is_late, *of_slot) > MATURE_WINDOWS)
    is_used = is_exact & has_neighbours[hours] & (hours > pools.low[rows, None])
    is_used &= (pools.levels[rows] > FallbackLevel.EXACT)[:, None]
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
