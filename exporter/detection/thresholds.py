"""Thresholds of a series in one hour, computed from its baseline pool and its swing.

All thresholds are buckets of the digest, 32 to an octave (a factor of two). Scaling a bucket ``b`` by a factor R gives
``b + ceil(32 log2 R)``, so the number of traces above a threshold is exact. For each quantile q, with

- ``b``, the bucket of the pool's quantile q, and ``x`` its upper bound in seconds,
- ``N``, the number of traces in the pool, and ``H`` its number of hours,
- ``z``, the tolerated number of swings (`Parameters.swing`),

the swing is τ = sqrt(max(t1, t2)) octaves and the swing factor 2^(zτ). Two estimates of the variance enter:

- t1, the mean squared one-step-ahead prediction error of past evaluation windows, with a prior of 0.1 octave and weight
  48: ``t1 = (48 · 0.1² + Σ e²) / (48 + number of windows)``; see :meth:`Prediction.measure_swings` for e².
- t2, the variance between the pooled hours, corrected for sampling: with n the traces of an hour, d the distance of its
  own quantile from ``b`` in octaves (at most 2), s(n) the sampling error of that quantile and ``w = m / (m + 2)``,
  ``m = n (1 - q)``: ``t2 = (max(0, Σ w (d² - s²)) + 0.1²) / (Σ w + 1) · (1 + 1/H)``.

The thresholds, as factors of ``x``:

- stat: ``max(1.1, swing factor)``; exceedances of it enter the statistical test,
- gate: ``max(ratio, 1 + min_delta/x, swing factor)``; a quantile above it is practically significant,
- clear: ``max(1.2, 1 + min_delta/2x, 2^(zτ/2))``, at most the gate; a quantile above it means that a shift persists.

The sampling error of a quantile of n traces is half the width of its distribution-free interval at one standard error
of the rank (normal approximation of the binomial): ``s(n) = (Q(q + e) - Q(q - e)) / 2``, ``e = sqrt(q (1 - q) / n)``,
with Q the quantiles of the pool.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from math import ceil, log2, sqrt
from operator import mul, sub
from typing import Final, NamedTuple

from exporter.baseline.levels import Pool
from exporter.detection.parameters import (
    CLEAR_RATIO,
    CORRELATION,
    MAX_SWING_OCTAVES,
    MIN_EVALUATED_TRACES,
    MIN_SWING_EXCEEDANCES,
    PRIOR_SWING_OCTAVES,
    PRIOR_SWING_WEIGHT,
    STAT_FLOOR_RATIO,
    Parameters,
)
from exporter.detection.window import SweptWindow, quantile_positions
from exporter.model.histogram import BUCKETS_PER_OCTAVE, ZERO_BUCKET, bucket_of_seconds, bucket_upper_seconds
from exporter.model.hours import NO_SWINGS, QUANTILES, Swings

_ROUNDING: Final = 1e-9
_MAX_SQUARE: Final = (MAX_SWING_OCTAVES * BUCKETS_PER_OCTAVE) ** 2
"""Upper bound of a squared distance, in square buckets."""
_UNITS_PER_SQUARE_OCTAVE: Final = (2 * BUCKETS_PER_OCTAVE) ** 2
"""Squares are in square half buckets, which are integers: distances are whole buckets, sampling errors half buckets."""
_PRIOR: Final = PRIOR_SWING_OCTAVES**2
_HALF_WEIGHT_EXCEEDANCES: Final = 2
"""An hour with this many expected exceedances has half the weight of one with unlimited traffic."""
_OFFSETS: Final = range(0, len(NO_SWINGS), 2)
"""Positions of the quantiles' sums in :data:`Swings`."""


