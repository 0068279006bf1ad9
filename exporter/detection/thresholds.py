"""Thresholds of a series in one hour, as buckets, and lower bounds of them that need no swing.

All thresholds are buckets of the digest, 32 to an octave (a factor of two). Scaling a bucket ``b`` by a factor R gives
``b + ceil(32 log2 R)``, so the number of traces above a threshold is exact. The method by which they follow from the
pool and the swing of a series is in :mod:`exporter.detection.prediction`.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, log2
from typing import Final, NamedTuple

from exporter.detection.parameters import (
    CERTAIN_WINDOW_TRACES,
    CLEAR_RATIO,
    CORRELATION,
    GATE_SWINGS,
    SMALL_SHIFT_RATIO,
    STAT_FLOOR_RATIO,
    STAT_SWINGS,
    Parameters,
)
from exporter.model.histogram import (
    BUCKETS_PER_OCTAVE,
    HIGHEST_BUCKET,
    ZERO_BUCKET,
    bucket_of_seconds,
    bucket_upper_seconds,
)
from exporter.model.hour_evaluation import QUANTILES, HourProfile

_ROUNDING: Final = 1e-9
_NEVER: Final = 2 * HIGHEST_BUCKET
"""A threshold that no trace exceeds."""


class QuantileThreshold(NamedTuple):
    """Thresholds for one quantile, as buckets.

    Attributes:
        q: the quantile.
        baseline: bucket of the pool's quantile.
        swing_octaves: the swing τ.
        stat: exceedances of this bucket enter the statistical test.
        gate: a quantile above this bucket is practically significant.
        clear: a quantile above this bucket means that a shift persists.
        ladder: expected shares of traces above the gate, twice the gate, and so on; empty if they are not tested.
        swing_factor: factor by which the quantile may exceed its baseline within its normal variation.
    """

    q: float
    baseline: int
    swing_octaves: float
    stat: int
    gate: int
    clear: int
    ladder: tuple[float, ...] = ()
    swing_factor: float = 1.0


class LongThreshold(NamedTuple):
    """Thresholds of one quantile for the window of half an hour, as buckets.

    Attributes:
        stat: statistical threshold.
        gate: gate.
        swing: by how much the quantile may exceed its baseline within its normal variation.
    """

    stat: int
    gate: int
    swing: int = 0


class LevelThreshold(NamedTuple):
    """Thresholds of one quantile relative to the level of now, as buckets.

    Attributes:
        stat: statistical threshold if the level is the baseline; moves with the level.
        gate: gate if the level is the baseline; moves with the level.
        least_stat: lower bound of the statistical threshold at any level.
        least_gate: lower bound of the gate at any level.
        swing: by how much the quantile may exceed the level within its normal variation.
    """

    stat: int
    gate: int
    least_stat: int
    least_gate: int
    swing: int = 0


class TailThreshold(NamedTuple):
    """A threshold beyond which the slowest traces are counted.

    Attributes:
        bucket: traces above this bucket are counted.
        expected: share of the traces above it that enters the statistical test.
        most: share of the traces above it within the normal variation of the series.
        swing: by how many buckets that takes all traces to be slower than the pool.
    """

    bucket: int
    expected: float
    most: float
    swing: int


UNREACHABLE: Final = LevelThreshold(_NEVER, _NEVER, _NEVER, _NEVER)
UNREACHABLE_LONG: Final = LongThreshold(_NEVER, _NEVER)
"""Stand for a level and a long window that are not tested."""


class SmallShiftThresholds(NamedTuple):
    """Thresholds of a series in one hour for the tests that find small shifts.

    Attributes:
        baseline: bucket of each quantile in the pool.
        correlation: as in :class:`Thresholds`.
        long: for the window of half an hour, by quantile; empty if it is not tested.
        level: relative to the level of now, by quantile; empty if it is not tested.
        profile: the pattern within the hour; empty without any.
        tail: thresholds of the slowest traces, ascending; empty if these are not counted.
    """

    baseline: tuple[int, ...]
    correlation: float
    long: tuple[LongThreshold, ...] = ()
    level: tuple[LevelThreshold, ...] = ()
    profile: HourProfile = ()
    tail: tuple[TailThreshold, ...] = ()

    @property
    def floors(self) -> "Floors | None":
        """Lower bounds of the thresholds that one of the tests may have; None without tests."""
        gates = [[each.gate for each in self.long], [each.least_gate for each in self.level]]
        stats = [[each.stat for each in self.long], [each.least_stat for each in self.level]]
        if not self.long and not self.level:
            return None
        return Floors(_lowest(gates), _lowest(stats), self.correlation)


def _lowest(thresholds: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the lowest threshold of each quantile, over the tests that have any."""
    return tuple(map(min, zip(*filter(None, thresholds), strict=True)))


