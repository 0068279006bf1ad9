"""When a level changed: the best split of a sequence in two, and the interval of splits that explain it about as well.

Source of the formulas: the profile likelihood of a step in the mean of normal values. Neighbouring values are alike, so
the number of values is reduced by their lag-1 correlation.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import log
from operator import mul
from typing import Final, NamedTuple

_QUANTILE: Final = 3.84
"""95th percentile of the chi-square distribution with one degree of freedom."""
_MAX_CORRELATION: Final = 0.9


class ChangePoint(NamedTuple):
    """A change of the mean, as positions in the sequence.

    Attributes:
        first: earliest plausible position of the first value after the change.
        best: most likely one.
        last: latest plausible one.
    """

    first: int
    best: int
    last: int


def find_change_point(
    values: Sequence[float], weights: Sequence[float], *, least_before: int, least_after: int
) -> ChangePoint | None:
    """Find where the mean of a sequence rose.

    Args:
        values: the sequence.
        weights: weight of each value, positive.
        least_before: minimum number of values before the change, at least 1.
        least_after: minimum number of values after it, at least 1.

    Returns:
        The change point; None if the sequence is too short or its mean rises nowhere.
    """
    count = len(values)
    if count < least_before + least_after:
        return None
    sums = list(accumulate(map(mul, values, weights), initial=0.0))
    totals = list(accumulate(weights, initial=0.0))
    mean = sums[-1] / totals[-1]
    squares = sum(weight * (value - mean) ** 2 for value, weight in zip(values, weights, strict=True))
    # What a split at each position explains of the sum of squares.
    gains: dict[int, float] = {}
    for position in range(least_before, count - least_after + 1):
        before, after = totals[position], totals[-1] - totals[position]
        rise = (sums[-1] - sums[position]) / after - sums[position] / before
        gains[position] = rise * rise * before * after / totals[-1] if rise > 0 else 0.0
    best = max(gains, key=gains.__getitem__)
    if not gains[best]:
        return None
    # Not less: an exact step leaves nothing, and rounding may leave less than nothing.
    least = 1e-9 * squares
    residual = max(squares - gains[best], least)
    before_mean, after_mean = sums[best] / totals[best], (sums[-1] - sums[best]) / (totals[-1] - totals[best])
    errors = [value - (before_mean if position < best else after_mean) for position, value in enumerate(values)]
    correlation = _lag_1_correlation(errors)
    effective = count * (1 - correlation) / (1 + correlation)
    plausible = [
        position
        for position, gain in gains.items()
        if effective * log(max(squares - gain, least) / residual) <= _QUANTILE
    ]
    return ChangePoint(min(plausible), best, max(plausible))


def _lag_1_correlation(errors: Sequence[float]) -> float:
    squares: float = sum(map(mul, errors, errors))
    if not squares:
        return 0.0
    products: float = sum(before * after for before, after in pairwise(errors))
    return min(_MAX_CORRELATION, max(0.0, products / squares))