class QuantileThreshold(NamedTuple):
    """Thresholds for one quantile, as buckets.

    Attributes:
        q: the quantile.
        baseline: bucket of the pool's quantile.
        swing_octaves: the swing τ.
        stat: exceedances of this bucket enter the statistical test.
        gate: a quantile above this bucket is practically significant.
        clear: a quantile above this bucket means that a shift persists.
    """

    q: float
    baseline: int
    swing_octaves: float
    stat: int
    gate: int
    clear: int


class Thresholds(NamedTuple):
    """Thresholds of a series in one hour.

    Attributes:
        quantiles: one for each of :data:`exporter.model.hours.QUANTILES`.
        correlation: correlation of exceedances within a window, ``0.003 + 2/N``: a small pool is itself uncertain.
        fast: a median at or below this bucket is significantly faster than the baseline; mirrors the median's gate.
    """

    quantiles: tuple[QuantileThreshold, ...]
    correlation: float
    fast: int


class Floors(NamedTuple):
    """Lower bounds of thresholds, which are known without computing the swing.

    Attributes:
        gates: lower bound of each quantile's gate, as bucket.
        stats: lower bound of each quantile's statistical threshold, as bucket.
        correlation: correlation of exceedances within a window.
    """

    gates: tuple[int, ...]
    stats: tuple[int, ...]
    correlation: float

    @classmethod
    def of(cls, thresholds: Thresholds) -> "Floors":
        """Return computed thresholds as their own lower bounds."""
        gates = tuple([threshold.gate for threshold in thresholds.quantiles])
        stats = tuple([threshold.stat for threshold in thresholds.quantiles])
        return cls(gates, stats, thresholds.correlation)

    def minimum(self, other: "Floors") -> "Floors":
        """Return the elementwise minimum with the bounds of an earlier hour."""
        if other.gates == self.gates and other.stats == self.stats:
            return self
        return Floors(
            tuple(map(min, self.gates, other.gates)), tuple(map(min, self.stats, other.stats)), self.correlation
        )


