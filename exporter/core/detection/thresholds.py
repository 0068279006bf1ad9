"""From a pool to thresholds: how slow is slow at this hour, given how much this endpoint swings anyway.

Everything is counted in buckets of the digest, 32 to an octave, and nothing is interpolated: scaling by R is moving up
by ``ceil(32 log2 R)`` buckets, so the number of traces above a threshold is exact.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from math import ceil, log2, sqrt
from operator import mul, sub
from typing import Final, NamedTuple

from exporter.core.baseline import Pool
from exporter.core.detection.parameters import (
    CLEAR_RATIO,
    CORRELATION,
    MAX_SWING_OCTAVES,
    MIN_SWING_MARK,
    PRIOR_SWING_OCTAVES,
    PRIOR_SWING_WEIGHT,
    STAT_FLOOR_RATIO,
    Parameters,
)
from exporter.core.digest import BUCKETS_PER_OCTAVE, ZERO_BUCKET, bucket_of_seconds, bucket_upper_seconds
from exporter.core.hours import QUANTILES, Swing

_ROUNDING: Final = 1e-9
_MAX_SQUARE: Final = (MAX_SWING_OCTAVES * BUCKETS_PER_OCTAVE) ** 2
# A distance is a whole number of buckets, a sampling spread one of half buckets. So all squares are multiples of this.
_SQUARES_PER_OCTAVE: Final = (2 * BUCKETS_PER_OCTAVE) ** 2
_PRIOR: Final = PRIOR_SWING_OCTAVES**2
# Hours with few traces say little about how hours differ: their weight is m / (m + this), m being n(1 - q).
_HALF_WEIGHT: Final = 2


class QuantileThreshold(NamedTuple):
    """How slow is slow for one quantile; all but the swing are buckets.

    Attributes:
        q: the quantile.
        usual: the bucket that it usually falls into.
        swing_octaves: how far it usually lies from there, in octaves (τ).
        stat: more traces above this than the quantile allows are not explained by the usual swing.
        gate: the quantile must lie above this to matter.
        clear: as long as it lies above this, a shift is still going on.
    """

    q: float
    usual: int
    swing_octaves: float
    stat: int
    gate: int
    clear: int


class Thresholds(NamedTuple):
    """The thresholds of one series in one hour.

    Attributes:
        quantiles: one for each of :data:`exporter.core.baseline.QUANTILES`.
        correlation: within a window, and for how little the pool may know itself.
        fast: a median at or below this bucket is faster than usual.
    """

    quantiles: tuple[QuantileThreshold, ...]
    correlation: float
    fast: int


class Floors(NamedTuple):
    """What the thresholds would be if the series never swung: nothing within them needs a closer look.

    Attributes:
        gates: no quantile at or below its gate is a shift.
        clears: none at or below this is elevated.
        fast: no median above this is faster than usual.
    """

    gates: tuple[int, ...]
    clears: tuple[int, ...]
    fast: int


class Prediction:
    """What a pool predicts for each quantile, and how far from it chance alone takes a window of n traces."""

    __slots__ = (
        "_buckets",
        "_cumulative",
        "_hours",
        "_parameters",
        "_squared_spreads",
        "_swings",
        "_thresholds",
        "_told",
        "usual",
    )

    def __init__(self, pool: Pool, swings: Sequence[Swing], parameters: Parameters) -> None:
        """Predict from a mature pool.

        Args:
            pool: the hours that serve as the baseline.
            swings: what the series' good hours in the look-back add up to, for each quantile.
            parameters: the detector's settings.
        """
        counts = pool.counts
        self._swings = swings
        self._parameters = parameters
        self._thresholds: Thresholds | None = None
        self._hours = pool.hours
        self._buckets = sorted(counts)
        self._cumulative = list(accumulate([counts[bucket] for bucket in self._buckets]))
        self._squared_spreads: dict[int, tuple[int, ...]] = {}
        self._told: dict[int, tuple[int, ...]] = {}
        self.usual = tuple(map(self._quantile_bucket, QUANTILES))

    @property
    def traces(self) -> int:
        """How many traces are pooled."""
        return self._cumulative[-1]

    def squared_spreads(self, n: int) -> tuple[int, ...]:
        """The sampling variance of each quantile of ``n`` traces, in square half buckets.

        The standard deviation is half the distance between the pool's quantiles one standard error of the rank above
        and below.
        """
        known = self._squared_spreads.get(n)
        if known is None:
            at = self._quantile_bucket
            known = tuple([(at(high) - at(low)) ** 2 for low, high in _standard_errors(n)])
            self._squared_spreads[n] = known
        return known

    def squared_distances(self, buckets: Sequence[int], n: int) -> list[int]:
        """How far the quantiles of a window of ``n`` traces lie from their prediction, in units of :class:`Swing`.

        What sampling alone would do is taken off, but at least a quarter of the square is left. Quantiles of which a
        window of ``n`` traces says too little are left off at the end.
        """
        found = []
        for bucket, usual, spread in zip(
            buckets[: _quantiles_told(n)], self.usual, self.squared_spreads(n), strict=False
        ):
            square = (bucket - usual) ** 2
            if square > _MAX_SQUARE:
                square = _MAX_SQUARE
            found.append(max(square, 4 * square - spread))
        return found

    @property
    def floors(self) -> Floors:
        """The least that the thresholds can be."""
        return _floors(self.usual, self._parameters.ratio, self._parameters.min_delta_seconds)

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds that follow, worked out when they are first asked for."""
        if self._thresholds is None:
            self._thresholds = self._work_out()
        return self._thresholds

    def _work_out(self) -> Thresholds:
        found = []
        for q, usual, swing, disagreement in zip(
            QUANTILES, self.usual, self._swings, self._disagreements(), strict=True
        ):
            squares = swing.squares / _SQUARES_PER_OCTAVE
            errors = (PRIOR_SWING_WEIGHT * _PRIOR + squares) / (PRIOR_SWING_WEIGHT + swing.marks)
            found.append(_threshold(q, usual, sqrt(max(errors, disagreement)), self._parameters))
        median = found[0]
        return Thresholds(tuple(found), CORRELATION + 2 / self.traces, 2 * median.usual - median.gate)

    def _disagreements(self) -> Iterator[float]:
        """How far the pooled hours lie from one another, as variances in square octaves; sampling is taken off."""
        hours = self._hours
        columns = zip(
            self.usual,
            zip(*[hour.quantile_buckets for hour in hours], strict=True),
            zip(*[self.squared_spreads(hour.count) for hour in hours], strict=True),
            zip(*[_weights(hour.count) for hour in hours], strict=True),
            strict=True,
        )
        for usual, buckets, spreads, weights in columns:
            squares = [4 * min((bucket - usual) ** 2, _MAX_SQUARE) for bucket in buckets]
            excess = sum(map(mul, weights, map(sub, squares, spreads)))
            square_octaves = max(0.0, excess / _SQUARES_PER_OCTAVE)
            yield (square_octaves + _PRIOR) / (sum(weights) + 1) * (1 + 1 / len(hours))

    def _quantile_bucket(self, q: float) -> int:
        return self._buckets[bisect_left(self._cumulative, q * self._cumulative[-1] - _ROUNDING)]