class Thresholds(NamedTuple):
    """Thresholds of a series in one hour.

    Attributes:
        quantiles: one for each of :data:`exporter.model.hour_evaluation.QUANTILES`.
        correlation: correlation ρ of exceedances within a window, ``ρ + 2/N``: a small pool is itself uncertain. See
            :mod:`exporter.detection.likeness`.
        fast: a median at or below this bucket is significantly faster than the baseline; mirrors the median's gate.
        small: thresholds for small shifts; None if there are no such tests.
        profile: the pattern within the hour; empty without any.
        learned_correlation: the ρ of it that is learned; see :mod:`exporter.detection.likeness`.
        needs_certainty: whether windows of few traces have to rule out chance further; see
            :data:`CERTAIN_WINDOW_TRACES`.
    """

    quantiles: tuple[QuantileThreshold, ...]
    correlation: float
    fast: int
    small: SmallShiftThresholds | None = None
    profile: HourProfile = ()
    learned_correlation: float = CORRELATION
    needs_certainty: bool = False

    def certainty_of(self, traces: int) -> float:
        """Return the share of alpha below which chance is ruled out at once in a window of some traces."""
        return min(1.0, traces / CERTAIN_WINDOW_TRACES) if self.needs_certainty else 1.0

    @property
    def correlations(self) -> tuple[float, ...]:
        """The correlation, and what it would be if no other than :data:`CORRELATION` had been learned."""
        if self.learned_correlation == CORRELATION:
            return (self.correlation,)
        return (self.correlation, self.correlation - self.learned_correlation + CORRELATION)

    @property
    def lowest_gates(self) -> tuple[int, ...]:
        """Lower bound of each quantile's gate in any test, as bucket."""
        gates = Floors.of(self).gates
        small = None if self.small is None else self.small.floors
        return gates if small is None else tuple(map(min, gates, small.gates))


class Floors(NamedTuple):
    """Lower bounds of thresholds, which are known without computing the swing.

    Attributes:
        gates: lower bound of each quantile's gate, as bucket.
        stats: lower bound of each quantile's statistical threshold, as bucket.
        correlation: correlation of exceedances within a window.
        has_ladder: whether small shares of the traces are tested as well.
    """

    gates: tuple[int, ...]
    stats: tuple[int, ...]
    correlation: float
    has_ladder: bool = False

    @classmethod
    def of(cls, thresholds: Thresholds) -> "Floors":
        """Return computed thresholds as their own lower bounds."""
        gates = tuple([threshold.gate for threshold in thresholds.quantiles])
        stats = tuple([threshold.stat for threshold in thresholds.quantiles])
        has_ladder = any(threshold.ladder for threshold in thresholds.quantiles)
        return cls(gates, stats, thresholds.correlation, has_ladder)

    def minimum(self, other: "Floors") -> "Floors":
        """Return the elementwise minimum with the bounds of an earlier hour."""
        if other.gates == self.gates and other.stats == self.stats:
            return self
        return Floors(
            tuple(map(min, self.gates, other.gates)),
            tuple(map(min, self.stats, other.stats)),
            self.correlation,
            self.has_ladder,
        )


def thresholds_of(quantiles: tuple[QuantileThreshold, ...], traces: int) -> Thresholds:
    """Return thresholds without tests for small shifts, for a pool of some traces, with the default correlation."""
    median = quantiles[0]
    return Thresholds(quantiles, correlation_of(traces), 2 * median.baseline - median.gate)