class Prediction:
    """Predicted quantiles of one hour, and the thresholds derived from them.

    Attributes:
        baseline: bucket of each of :data:`QUANTILES` in the pool.
    """

    __slots__ = (
        "_floor_thresholds",
        "_floors",
        "_hours",
        "_parameters",
        "_pooled",
        "_swings",
        "_thresholds",
        "baseline",
    )

    def __init__(self, pool: Pool, swings: Swings, parameters: Parameters) -> None:
        """Predict from a mature pool.

        Args:
            pool: hours that form the baseline.
            swings: sum over the series' hours in the look-back that are not quarantined.
            parameters: settings of the detector.
        """
        self._swings = swings
        self._parameters = parameters
        self._thresholds: Thresholds | None = None
        self._floor_thresholds: Thresholds | None = None
        self._floors: Floors | None = None
        self._hours = pool.hours
        self._pooled = pool.digest
        self.baseline = tuple(self._pooled.quantile_buckets(QUANTILES))

    @property
    def traces(self) -> int:
        """Number of pooled traces."""
        return self._pooled.count

    def sampling_variances(self, n: int) -> list[int]:
        """Return the sampling variance s(n)² of each quantile of ``n`` traces, in square half buckets."""
        bounds = iter(self._pooled.quantile_buckets(_standard_error_ranks(n)))
        return [(high - low) ** 2 for low, high in zip(bounds, bounds, strict=True)]

    def measure_swings(self, windows: Sequence[SweptWindow]) -> Swings:
        """Return the sums of squared prediction errors of evaluation windows.

        With D the distance of a window's quantile from its baseline, at most 2 octaves, and s its sampling error, the
        squared error is ``max(D²/4, D² - s²)``. Windows with too few traces, and quantiles with too few expected
        exceedances, do not count.
        """
        # Called for millions of windows, so that everything that only depends on their size is computed once per size.
        references = self._references({len(buckets) for _, buckets in windows})
        swings = list(NO_SWINGS)
        for instants, buckets in windows:
            weight = len(instants)
            for offset, position, baseline, variance in references[len(buckets)]:
                distance = buckets[position] - baseline
                square = distance * distance
                if square > _MAX_SQUARE:
                    square = _MAX_SQUARE
                # From square buckets to square half buckets: D² is 4 * square, D²/4 is square.
                if 3 * square > variance:
                    square = 4 * square - variance
                swings[offset] += weight * square
                swings[offset + 1] += weight
        return tuple(swings)

    def _references(self, sizes: Collection[int]) -> dict[int, list[tuple[int, int, int, int]]]:
        """Return, by number of traces, what windows are compared with.

        A tuple for each quantile with enough expected exceedances: its offset in :data:`Swings`, its index in the
        sorted window, its baseline bucket, and its sampling variance.
        """
        bounds = iter(self._pooled.quantile_buckets(chain.from_iterable(map(_measurable_ranks, sizes))))
        return {
            n: [
                (offset, position, self.baseline[index], (next(bounds) - next(bounds)) ** 2)
                for index, offset, position in _measurable_quantiles(n)
            ]
            for n in sizes
        }

    @property
    def floor_thresholds(self) -> Thresholds:
        """Thresholds for a swing of zero; a window or hour that passes these tests also passes the actual ones."""
        if self._floor_thresholds is None:
            quantiles, _, _ = _floor_quantiles(
                self.baseline, self._parameters.ratio, self._parameters.min_delta_seconds
            )
            self._floor_thresholds = _thresholds(quantiles, self.traces)
        return self._floor_thresholds

    @property
    def floors(self) -> Floors:
        """Lower bounds of the thresholds: those for a swing of zero."""
        if self._floors is None:
            _, gates, stats = _floor_quantiles(
                self.baseline, self._parameters.ratio, self._parameters.min_delta_seconds
            )
            self._floors = Floors(gates, stats, self.floor_thresholds.correlation)
        return self._floors

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds, computed on first use."""
        if self._thresholds is None:
            self._thresholds = self._compute_thresholds()
        return self._thresholds

    def _compute_thresholds(self) -> Thresholds:
        found = []
        for q, baseline, offset, between in zip(
            QUANTILES, self.baseline, _OFFSETS, self._variances_between_hours(), strict=True
        ):
            squares, windows = self._swings[offset : offset + 2]
            errors = (PRIOR_SWING_WEIGHT * _PRIOR + squares / _UNITS_PER_SQUARE_OCTAVE) / (PRIOR_SWING_WEIGHT + windows)
            found.append(_quantile_threshold(q, baseline, sqrt(max(errors, between)), self._parameters))
        return _thresholds(tuple(found), self.traces)

    def _variances_between_hours(self) -> Iterator[float]:
        """Yield t2 for each quantile, in square octaves."""
        hours = self._hours
        # Hours with little traffic have few distinct counts.
        variances_of = {n: self.sampling_variances(n) for n in {hour.count for hour in hours}}
        columns = zip(
            self.baseline,
            zip(*[hour.quantile_buckets for hour in hours], strict=True),
            zip(*[variances_of[hour.count] for hour in hours], strict=True),
            zip(*[_weights(hour.count) for hour in hours], strict=True),
            strict=True,
        )
        for baseline, buckets, variances, weights in columns:
            squares = [
                4 * (square if (square := (bucket - baseline) ** 2) < _MAX_SQUARE else _MAX_SQUARE)
                for bucket in buckets
            ]
            excess = sum(map(mul, weights, map(sub, squares, variances)))
            square_octaves = max(0.0, excess / _UNITS_PER_SQUARE_OCTAVE)
            yield (square_octaves + _PRIOR) / (sum(weights) + 1) * (1 + 1 / len(hours))


def _thresholds(quantiles: tuple[QuantileThreshold, ...], traces: int) -> Thresholds:
    median = quantiles[0]
    return Thresholds(quantiles, CORRELATION + 2 / traces, 2 * median.baseline - median.gate)


@lru_cache(maxsize=4096)
def _floor_quantiles(
    baseline: tuple[int, ...], ratio: float, min_delta_seconds: float
) -> tuple[tuple[QuantileThreshold, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the thresholds for a swing of zero, and separately their gates and statistical thresholds."""
    parameters = Parameters(ratio=ratio, min_delta_seconds=min_delta_seconds)
    floors = tuple(
        _quantile_threshold(q, bucket, 0.0, parameters) for q, bucket in zip(QUANTILES, baseline, strict=True)
    )
    return floors, tuple(floor.gate for floor in floors), tuple(floor.stat for floor in floors)


