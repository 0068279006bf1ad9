"""From a pool to thresholds: how slow is slow at this hour, given how much this endpoint swings anyway.

Everything is counted in buckets of the digest, 32 to an octave, and nothing is interpolated: scaling by R is moving up
by ``ceil(32 log2 R)`` buckets, so the number of traces above a threshold is exact.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from math import ceil, log2, sqrt
from operator import mul, sub
from typing import Final, NamedTuple

from exporter.baseline.levels import Pool
from exporter.detection.marked import Swept
from exporter.detection.parameters import (
    CLEAR_RATIO,
    CORRELATION,
    MAX_SWING_OCTAVES,
    MIN_JUDGED,
    MIN_SWING_MARK,
    PRIOR_SWING_OCTAVES,
    PRIOR_SWING_WEIGHT,
    STAT_FLOOR_RATIO,
    Parameters,
)
from exporter.detection.window import quantile_positions
from exporter.model.histogram import BUCKETS_PER_OCTAVE, ZERO_BUCKET, bucket_of_seconds, bucket_upper_seconds
from exporter.model.hours import NO_SWINGS, QUANTILES, Swings

_ROUNDING: Final = 1e-9
_MAX_SQUARE: Final = (MAX_SWING_OCTAVES * BUCKETS_PER_OCTAVE) ** 2
# A distance is a whole number of buckets, a sampling spread one of half buckets. So all squares are multiples of this.
_SQUARES_PER_OCTAVE: Final = (2 * BUCKETS_PER_OCTAVE) ** 2
_PRIOR: Final = PRIOR_SWING_OCTAVES**2
# Hours with few traces say little about how hours differ: their weight is m / (m + this), m being n(1 - q).
_HALF_WEIGHT: Final = 2
_PLACES: Final = range(0, len(NO_SWINGS), 2)
"""Where among swings those of each quantile are."""


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
        quantiles: one for each of :data:`exporter.baseline.levels.QUANTILES`.
        correlation: within a window, and for how little the pool may know itself.
        fast: a median at or below this bucket is faster than usual.
    """

    quantiles: tuple[QuantileThreshold, ...]
    correlation: float
    fast: int


class Floors(NamedTuple):
    """What thresholds are at least, which is known without working them out.

    Attributes:
        gates: for each quantile, what its gate does not lie below.
        stats: the same for the threshold of the statistical test.
        correlation: within a window.
    """

    gates: tuple[int, ...]
    stats: tuple[int, ...]
    correlation: float

    @classmethod
    def of(cls, thresholds: Thresholds) -> "Floors":
        """The thresholds of one hour as floors."""
        gates = tuple([threshold.gate for threshold in thresholds.quantiles])
        stats = tuple([threshold.stat for threshold in thresholds.quantiles])
        return cls(gates, stats, thresholds.correlation)

    def lowered(self, other: "Floors") -> "Floors":
        """The floors of these thresholds and those of an earlier hour together."""
        if other.gates == self.gates and other.stats == self.stats:
            return self
        return Floors(
            tuple(map(min, self.gates, other.gates)), tuple(map(min, self.stats, other.stats)), self.correlation
        )


