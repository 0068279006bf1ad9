"""How much the quantiles of a series swing from window to window and from hour to hour.

Two estimates of the variance, for each quantile q:

- t1, the mean squared one-step-ahead prediction error of past evaluation windows on a typical day, with a prior π² of
  weight 48: ``t1 = (48 π² + M m) / (48 + M)``, with M the number of windows, and m the median, over these, of the mean
  squared error of their day. A mean over all days would follow a single day that the baseline does not fit, such as
  the first one of a weekend. See :mod:`exporter.detection.measurement` for the squared errors.
- t2, the variance between the pooled hours, corrected for sampling: with n the traces of an hour, d the distance of its
  own quantile from the baseline in octaves (at most 2), s(n) the sampling error of that quantile, H the number of
  hours and ``w = m / (m + 2)``, ``m = n (1 - q)``: ``t2 = (max(0, Σ w (d² - s²)) + 0.1²) / (Σ w + 1) · (1 + 1/H)``.

With 240 traces an hour or more in the pool, only windows of hours with at least half as many count for the t1 of the
median: hours with few traces differ by more chance than can be taken out; see :data:`.parameters.BUSY_SWING_SHARE`.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from operator import mul, sub
from typing import Final

from exporter.baseline.levels import Pool
from exporter.detection.measurement import MAX_SQUARE, UNITS_PER_SQUARE_OCTAVE, standard_error_ranks
from exporter.detection.parameters import (
    BUSY_SWING_SHARE,
    JOINT_MIN_HOURLY_TRACES,
    PRIOR_SWING_OCTAVES,
    PRIOR_SWING_WEIGHT,
    Parameters,
)
from exporter.model.histogram import Digest
from exporter.model.hour_evaluation import QUANTILES, Swings

_PRIOR: Final = PRIOR_SWING_OCTAVES**2
_HALF_WEIGHT_EXCEEDANCES: Final = 2
"""An hour with this many expected exceedances has half the weight of one with unlimited traffic."""


class PastErrors:
    """Squared errors of past windows: the sum over all of them, and of each local day."""

    __slots__ = ("_daily", "_squares", "_swings")

    def __init__(self, swings: Swings, daily: Collection[Swings]) -> None:
        """Take both sums; without any days, all windows count as one day."""
        self._swings, self._daily = swings, daily
        self._squares: dict[int, float] = {}

    def variance(self, position: int, prior: float) -> float:
        """Return t1 of the errors at a position in :data:`.Swings` with a prior variance, in square octaves."""
        square = self._squares.get(position)
        if square is None:
            of_days = [each[position : position + 2] for each in self._daily or (self._swings,)]
            square = self._squares[position] = _typical_square(of_days) / UNITS_PER_SQUARE_OCTAVE
        windows = self._swings[position + 1]
        return (PRIOR_SWING_WEIGHT * prior + windows * square) / (PRIOR_SWING_WEIGHT + windows)


def variances_between_hours(pool: Pool, baseline: Sequence[int]) -> Iterator[float]:
    """Yield t2 for each quantile, in square octaves.

    Args:
        pool: hours that form the baseline.
        baseline: bucket of each of :data:`.QUANTILES` in the pool.
    """
    hours = pool.hours
    # Hours with little traffic have few distinct counts.
    variances_of = {n: _sampling_variances(pool.digest, n) for n in {hour.count for hour in hours}}
    columns = zip(
        baseline,
        zip(*[hour.quantile_buckets for hour in hours], strict=True),
        zip(*[variances_of[hour.count] for hour in hours], strict=True),
        zip(*[_weights(hour.count) for hour in hours], strict=True),
        strict=True,
    )
    for usual, buckets, variances, weights in columns:
        squares = [4 * (square if (square := (bucket - usual) ** 2) < MAX_SQUARE else MAX_SQUARE) for bucket in buckets]
        excess = sum(map(mul, weights, map(sub, squares, variances)))
        square_octaves = max(0.0, excess / UNITS_PER_SQUARE_OCTAVE)
        yield (square_octaves + _PRIOR) / (sum(weights) + 1) * (1 + 1 / len(hours))


def least_busy(pool: Pool, parameters: Parameters) -> int | None:
    """Return with how many traces an hour tells the swing of the median in the hour of a pool; None if all do."""
    traces, hours = pool.digest.count, len(pool.hours)
    if not parameters.parts.busy_swing or traces < JOINT_MIN_HOURLY_TRACES * hours:
        return None
    return -(-traces // (BUSY_SWING_SHARE * hours))


def _sampling_variances(pooled: Digest, n: int) -> list[int]:
    """Return the sampling variance s(n)² of each quantile of ``n`` traces, in square half buckets."""
    return [width * width for width in pooled.quantile_widths(standard_error_ranks(n))]


@lru_cache(maxsize=4096)
def _weights(n: int) -> tuple[float, ...]:
    """Return the weight ``m / (m + 2)`` of an hour of ``n`` traces for each quantile, with ``m = n (1 - q)``."""
    expected = [n * (1 - q) for q in QUANTILES]
    return tuple(m / (m + _HALF_WEIGHT_EXCEEDANCES) for m in expected)


def _typical_square(days: Iterable[Sequence[int]]) -> float:
    """Return the median over all windows of the mean square error of their day; 0 without windows.

    Args:
        days: for each day the sum of the squared errors, and the number of windows.
    """
    means = sorted([(squares / windows, windows) for squares, windows in days if windows])
    left = sum([windows for _, windows in means]) / 2
    for mean, windows in means:
        left -= windows
        if left <= 0:
            return mean
    return 0.0