@lru_cache(maxsize=4096)
def _standard_error_ranks(n: int) -> tuple[float, ...]:
    """Return q - e and q + e for each quantile of ``n`` traces, with e the standard error of its rank."""
    errors = ((q, sqrt(q * (1 - q) / n)) for q in QUANTILES)
    return tuple(chain.from_iterable((max(0.0, q - error), min(1.0, q + error)) for q, error in errors))


@lru_cache(maxsize=4096)
def _measurable_ranks(n: int) -> tuple[float, ...]:
    """Return :func:`_standard_error_ranks` of the quantiles for which ``n`` traces have enough expected exceedances."""
    measurable = sum(n * (1 - q) >= MIN_SWING_EXCEEDANCES - _ROUNDING for q in QUANTILES)
    return _standard_error_ranks(n)[: 2 * measurable] if n >= MIN_EVALUATED_TRACES else ()


@lru_cache(maxsize=4096)
def _measurable_quantiles(n: int) -> tuple[tuple[int, int, int], ...]:
    """Return the same quantiles as index, offset in :data:`Swings`, and index in the sorted window."""
    offsets = _OFFSETS[: len(_measurable_ranks(n)) // 2]
    return tuple((index, offset, quantile_positions(n)[index]) for index, offset in enumerate(offsets))


@lru_cache(maxsize=4096)
def _weights(n: int) -> tuple[float, ...]:
    """Return the weight ``m / (m + 2)`` of an hour of ``n`` traces for each quantile, with ``m = n (1 - q)``."""
    expected = [n * (1 - q) for q in QUANTILES]
    return tuple(m / (m + _HALF_WEIGHT_EXCEEDANCES) for m in expected)


def swing_factor(swing_octaves: float, parameters: Parameters) -> float:
    """Return ``2^(z τ)``, the factor by which a quantile may exceed its baseline within its normal variation."""
    return float(2.0 ** (parameters.swing * swing_octaves))


def _quantile_threshold(q: float, baseline: int, swing_octaves: float, parameters: Parameters) -> QuantileThreshold:
    if baseline == ZERO_BUCKET:
        # A baseline of zero cannot be scaled; only the absolute difference counts.
        gate = bucket_of_seconds(parameters.min_delta_seconds)
        clear = bucket_of_seconds(parameters.min_delta_seconds / 2)
        return QuantileThreshold(q, baseline, swing_octaves, baseline, gate, clear)
    tolerated = swing_factor(swing_octaves, parameters)
    relative_delta = parameters.min_delta_seconds / bucket_upper_seconds(baseline)
    stat_factor = max(STAT_FLOOR_RATIO, tolerated)
    gate_factor = max(parameters.ratio, 1 + relative_delta, tolerated)
    clear_factor = min(gate_factor, max(CLEAR_RATIO, 1 + relative_delta / 2, sqrt(tolerated)))
    return QuantileThreshold(
        q,
        baseline,
        swing_octaves,
        _scaled(baseline, stat_factor),
        _scaled(baseline, gate_factor),
        _scaled(baseline, clear_factor),
    )


def _scaled(bucket: int, factor: float) -> int:
    return bucket + ceil(BUCKETS_PER_OCTAVE * log2(factor) - _ROUNDING)
