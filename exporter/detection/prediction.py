"""Prediction of the quantiles of an hour, and the thresholds that follow from it and from past errors.

For each quantile q, with

- ``b``, the bucket of the pool's quantile q, and ``x`` its upper bound in seconds,
- ``N``, the number of traces in the pool,
- ``z``, the tolerated number of swings (`Parameters.swing`),

the swing is τ = sqrt(max(t1, t2)) octaves; see :mod:`exporter.detection.swing` for these two variances. The prior of
t1 is 0.1 octave for the median. For the other quantiles, which few windows measure where traffic is low, it is the
swing of the median, if that is more: what slows all requests down moves all quantiles.

The thresholds, as factors of ``x``:

- stat: ``max(1.1, 2^(s zτ))``; exceedances of it enter the statistical test,
- gate: ``max(ratio, 1 + min_delta/x, 2^(g zτ))``; a quantile above it is practically significant,
- clear: ``max(1.2, 1 + min_delta/2x, 2^(zτ/2))``, at most the gate; a quantile above it means that a shift persists.

With 240 traces an hour or more in the pool, and in both tests for small shifts, s is 0.8 and g is 1.8, so that swing
and chance are tolerated together; see :data:`.parameters.GATE_SWINGS`. Otherwise both are 1.

Two further tests find small shifts; see :mod:`exporter.detection.small_shift`. Their swings are estimated like t1, from
the errors of their own windows, and so are independent of τ. The tests of a small share of the traces ("ladder") use

- ``p_e``, the share of the pool above ``gate · 2^e / max(1.1, 2^(zτ))``, at least ``0.5 / N`` and at most 1 - q.

The slowest traces are counted above ``gate · 2^e`` for a swing of zero. With ``c(f)`` the traces of the pool above
``gate · 2^e / max(1.1, f)``, the share ``(c(2^(s zτ)) + 1) / N`` enters the test there, and the share
``(c(2^(g zτ)) + 1) / N`` is within the normal variation. τ is the swing of the p99 of half hours; where few of these
have been measured, at least that of the evaluation windows. See :mod:`exporter.detection.tail_shift`.

All thresholds are for times of the hour at which the series has no pattern; see :mod:`exporter.detection.profile`.
"""

from collections.abc import Collection
from math import sqrt
from typing import Final, NamedTuple

from exporter.baseline.levels import FallbackLevel, Pool
from exporter.detection.likeness import learned_correlation
from exporter.detection.measurement import LEVEL_SUMS, LONG_SUMS, Reference
from exporter.detection.parameters import (
    CERTAIN_MIN_HOURLY_TRACES,
    CORRELATION,
    DAY_SWING_RATIO,
    JOINT_MIN_HOURLY_TRACES,
    LADDER_STEPS,
    LEVEL_MIN_TRACES,
    LEVEL_SWING_OCTAVES,
    LONG_WINDOW_MIN_HOURLY_TRACES,
    PRIOR_SWING_OCTAVES,
    PRIOR_SWING_WEIGHT,
    SMALL_SHIFT_RATIO,
    STAT_FLOOR_RATIO,
    TAIL_MAX_CORRELATION,
    TAIL_MIN_HOURLY_TRACES,
    TAIL_STEPS,
    Parameters,
)
from exporter.detection.swing import PastErrors, variances_between_hours
from exporter.detection.thresholds import (
    UNREACHABLE,
    UNREACHABLE_LONG,
    Floors,
    LevelThreshold,
    LongThreshold,
    QuantileThreshold,
    SmallShiftThresholds,
    TailThreshold,
    Thresholds,
    Tolerated,
    buckets_of,
    correlation_of,
    floor_of,
    least_ratio,
    quantile_threshold,
    scaled,
    thresholds_of,
    tolerated,
)
from exporter.model.histogram import BUCKETS_PER_OCTAVE, ZERO_BUCKET
from exporter.model.hour_evaluation import ERROR_SUMS, QUANTILES, HourProfile, Swings
from exporter.model.series_hour import SeriesHour

_DAY_SWING_BUCKETS: Final = buckets_of(DAY_SWING_RATIO)


class SlowHour(NamedTuple):
    """Traces of a settled hour that exceed the median of the baseline by what is practically significant.

    Attributes:
        start: start of the hour, Unix seconds.
        traces: number of traces.
        slow: number of slow ones.
        expected: share of the traces that may be slow, between 0 and 0.5, on a day that is slower than others.
    """

    start: int
    traces: int
    slow: int
    expected: float