def correlation_of(traces: int, learned: float = CORRELATION) -> float:
    """Return the correlation of exceedances for a pool of some traces."""
    return learned + 2 / traces


class FloorThresholds(NamedTuple):
    """Thresholds for a swing of zero, which are the same for every quantile.

    Attributes:
        stat: the statistical threshold.
        gate: the gate.
        small_gate: the gate of the tests for small shifts.
        thresholds: the same and the clear threshold, for each quantile.
    """

    stat: int
    gate: int
    small_gate: int
    thresholds: tuple[QuantileThreshold, ...]


@lru_cache(maxsize=4096)
def floor_of(baseline: int, ratio: float, min_delta_seconds: float) -> FloorThresholds:
    """Return the thresholds of a baseline bucket for a swing of zero."""
    small_gate = _NEVER if baseline == ZERO_BUCKET else scaled(baseline, least_ratio(baseline, min_delta_seconds))
    parameters = Parameters(ratio=ratio, min_delta_seconds=min_delta_seconds)
    thresholds = tuple(quantile_threshold(q, baseline, 0.0, parameters) for q in QUANTILES)
    return FloorThresholds(thresholds[0].stat, thresholds[0].gate, small_gate, thresholds)


def least_ratio(baseline: int, min_delta_seconds: float) -> float:
    """Return the least factor by which a small shift must exceed a baseline, which is not zero."""
    return max(SMALL_SHIFT_RATIO, 1 + min_delta_seconds / bucket_upper_seconds(baseline))


class Tolerated(NamedTuple):
    """Factors by which a quantile may exceed its baseline, or the level of now, because of its swing.

    Attributes:
        stat: in the statistical threshold; chance is tolerated beyond it.
        gate: in the gate.
        clear: in the clear threshold.
    """

    stat: float
    gate: float
    clear: float


def tolerated(swing_octaves: float, parameters: Parameters, *, is_joint: bool) -> Tolerated:
    """Return the factors that follow from a swing τ: powers of two of multiples of ``z τ``.

    Args:
        swing_octaves: the swing.
        parameters: settings of the detector.
        is_joint: whether swing and chance are tolerated together; see :data:`GATE_SWINGS`.
    """
    octaves = parameters.swing * swing_octaves
    stat, gate = (STAT_SWINGS, GATE_SWINGS) if is_joint else (1.0, 1.0)
    return Tolerated(float(2.0 ** (stat * octaves)), float(2.0 ** (gate * octaves)), float(2.0 ** (octaves / 2)))


def quantile_threshold(
    q: float, baseline: int, swing_octaves: float, parameters: Parameters, *, is_joint: bool = False
) -> QuantileThreshold:
    """Return the thresholds of a quantile, from its baseline bucket and its swing; see :func:`tolerated`."""
    factors = tolerated(swing_octaves, parameters, is_joint=is_joint)
    if baseline == ZERO_BUCKET:
        # A baseline of zero cannot be scaled; only the absolute difference counts.
        gate = bucket_of_seconds(parameters.min_delta_seconds)
        clear = bucket_of_seconds(parameters.min_delta_seconds / 2)
        return QuantileThreshold(q, baseline, swing_octaves, baseline, gate, clear, swing_factor=factors.gate)
    relative_delta = parameters.min_delta_seconds / bucket_upper_seconds(baseline)
    stat_factor = max(STAT_FLOOR_RATIO, factors.stat)
    gate_factor = max(parameters.ratio, 1 + relative_delta, factors.gate)
    clear_factor = min(gate_factor, max(CLEAR_RATIO, 1 + relative_delta / 2, factors.clear))
    return QuantileThreshold(
        q,
        baseline,
        swing_octaves,
        scaled(baseline, stat_factor),
        scaled(baseline, gate_factor),
        scaled(baseline, clear_factor),
        swing_factor=factors.gate,
    )


def buckets_of(factor: float) -> int:
    """Return a factor in buckets, rounded up."""
    return ceil(BUCKETS_PER_OCTAVE * log2(factor) - _ROUNDING)


def scaled(bucket: int, factor: float) -> int:
    """Return a bucket scaled by a factor, rounded up."""
    return bucket + buckets_of(factor)