class Prediction:
    """What a pool predicts for each quantile, and how far from it chance alone takes a window of n traces."""

    __slots__ = (
        "_floors",
        "_hours",
        "_lowest",
        "_parameters",
        "_pooled",
        "_swings",
        "_thresholds",
        "usual",
    )

    def __init__(self, pool: Pool, swings: Swings, parameters: Parameters) -> None:
        """Predict from a mature pool.

        Args:
            pool: the hours that serve as the baseline.
            swings: what the series' good hours in the look-back add up to.
            parameters: the detector's settings.
        """
        self._swings = swings
        self._parameters = parameters
        self._thresholds: Thresholds | None = None
        self._floors: Thresholds | None = None
        self._lowest: Floors | None = None
        self._hours = pool.hours
        self._pooled = pool.digest
        self.usual = tuple(self._pooled.quantile_buckets(QUANTILES))

    @property
    def traces(self) -> int:
        """How many traces are pooled."""
        return self._pooled.count

    def squared_spreads(self, n: int) -> list[int]:
        """The sampling variance of each quantile of ``n`` traces, in square half buckets.

        The standard deviation is half the distance between the pool's quantiles one standard error of the rank above
        and below.
        """
        at = iter(self._pooled.quantile_buckets(_standard_errors(n)))
        return [(high - low) ** 2 for low, high in zip(at, at, strict=True)]

    def swings_of(self, windows: Sequence[Swept]) -> Swings:
        """How far the quantiles of some windows lay from their prediction.

        What sampling alone would do is taken off the square of each distance, but at least a quarter of it is left.
        Windows that are not judged do not count, nor do quantiles of which a window says too little.
        """
        # Millions of windows come through here, so what is the same for those of one size is looked up once.
        told = self._told_by({len(buckets) for _, buckets in windows})
        swings = list(NO_SWINGS)
        for instants, buckets in windows:
            times = len(instants)
            for at, position, usual, spread in told[len(buckets)]:
                distance = buckets[position] - usual
                square = distance * distance
                if square > _MAX_SQUARE:
                    square = _MAX_SQUARE
                if 3 * square > spread:
                    square = 4 * square - spread
                swings[at] += times * square
                swings[at + 1] += times
        return tuple(swings)

    def _told_by(self, sizes: Collection[int]) -> dict[int, list[tuple[int, int, int, int]]]:
        """The quantiles that windows of so many traces tell.

        Each with its place among the swings, where in the window it is, its usual bucket, and its sampling variance.
        """
        usual = self.usual
        bound = iter(self._pooled.quantile_buckets(chain.from_iterable(map(_told_ranks, sizes))))
        return {
            n: [
                (place, position, usual[index], (next(bound) - next(bound)) ** 2)
                for index, place, position in _told_places(n)
            ]
            for n in sizes
        }

    @property
    def floors(self) -> Thresholds:
        """What the thresholds would be if the series never swung: what is usual by these is so by the real ones."""
        if self._floors is None:
            quantiles, _, _ = _floors(self.usual, self._parameters.ratio, self._parameters.min_delta_seconds)
            self._floors = _thresholds(quantiles, self.traces)
        return self._floors

    @property
    def lowest(self) -> Floors:
        """The floors as such."""
        if self._lowest is None:
            _, gates, stats = _floors(self.usual, self._parameters.ratio, self._parameters.min_delta_seconds)
            self._lowest = Floors(gates, stats, self.floors.correlation)
        return self._lowest

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds that follow, worked out when they are first asked for."""
        if self._thresholds is None:
            self._thresholds = self._work_out()
        return self._thresholds

    def _work_out(self) -> Thresholds:
        found = []
        for q, usual, place, disagreement in zip(QUANTILES, self.usual, _PLACES, self._disagreements(), strict=True):
            squares, marks = self._swings[place : place + 2]
            errors = (PRIOR_SWING_WEIGHT * _PRIOR + squares / _SQUARES_PER_OCTAVE) / (PRIOR_SWING_WEIGHT + marks)
            found.append(_threshold(q, usual, sqrt(max(errors, disagreement)), self._parameters))
        return _thresholds(tuple(found), self.traces)

    def _disagreements(self) -> Iterator[float]:
        """How far the pooled hours lie from one another, as variances in square octaves; sampling is taken off."""
        hours = self._hours
        # Hours with little traffic have few different counts.
        spreads_of = {n: self.squared_spreads(n) for n in {hour.count for hour in hours}}
        columns = zip(
            self.usual,
            zip(*[hour.quantile_buckets for hour in hours], strict=True),
            zip(*[spreads_of[hour.count] for hour in hours], strict=True),
            zip(*[_weights(hour.count) for hour in hours], strict=True),
            strict=True,
        )
        for usual, buckets, spreads, weights in columns:
            squares = [
                4 * (square if (square := (bucket - usual) ** 2) < _MAX_SQUARE else _MAX_SQUARE) for bucket in buckets
            ]
            excess = sum(map(mul, weights, map(sub, squares, spreads)))
            square_octaves = max(0.0, excess / _SQUARES_PER_OCTAVE)
            yield (square_octaves + _PRIOR) / (sum(weights) + 1) * (1 + 1 / len(hours))


def _thresholds(quantiles: tuple[QuantileThreshold, ...], traces: int) -> Thresholds:
    median = quantiles[0]
    return Thresholds(quantiles, CORRELATION + 2 / traces, 2 * median.usual - median.gate)


@lru_cache(maxsize=4096)
def _floors(
    usual: tuple[int, ...], ratio: float, min_delta_seconds: float
) -> tuple[tuple[QuantileThreshold, ...], tuple[int, ...], tuple[int, ...]]:
    """The floors of thresholds, and of those once more the gates and the statistical ones."""
    parameters = Parameters(ratio=ratio, min_delta_seconds=min_delta_seconds)
    floors = tuple(_threshold(q, bucket, 0.0, parameters) for q, bucket in zip(QUANTILES, usual, strict=True))
    return floors, tuple(floor.gate for floor in floors), tuple(floor.stat for floor in floors)


@lru_cache(maxsize=4096)
def _standard_errors(n: int) -> tuple[float, ...]:
    """Each quantile less, and then plus, the standard error of its rank among ``n`` traces."""
    errors = ((q, sqrt(q * (1 - q) / n)) for q in QUANTILES)
    return tuple(chain.from_iterable((max(0.0, q - error), min(1.0, q + error)) for q, error in errors))


@lru_cache(maxsize=4096)
def _told_ranks(n: int) -> tuple[float, ...]:
    """The standard errors of the quantiles, from the lowest, that a window of ``n`` traces says enough about."""
    told = sum(n * (1 - q) >= MIN_SWING_MARK - _ROUNDING for q in QUANTILES)
    return _standard_errors(n)[: 2 * told] if n >= MIN_JUDGED else ()


@lru_cache(maxsize=4096)
def _told_places(n: int) -> tuple[tuple[int, int, int], ...]:
    """The same quantiles: which they are, their place among the swings, and where in the window they are."""
    return tuple((at // 2, at, quantile_positions(n)[at // 2]) for at in _PLACES[: len(_told_ranks(n)) // 2])


@lru_cache(maxsize=4096)
def _weights(n: int) -> tuple[float, ...]:
    """How much an hour of ``n`` traces says about how hours differ, for each quantile."""
    expected = [n * (1 - q) for q in QUANTILES]
    return tuple(m / (m + _HALF_WEIGHT) for m in expected)


def swing_factor(swing_octaves: float, parameters: Parameters) -> float:
    """The factor by which a quantile may exceed its baseline and still be within the usual swing."""
    return float(2.0 ** (parameters.swing * swing_octaves))


def _threshold(q: float, usual: int, tau: float, parameters: Parameters) -> QuantileThreshold:
    if usual == ZERO_BUCKET:
        # No factor leads away from zero; the absolute difference alone decides.
        gate = bucket_of_seconds(parameters.min_delta_seconds)
        clear = bucket_of_seconds(parameters.min_delta_seconds / 2)
        return QuantileThreshold(q, usual, tau, usual, gate, clear)
    seconds = bucket_upper_seconds(usual)
    usual_factor = swing_factor(tau, parameters)
    relative_delta = parameters.min_delta_seconds / seconds
    stat = max(STAT_FLOOR_RATIO, usual_factor)
    gate_factor = max(parameters.ratio, 1 + relative_delta, usual_factor)
    clear_factor = min(gate_factor, max(CLEAR_RATIO, 1 + relative_delta / 2, sqrt(usual_factor)))
    return QuantileThreshold(
        q, usual, tau, _scaled(usual, stat), _scaled(usual, gate_factor), _scaled(usual, clear_factor)
    )


def _scaled(bucket: int, factor: float) -> int:
    return bucket + ceil(BUCKETS_PER_OCTAVE * log2(factor) - _ROUNDING)