class Prediction:
    """Predicted quantiles of one hour, and the thresholds derived from them.

    Attributes:
        baseline: bucket of each of :data:`.QUANTILES` in the pool.
        profile: the pattern within the hour.
        has_long_window: whether the series usually has enough traffic for the window of half an hour.
        has_level: whether the series usually has enough traffic for the level of now.
        has_tail: whether the slowest traces of longer windows are counted, unless they are alike.
        has_small: whether any of these is tested: the baseline is of the hour itself or of the hours around it. Others
            pool times of the day at which other latencies are usual.
    """

    __slots__ = (
        "_all",
        "_busy",
        "_floor_by_quantile",
        "_floor_thresholds",
        "_floors",
        "_is_joint",
        "_lowest_gates",
        "_needs_certainty",
        "_parameters",
        "_pool",
        "_small",
        "_small_floors",
        "_swings",
        "_thresholds",
        "baseline",
        "has_level",
        "has_long_window",
        "has_small",
        "has_tail",
        "profile",
    )

    def __init__(
        self,
        pool: Pool,
        swings: Swings,
        parameters: Parameters,
        profile: HourProfile = (),
        daily_swings: Collection[Swings] = (),
        busy: Collection[Swings] = (),
    ) -> None:
        """Predict from a mature pool.

        Args:
            pool: hours that form the baseline.
            swings: sum over the series' hours in the look-back that are not quarantined.
            parameters: settings of the detector.
            profile: the pattern within the hour, from the same hours.
            daily_swings: the same sums for each day; empty if all hours count as one.
            busy: sums for each day of the hours that tell the swing of the median; empty if all hours do.
        """
        self.profile = profile
        self._small: SmallShiftThresholds | None = None
        self._swings = swings
        self._all = PastErrors(swings, daily_swings)
        self._busy = self._all
        if busy:
            self._busy = PastErrors(tuple(map(sum, zip(*busy, strict=True))), busy if daily_swings else ())
        self._parameters = parameters
        self._thresholds: Thresholds | None = None
        self._floor_thresholds: Thresholds | None = None
        self._floors: Floors | None = None
        self._small_floors: Floors | None = None
        self._lowest_gates: tuple[int, ...] | None = None
        self._pool = pool
        self.baseline = tuple(self._pool.digest.quantile_buckets(QUANTILES))
        parts, traces, hours = parameters.parts, self._pool.digest.count, len(pool.hours)
        self.has_long_window = parts.long_window and traces >= LONG_WINDOW_MIN_HOURLY_TRACES * hours
        self.has_level = parts.level and traces >= LEVEL_MIN_TRACES * hours
        self._needs_certainty = parts.certain_firing and traces >= CERTAIN_MIN_HOURLY_TRACES * hours
        is_near = pool.level <= FallbackLevel.NEARBY or not parts.near_baselines
        is_busy = traces >= TAIL_MIN_HOURLY_TRACES * hours
        self.has_tail = parts.tail and is_near and is_busy and self.baseline[-1] != ZERO_BUCKET
        self.has_small = is_near and (self.has_long_window or self.has_level or self.has_tail)
        self._is_joint = parts.joint_tolerance and traces >= JOINT_MIN_HOURLY_TRACES * hours
        ratio, min_delta_seconds = parameters.ratio, parameters.min_delta_seconds
        self._floor_by_quantile = [floor_of(bucket, ratio, min_delta_seconds) for bucket in self.baseline]

    @property
    def traces(self) -> int:
        """Number of pooled traces."""
        return self._pool.digest.count

    @property
    def reference(self) -> Reference:
        """What the windows of the hour are compared with once it has settled."""
        is_joint = self._parameters.parts.joint_errors
        return Reference(self._pool.digest, self.baseline, self.profile, self.has_long_window, self.has_level, is_joint)

    def is_usual(self, hour: SeriesHour) -> bool:
        """Whether an hour is certainly not anomalous with any swing: no quantile lies above its gate."""
        buckets, floors = hour.quantile_buckets, self._floor_by_quantile
        if buckets[0] <= 2 * self.baseline[0] - floors[0].gate:
            return False
        for bucket, floor in zip(buckets, floors):  # noqa: B905, SIM110 - equal length by construction, and faster
            if bucket > floor.gate:
                return False
        return True

    def is_slow(self, hour: SeriesHour) -> bool:
        """Whether most traces of an hour are slow, so that a streak begins with it."""
        return 2 * hour.digest.count_above(self._floor_by_quantile[0].gate) > hour.count

    def slow_hour(self, hour: SeriesHour) -> SlowHour:
        """Count how many traces of an hour are slow, and how many of them were to be expected."""
        gate = self._floor_by_quantile[0].gate
        pooled = self._pool.digest
        share = max(0.5, pooled.count_above(gate - _DAY_SWING_BUCKETS)) / pooled.count
        return SlowHour(hour.start, hour.count, hour.digest.count_above(gate), min(0.5, share))

    @property
    def small(self) -> SmallShiftThresholds | None:
        """Thresholds for small shifts, computed on first use; cheap, because they do not depend on the swing τ."""
        if self._small is None and self.has_small:
            self._small = SmallShiftThresholds(
                baseline=self.baseline,
                correlation=correlation_of(self.traces, self._learned_correlation),
                long=tuple(map(self._long_threshold, range(len(QUANTILES)))) if self.has_long_window else (),
                level=tuple(map(self._level_threshold, range(len(QUANTILES)))) if self.has_level else (),
                profile=self.profile,
                tail=self._tail_thresholds(),
            )
        return self._small

    @property
    def small_floors(self) -> Floors | None:
        """Lower bounds of the thresholds of both tests for small shifts; None without tests."""
        if self._small_floors is None and self.has_small:
            floors = self._floor_by_quantile
            gates, stats = tuple([floor.small_gate for floor in floors]), tuple([floor.stat for floor in floors])
            self._small_floors = Floors(gates, stats, correlation_of(self.traces))
        return self._small_floors

    @property
    def _learned_correlation(self) -> float:
        return learned_correlation(self._swings[ERROR_SUMS:]) if self._parameters.parts.likeness else CORRELATION

    def _variance(self, first: int, index: int, prior_octaves: float) -> float:
        """Return t1 of a quantile in square octaves.

        Args:
            first: position in :data:`.Swings` of the sums of the median.
            index: the quantile.
            prior_octaves: prior swing of the median.
        """
        prior = prior_octaves**2
        if index and self._parameters.parts.inherited_swing:
            prior = max(prior, self._all.variance(first, prior))
        return (self._all if index else self._busy).variance(first + 2 * index, prior)

    def _tolerated(self, first: int, index: int, prior_octaves: float) -> Tolerated:
        """Return by how much a quantile may swing in a small test."""
        swing_octaves = sqrt(self._variance(first, index, prior_octaves))
        return tolerated(swing_octaves, self._parameters, is_joint=self._parameters.parts.joint_tolerance)

    def _long_threshold(self, index: int) -> LongThreshold:
        baseline = self.baseline[index]
        if baseline == ZERO_BUCKET:
            return UNREACHABLE_LONG
        factors = self._tolerated(LONG_SUMS, index, PRIOR_SWING_OCTAVES)
        return LongThreshold(
            scaled(baseline, max(STAT_FLOOR_RATIO, factors.stat)),
            scaled(baseline, max(least_ratio(baseline, self._parameters.min_delta_seconds), factors.gate)),
            buckets_of(factors.gate),
        )

    def _level_threshold(self, index: int) -> LevelThreshold:
        baseline = self.baseline[index]
        if baseline == ZERO_BUCKET:
            return UNREACHABLE
        factors = self._tolerated(LEVEL_SUMS, index, LEVEL_SWING_OCTAVES)
        return LevelThreshold(
            stat=scaled(baseline, max(STAT_FLOOR_RATIO, factors.stat)),
            gate=scaled(baseline, max(SMALL_SHIFT_RATIO, factors.gate)),
            least_stat=scaled(baseline, STAT_FLOOR_RATIO),
            least_gate=scaled(baseline, least_ratio(baseline, self._parameters.min_delta_seconds)),
            swing=buckets_of(factors.gate),
        )

    def _tail_thresholds(self) -> tuple[TailThreshold, ...]:
        if not self.has_tail or self._learned_correlation > TAIL_MAX_CORRELATION:
            return ()
        index = len(QUANTILES) - 1
        square_octaves = self._variance(LONG_SUMS, index, PRIOR_SWING_OCTAVES)
        if self._swings[LONG_SUMS + 2 * index + 1] < PRIOR_SWING_WEIGHT:
            square_octaves = max(square_octaves, self._variance(0, index, PRIOR_SWING_OCTAVES))
        is_joint = self._parameters.parts.joint_tolerance
        factors = tolerated(sqrt(square_octaves), self._parameters, is_joint=is_joint)
        stat, gate = [buckets_of(max(STAT_FLOOR_RATIO, factor)) for factor in (factors.stat, factors.gate)]
        pooled, traces, lowest = self._pool.digest, self.traces, self._floor_by_quantile[index].gate
        # What is behind the slowest trace of the pool is unknown.
        return tuple(
            [
                TailThreshold(
                    bucket,
                    (pooled.count_above(bucket - stat) + 1) / traces,
                    (pooled.count_above(bucket - gate) + 1) / traces,
                    gate,
                )
                for bucket in range(lowest, lowest + TAIL_STEPS * BUCKETS_PER_OCTAVE, BUCKETS_PER_OCTAVE)
            ]
        )

    @property
    def lowest_tail(self) -> int | None:
        """The lowest bucket above which the slowest traces are counted; None if they are not."""
        return self._floor_by_quantile[-1].gate if self.has_tail else None

    @property
    def floor_thresholds(self) -> Thresholds:
        """Thresholds for a swing of zero; a window or hour that passes these tests also passes the actual ones."""
        if self._floor_thresholds is None:
            quantiles = tuple([floor.thresholds[index] for index, floor in enumerate(self._floor_by_quantile)])
            self._floor_thresholds = thresholds_of(quantiles, self.traces)
        return self._floor_thresholds

    @property
    def floors(self) -> Floors:
        """Lower bounds of the thresholds: those for a swing of zero."""
        if self._floors is None:
            floors = self._floor_by_quantile
            gates, stats = tuple([floor.gate for floor in floors]), tuple([floor.stat for floor in floors])
            self._floors = Floors(gates, stats, correlation_of(self.traces), self._parameters.parts.ladder)
        return self._floors

    @property
    def lowest_gates(self) -> tuple[int, ...]:
        """Lower bound of each quantile's gate in any test, as bucket."""
        if self._lowest_gates is None:
            floors = self._floor_by_quantile
            if self.has_small:
                self._lowest_gates = tuple([min(floor.gate, floor.small_gate) for floor in floors])
            else:
                self._lowest_gates = tuple([floor.gate for floor in floors])
        return self._lowest_gates

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds, computed on first use."""
        if self._thresholds is None:
            self._thresholds = self._compute_thresholds()
        return self._thresholds

    def _compute_thresholds(self) -> Thresholds:
        found = []
        between = variances_between_hours(self._pool, self.baseline)
        for index, (q, baseline, variance) in enumerate(zip(QUANTILES, self.baseline, between, strict=True)):
            errors = self._variance(0, index, PRIOR_SWING_OCTAVES)
            swing_octaves = sqrt(max(errors, variance))
            threshold = quantile_threshold(q, baseline, swing_octaves, self._parameters, is_joint=self._is_joint)
            found.append(threshold._replace(ladder=self._ladder(threshold)))
        learned = self._learned_correlation
        return thresholds_of(tuple(found), self.traces)._replace(
            correlation=correlation_of(self.traces, learned),
            small=self.small,
            profile=self.profile,
            learned_correlation=learned,
            needs_certainty=self._needs_certainty,
        )

    def _ladder(self, threshold: QuantileThreshold) -> tuple[float, ...]:
        """Return the shares of the pool above the gate, twice the gate and so on, scaled down by the swing factor."""
        if not self._parameters.parts.ladder or threshold.baseline == ZERO_BUCKET:
            return ()
        swing = 2.0 ** (self._parameters.swing * threshold.swing_octaves)
        lowest = threshold.gate - buckets_of(max(STAT_FLOOR_RATIO, swing))
        return tuple(
            min(
                1 - threshold.q,
                max(0.5, self._pool.digest.count_above(lowest + step * BUCKETS_PER_OCTAVE)) / self._pool.digest.count,
            )
            for step in range(LADDER_STEPS)
        )