@lru_cache(maxsize=4096)
def _quantiles_told(n: int) -> int:
    """Of how many quantiles, from the lowest, a window of ``n`` traces says enough to count towards the swing."""
    return sum(n * (1 - q) >= MIN_SWING_MARK - _ROUNDING for q in QUANTILES)


@lru_cache(maxsize=4096)
def _floors(usual: tuple[int, ...], ratio: float, min_delta_seconds: float) -> Floors:
    parameters = Parameters(ratio=ratio, min_delta_seconds=min_delta_seconds)
    least = [_threshold(q, bucket, 0.0, parameters) for q, bucket in zip(QUANTILES, usual, strict=True)]
    fast = 2 * least[0].usual - least[0].gate
    return Floors(tuple(t.gate for t in least), tuple(t.clear for t in least), fast)


@lru_cache(maxsize=4096)
def _standard_errors(n: int) -> tuple[tuple[float, float], ...]:
    """Each quantile less and plus the standard error of its rank among ``n`` traces."""
    errors = ((q, sqrt(q * (1 - q) / n)) for q in QUANTILES)
    return tuple((max(0.0, q - error), min(1.0, q + error)) for q, error in errors)


@lru_cache(maxsize=4096)
def _weights(n: int) -> tuple[float, ...]:
    """How much an hour of ``n`` traces says about how hours differ, for each quantile."""
    expected = [n * (1 - q) for q in QUANTILES]
    return tuple(m / (m + _HALF_WEIGHT) for m in expected)


def wobble(swing_octaves: float, parameters: Parameters) -> float:
    """The factor by which a quantile may exceed its baseline and still be within the usual swing."""
    return float(2.0 ** (parameters.swing * swing_octaves))


def _threshold(q: float, usual: int, tau: float, parameters: Parameters) -> QuantileThreshold:
    if usual == ZERO_BUCKET:
        # No factor leads away from zero; the absolute difference alone decides.
        gate = bucket_of_seconds(parameters.min_delta_seconds)
        clear = bucket_of_seconds(parameters.min_delta_seconds / 2)
        return QuantileThreshold(q, usual, tau, usual, gate, clear)
    seconds = bucket_upper_seconds(usual)
    usual_factor = wobble(tau, parameters)
    relative_delta = parameters.min_delta_seconds / seconds
    stat = max(STAT_FLOOR_RATIO, usual_factor)
    gate_factor = max(parameters.ratio, 1 + relative_delta, usual_factor)
    clear_factor = min(gate_factor, max(CLEAR_RATIO, 1 + relative_delta / 2, sqrt(usual_factor)))
    return QuantileThreshold(
        q, usual, tau, _scaled(usual, stat), _scaled(usual, gate_factor), _scaled(usual, clear_factor)
    )


def _scaled(bucket: int, factor: float) -> int:
    return bucket + ceil(BUCKETS_PER_OCTAVE * log2(factor) - _ROUNDING)
