"""How far the mean of some days may be from the weeks before by chance: about as far as days differed before."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Final

from exporter.detection.regression.compared_hours import BLOCK_HOURS, DAY_SECONDS, Block, Distance
from exporter.detection.regression.level import HALVES
from exporter.model.calendar import HOUR_SECONDS

MIN_DAY_HOURS: Final = 6
"""Minimum number of such hours of an earlier day."""
UNCERTAIN_DAYS: Final = 12
"""With so many degrees of freedom, those of the prior included, twice as many standard deviations are required; with
twice as many degrees half more."""
PRIOR_DAY_BUCKETS: Final = 1.4
"""How much whole days differ beyond what their hours explain, in a series without history: 0.044 octave."""
PRIOR_DAYS: Final = 6
"""Weight of that and of what the hours explain, in days."""
MAX_INDEPENDENT_DAYS: Final = 2
"""Days drift: the mean of a week is not more certain than that of so many independent days."""
MAX_EARLIER_DAYS: Final = 20
"""How many earlier days show how much days differ."""

_MIN_TREND_POINTS: Final = 3
_BLOCKS_PER_DAY: Final = DAY_SECONDS // (BLOCK_HOURS * HOUR_SECONDS)


def blocks_before(hours: int) -> int:
    """Return how many parts of days tell how much a mean of so many hours may differ, itself included."""
    return hours // BLOCK_HOURS + MAX_EARLIER_DAYS * _BLOCKS_PER_DAY


def deviation_of(distance: Distance, blocks: Sequence[Block], reference_seconds: int) -> tuple[float, float]:
    """Return the standard deviation of such a distance, from how the days before differ from one to the next.

    They are compared with their trend, because a steady drift does not make them uncertain. There are few days, but
    many hours: the prior is what the hours explain, and something for what they do not show. The second value is by
    how much more a distance must exceed the deviation because few days show it.

    Args:
        distance: the distance.
        blocks: parts of the days up to its end, the latest first.
        reference_seconds: time from the first hour that is compared with to its end.
    """
    first = distance.hours // BLOCK_HOURS
    before = blocks[first : first + MAX_EARLIER_DAYS * _BLOCKS_PER_DAY]
    squares, freedom = _around_trend(_day_means(before))
    freedom += PRIOR_DAYS
    prior = PRIOR_DAY_BUCKETS**2 + _block_variance(before) / _BLOCKS_PER_DAY
    variance = (PRIOR_DAYS * prior + squares) / freedom
    of_means = variance / min(distance.hours * HOUR_SECONDS / DAY_SECONDS, MAX_INDEPENDENT_DAYS)
    weeks = max(1.0, reference_seconds / (7 * DAY_SECONDS) - 1)
    share = distance.weekend_share
    of_reference = variance * (share / (2 * weeks) + (1 - share) / (5 * weeks))
    # As the quantiles of Student's distribution, only simpler: few days may differ little by chance.
    uncertainty = 1 + UNCERTAIN_DAYS / freedom
    return sqrt(max(of_means, distance.noise**2) + of_reference), uncertainty


def _around_trend(points: Sequence[tuple[int, float]]) -> tuple[float, int]:
    """Return the sum of squares around the straight line of least squares, and its degrees of freedom."""
    count = len(points)
    if count < _MIN_TREND_POINTS:
        return 0.0, 0
    x_mean, y_mean = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    x_squares = sum((x - x_mean) ** 2 for x, _ in points)
    y_squares = sum((y - y_mean) ** 2 for _, y in points)
    products = sum((x - x_mean) * (y - y_mean) for x, y in points)
    # Rounding may leave less than nothing.
    return max(0.0, y_squares - products * products / x_squares), count - 2


def _day_means(blocks: Sequence[Block]) -> list[tuple[int, float]]:
    """Return the mean residual of each day, in buckets, with its number; days with too few hours are left out."""
    means = []
    for day in range(len(blocks) // _BLOCKS_PER_DAY):
        hours, weights, sums = zip(*blocks[day * _BLOCKS_PER_DAY : (day + 1) * _BLOCKS_PER_DAY], strict=True)
        if sum(hours) >= MIN_DAY_HOURS and sum(weights):
            means.append((day, sum(sums) / sum(weights) / HALVES))
    return means


def _block_variance(blocks: Sequence[Block]) -> float:
    """Return the variance of the mean residual of a block, from how adjacent blocks differ; 0 if none are known.

    Half of the mean square of these differences (von Neumann, Annals of Mathematical Statistics 12, 1941), which a
    trend and differences of whole days hardly affect.
    """
    squares, pairs = 0.0, 0
    for later, earlier in pairwise(blocks):
        if later.weight and earlier.weight:
            difference = later.half_buckets / later.weight - earlier.half_buckets / earlier.weight
            squares += (difference / HALVES) ** 2
            pairs += 1
    return squares / pairs / 2 if pairs else 0.0
