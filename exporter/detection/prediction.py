"""Prediction of the quantiles of an hour, its errors in past windows, and the thresholds that follow from both.

For each quantile q, with

- ``b``, the bucket of the pool's quantile q, and ``x`` its upper bound in seconds,
- ``N``, the number of traces in the pool, and ``H`` its number of hours,
- ``z``, the tolerated number of swings (`Parameters.swing`),

the swing is τ = sqrt(max(t1, t2)) octaves. Two estimates of the variance enter:

- t1, the mean squared one-step-ahead prediction error of past evaluation windows on a typical day, with a prior π² of
  weight 48: ``t1 = (48 π² + M m) / (48 + M)``, with M the number of windows, and m the median, over these, of the mean
  squared error of their day. A mean over all days would follow a single day that the baseline does not fit, such as
  the first one of a weekend. See :meth:`Prediction.measure` for the squared errors. The prior π of the median is 0.1
  octave. For the other quantiles, which few windows measure where traffic is low, it is the swing of the median, if
  that is more: what slows all requests down moves all quantiles.
  With 240 traces an hour or more in the pool, only windows of hours with at least half as many count for the median:
  hours with few traces differ by more chance than can be taken out; see :data:`.parameters.BUSY_SWING_SHARE`.
- t2, the variance between the pooled hours, corrected for sampling: with n the traces of an hour, d the distance of its
  own quantile from ``b`` in octaves (at most 2), s(n) the sampling error of that quantile and ``w = m / (m + 2)``,
  ``m = n (1 - q)``: ``t2 = (max(0, Σ w (d² - s²)) + 0.1²) / (Σ w + 1) · (1 + 1/H)``.

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

The sampling error of a quantile of n traces is half the width of its distribution-free interval at one standard error
of the rank (normal approximation of the binomial): ``s(n) = (Q(q + e) - Q(q - e)) / 2``, ``e = sqrt(q (1 - q) / n)``,
with Q the quantiles of the pool.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from math import sqrt
from operator import mul, sub
from typing import Final, NamedTuple, cast

from exporter.baseline.levels import FallbackLevel, Pool
from exporter.detection.likeness import learned_correlation, shares_above
from exporter.detection.parameters import (
    BUSY_SWING_SHARE,
    CERTAIN_MIN_HOURLY_TRACES,
    CORRELATION,
    DAY_SWING_RATIO,
    JOINT_MIN_HOURLY_TRACES,
    LADDER_STEPS,
    LEVEL_MARKS,
    LEVEL_MIN_MARKS,
    LEVEL_MIN_TRACES,
    LEVEL_SHARE,
    LEVEL_SWING_OCTAVES,
    LONG_SWING_MIN_TRACES,
    LONG_WINDOW_MIN_HOURLY_TRACES,
    MAX_SWING_OCTAVES,
    MIN_EVALUATED_TRACES,
    MIN_SWING_EXCEEDANCES,
    PRIOR_SWING_OCTAVES,
    PRIOR_SWING_WEIGHT,
    SMALL_SHIFT_RATIO,
    STAT_FLOOR_RATIO,
    TAIL_MAX_CORRELATION,
    TAIL_MIN_HOURLY_TRACES,
    TAIL_STEPS,
    Parameters,
)
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
from exporter.detection.window import SweptWindow, quantile_positions
from exporter.model.deviations import MARKS, MAX_LANES, compare_medians, deviations_of, encode_deviations
from exporter.model.histogram import BUCKETS_PER_OCTAVE, ZERO_BUCKET
from exporter.model.hours import ERROR_SUMS, NO_SWINGS, QUANTILES, HourProfile, SeriesHour, Swings

_ROUNDING: Final = 1e-9
MAX_SQUARE: Final = (MAX_SWING_OCTAVES * BUCKETS_PER_OCTAVE) ** 2
"""Upper bound of a squared distance, in square buckets."""
_UNITS_PER_SQUARE_OCTAVE: Final = (2 * BUCKETS_PER_OCTAVE) ** 2
"""Squares are in square half buckets, which are integers: distances are whole buckets, sampling errors half buckets."""
_PRIOR: Final = PRIOR_SWING_OCTAVES**2
_LEAST_SHARE: Final = 4
LEAST_JOINT_SHARE: Final = 8
"""Of the squared distances, at least this fraction counts as swing: of one window, and of those of an hour together."""
_HALF_WEIGHT_EXCEEDANCES: Final = 2
"""An hour with this many expected exceedances has half the weight of one with unlimited traffic."""
_OFFSETS: Final = range(0, 2 * len(QUANTILES), 2)
"""Positions of the quantiles' sums in :data:`Swings`, for the evaluation windows."""
_LANES: Final = {offset: MARKS * index for index, offset in enumerate(_OFFSETS)}
"""First lane of the quantile with an offset."""
_LONG: Final = 2 * len(QUANTILES)
_LEVEL: Final = 4 * len(QUANTILES)
"""Positions of the sums for the windows of half an hour, and for the level."""
_NO_PROFILE: Final[HourProfile] = ((0,) * MARKS,) * len(QUANTILES)
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


class HourMeasurement(NamedTuple):
    """The windows of an hour compared with its baseline.

    Attributes:
        swings: sums of squared prediction errors.
        deviations: deviations from the baseline by mark; see :mod:`exporter.model.deviations`.
    """

    swings: Swings = NO_SWINGS
    deviations: bytes = b""


class _Errors:
    """Squared errors of past windows: the sum over all of them, and of each local day."""

    __slots__ = ("_daily", "_squares", "_swings")

    def __init__(self, swings: Swings, daily: Collection[Swings]) -> None:
        """Take both sums; without any days, all windows count as one day."""
        self._swings, self._daily = swings, daily
        self._squares: dict[int, float] = {}

    def variance(self, position: int, prior: float) -> float:
        """Return t1 of the errors at a position in :data:`Swings` with a prior variance, in square octaves."""
        square = self._squares.get(position)
        if square is None:
            of_days = [each[position : position + 2] for each in self._daily or (self._swings,)]
            square = self._squares[position] = _typical_square(of_days) / _UNITS_PER_SQUARE_OCTAVE
        windows = self._swings[position + 1]
        return (PRIOR_SWING_WEIGHT * prior + windows * square) / (PRIOR_SWING_WEIGHT + windows)


class Prediction:
    """Predicted quantiles of one hour, and the thresholds derived from them.

    Attributes:
        baseline: bucket of each of :data:`QUANTILES` in the pool.
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
        "_hours",
        "_is_joint",
        "_lowest_gates",
        "_needs_certainty",
        "_parameters",
        "_pooled",
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
        self._all = _Errors(swings, daily_swings)
        self._busy = self._all
        if busy:
            self._busy = _Errors(tuple(map(sum, zip(*busy, strict=True))), busy if daily_swings else ())
        self._parameters = parameters
        self._thresholds: Thresholds | None = None
        self._floor_thresholds: Thresholds | None = None
        self._floors: Floors | None = None
        self._small_floors: Floors | None = None
        self._lowest_gates: tuple[int, ...] | None = None
        self._hours = pool.hours
        self._pooled = pool.digest
        self.baseline = tuple(self._pooled.quantile_buckets(QUANTILES))
        parts, traces, hours = parameters.parts, self._pooled.count, len(pool.hours)
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
        return self._pooled.count

    def sampling_variances(self, n: int) -> list[int]:
        """Return the sampling variance s(n)² of each quantile of ``n`` traces, in square half buckets."""
        bounds = iter(self._pooled.quantile_buckets(standard_error_ranks(n)))
        return [(high - low) ** 2 for low, high in zip(bounds, bounds, strict=True)]

    def measure(
        self, windows: Sequence[SweptWindow], halves: Sequence[Sequence[int]] = (), before: bytes = b""
    ) -> HourMeasurement:
        """Compare the windows of an hour with the baseline.

        With D the distance of a window's quantile from its baseline, at most 2 octaves, and s its sampling error, the
        squared errors of an hour are ``max(Σ D² / 8, Σ D² - Σ s²)``. The sampling error is taken out of the sum and not
        of each window: windows that happen to lie near their baseline make up for those that lie far from it. Windows
        with too few traces, and quantiles with too few expected exceedances, do not count. In the swing of the
        evaluation windows, D is the distance from the baseline raised by the pattern within the hour, and for the level
        also from that.

        Args:
            windows: evaluation windows at the marks of the hour.
            halves: sorted buckets of the two windows of half an hour.
            before: deviations of the hour before; empty if unknown.
        """
        # Called for millions of windows, so that everything that only depends on their size is computed once per size.
        sizes = {len(buckets) for _, buckets, _ in windows}
        long_windows = [buckets for buckets in halves if len(buckets) >= LONG_SWING_MIN_TRACES]
        references = self._references(sizes.union(map(len, long_windows)))
        swings = list(NO_SWINGS)
        deviations: list[int | None] = [None] * MAX_LANES
        variances = [0] * MAX_LANES
        median, most = self.baseline[0], MAX_SQUARE
        # By quantile: the sum of the squared distances, and that of the sampling variances.
        squares, expected = [0] * len(QUANTILES), [0] * len(QUANTILES)
        is_joint = self._parameters.parts.joint_errors
        mark = measured = shares = unlike_pairs = 0
        is_plain = not self.profile and not self.has_level
        for instants, buckets, _ in windows:
            weight, traces = len(instants), len(buckets)
            for offset, lane, position, baseline, variance in references[traces]:
                distance = buckets[position] - baseline
                if weight == 1:
                    deviations[lane + mark] = distance
                    if not is_plain:
                        variances[lane + mark] = variance
                else:
                    lanes = slice(lane + mark, lane + mark + weight)
                    deviations[lanes] = [distance] * weight
                    variances[lanes] = [variance] * weight
                square = distance * distance
                if square > most:
                    square = most
                swings[offset + 1] += weight
                if is_joint:
                    squares[offset >> 1] += weight * square
                    expected[offset >> 1] += weight * variance
                else:
                    swings[offset] += weight * _error(square, variance, _LEAST_SHARE)
            mark += weight
            if traces >= MIN_EVALUATED_TRACES:
                share, unlike = shares_above(traces - bisect_right(buckets, median), traces)
                shares += weight * share
                unlike_pairs += weight * unlike
                measured += weight
        if is_joint:
            swings[: 2 * len(QUANTILES) : 2] = [
                _error(square, variance, LEAST_JOINT_SHARE) for square, variance in zip(squares, expected, strict=True)
            ]
        if not is_plain:
            self._measure_errors(swings, deviations, variances, before)
        if self.has_long_window:
            for index in range(len(QUANTILES)):
                found = [
                    (half_hour[position] - baseline, variance)
                    for half_hour in long_windows
                    for _, _, position, baseline, variance in references[len(half_hour)][index : index + 1]
                ]
                if found:
                    swings[_LONG + 2 * index : _LONG + 2 * index + 2] = _squares(
                        *zip(*found, strict=True), is_joint=is_joint
                    )
        if ZERO_BUCKET in self.baseline:
            for index, baseline in enumerate(self.baseline):
                if baseline == ZERO_BUCKET:
                    # Distances from zero say nothing.
                    deviations[MARKS * index : MARKS * (index + 1)] = [None] * MARKS
        encoded = encode_deviations(deviations)
        swings[ERROR_SUMS:] = (measured, shares, unlike_pairs, *compare_medians(before, encoded))
        return HourMeasurement(tuple(swings), encoded)

    def _measure_errors(
        self, swings: list[int], deviations: Sequence[int | None], variances: Sequence[int], before: bytes
    ) -> None:
        """Set the sums that depend on the pattern within the hour and on the level before each window."""
        has_level, is_joint = self.has_level, self._parameters.parts.joint_errors
        for index, raised in enumerate(self.profile or _NO_PROFILE):
            lanes = slice(MARKS * index, MARKS * (index + 1))
            errors, own_variances = deviations[lanes], variances[lanes]
            if errors.count(None) == MARKS:
                break
            # The level at the first mark depends on the last ones of the hour before.
            errors_before = deviations_of(before, index)[-LEVEL_MARKS:] if has_level else []
            if self.profile:
                errors = [None if d is None else d - o for d, o in zip(errors, raised, strict=True)]
                if has_level:
                    last = raised[-LEVEL_MARKS:]
                    errors_before = [None if d is None else d - o for d, o in zip(errors_before, last, strict=True)]
                swings[2 * index : 2 * index + 2] = _squares(errors, own_variances, is_joint=is_joint)
            if has_level and self.baseline[index] != ZERO_BUCKET:
                levels = levels_of([*errors_before, *errors], range(LEVEL_MARKS, LEVEL_MARKS + MARKS))
                errors = [None if d is None or c is None else d - c for d, c in zip(errors, levels, strict=True)]
                swings[_LEVEL + 2 * index : _LEVEL + 2 * index + 2] = _squares(errors, own_variances, is_joint=is_joint)

    def _references(self, sizes: Collection[int]) -> dict[int, list[tuple[int, int, int, int, int]]]:
        """Return, by number of traces, what windows are compared with.

        A tuple for each quantile with enough expected exceedances: its offset in :data:`Swings`, its first lane, its
        index in the sorted window, its baseline bucket, and its sampling variance.
        """
        # All at once, because each call takes as long as two or three widths.
        baseline = self.baseline
        widths = iter(self._pooled.quantile_widths([ranks for n in sizes for ranks in _measurable_ranks(n)]))
        return {
            n: [
                (offset, lane, position, baseline[index], width * width)
                # The widths come last: zip() takes none for a quantile that there is not.
                for (index, offset, lane, position), width in zip(_measured_quantiles(n), widths)  # noqa: B905
            ]
            for n in sizes
        }

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
        pooled = self._pooled
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
            first: position in :data:`Swings` of the sums of the median.
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
        factors = self._tolerated(_LONG, index, PRIOR_SWING_OCTAVES)
        return LongThreshold(
            scaled(baseline, max(STAT_FLOOR_RATIO, factors.stat)),
            scaled(baseline, max(least_ratio(baseline, self._parameters.min_delta_seconds), factors.gate)),
            buckets_of(factors.gate),
        )

    def _level_threshold(self, index: int) -> LevelThreshold:
        baseline = self.baseline[index]
        if baseline == ZERO_BUCKET:
            return UNREACHABLE
        factors = self._tolerated(_LEVEL, index, LEVEL_SWING_OCTAVES)
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
        square_octaves = self._variance(_LONG, index, PRIOR_SWING_OCTAVES)
        if self._swings[_LONG + 2 * index + 1] < PRIOR_SWING_WEIGHT:
            square_octaves = max(square_octaves, self._variance(0, index, PRIOR_SWING_OCTAVES))
        is_joint = self._parameters.parts.joint_tolerance
        factors = tolerated(sqrt(square_octaves), self._parameters, is_joint=is_joint)
        stat, gate = [buckets_of(max(STAT_FLOOR_RATIO, factor)) for factor in (factors.stat, factors.gate)]
        pooled, traces, lowest = self._pooled, self.traces, self._floor_by_quantile[index].gate
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
        between = self._variances_between_hours()
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
                max(0.5, self._pooled.count_above(lowest + step * BUCKETS_PER_OCTAVE)) / self._pooled.count,
            )
            for step in range(LADDER_STEPS)
        )

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
                4 * (square if (square := (bucket - baseline) ** 2) < MAX_SQUARE else MAX_SQUARE) for bucket in buckets
            ]
            excess = sum(map(mul, weights, map(sub, squares, variances)))
            square_octaves = max(0.0, excess / _UNITS_PER_SQUARE_OCTAVE)
            yield (square_octaves + _PRIOR) / (sum(weights) + 1) * (1 + 1 / len(hours))


def least_busy(pool: Pool, parameters: Parameters) -> int | None:
    """Return with how many traces an hour tells the swing of the median in the hour of a pool; None if all do."""
    traces, hours = pool.digest.count, len(pool.hours)
    if not parameters.parts.busy_swing or traces < JOINT_MIN_HOURLY_TRACES * hours:
        return None
    return -(-traces // (BUSY_SWING_SHARE * hours))


@lru_cache(maxsize=4096)
def standard_error_ranks(n: int) -> tuple[float, ...]:
    """Return q - e and q + e for each quantile of ``n`` traces, with e the standard error of its rank."""
    errors = ((q, sqrt(q * (1 - q) / n)) for q in QUANTILES)
    return tuple(chain.from_iterable((max(0.0, q - error), min(1.0, q + error)) for q, error in errors))


@lru_cache(maxsize=4096)
def _measurable_ranks(n: int) -> tuple[tuple[float, float], ...]:
    """Return :func:`standard_error_ranks` of the quantiles for which ``n`` traces have enough expected exceedances."""
    measurable = sum(n * (1 - q) >= MIN_SWING_EXCEEDANCES - _ROUNDING for q in QUANTILES)
    ranks = iter(standard_error_ranks(n)[: 2 * measurable] if n >= MIN_EVALUATED_TRACES else ())
    return tuple(zip(ranks, ranks, strict=True))


@lru_cache(maxsize=4096)
def measurable_quantiles(n: int) -> tuple[tuple[int, int, int], ...]:
    """Return the same quantiles as index, offset in :data:`Swings`, and index in the sorted window."""
    offsets = _OFFSETS[: len(_measurable_ranks(n))]
    return tuple((index, offset, quantile_positions(n)[index]) for index, offset in enumerate(offsets))


@lru_cache(maxsize=4096)
def _measured_quantiles(n: int) -> tuple[tuple[int, int, int, int], ...]:
    """Return :func:`measurable_quantiles` with the first lane of each before the index in the sorted window."""
    return tuple((index, offset, _LANES[offset], position) for index, offset, position in measurable_quantiles(n))


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


def _error(square: int, variance: int, least_share: int) -> int:
    """Return the squared error ``max(D²/least_share, D² - s²)`` in square half buckets.

    Args:
        square: D² in square buckets, so that 4 times it is in square half buckets.
        variance: s² in square half buckets.
        least_share: a divisor of 8.
    """
    least = 4 * square // least_share
    return max(least, 4 * square - variance)


def _squares(distances: Sequence[int | None], variances: Sequence[int], *, is_joint: bool) -> tuple[int, int]:
    """Return the sum of the squared errors of known distances, and their number.

    Args:
        distances: distances in buckets; None where unknown.
        variances: their sampling variances in square half buckets.
        is_joint: whether the sampling variances are taken out of the sum, and not of each.
    """
    total = number = squares = expected = 0
    for distance, variance in zip(distances, variances, strict=True):
        if distance is not None:
            square = distance * distance
            if square > MAX_SQUARE:
                square = MAX_SQUARE
            number += 1
            if is_joint:
                squares += square
                expected += variance
            else:
                total += _error(square, variance, _LEAST_SHARE)
    return (_error(squares, expected, LEAST_JOINT_SHARE) if is_joint else total), number


def levels_of(deviations: Sequence[int | None], marks: Sequence[int]) -> list[int | None]:
    """Return the level of now at some marks: a share of the mean deviation at the six marks before.

    Args:
        deviations: deviations at consecutive marks, in buckets; None where unknown.
        marks: positions among them, or the one after the last; at least six.

    Returns:
        For each of these marks the level in buckets, at most an octave; None with too few known deviations.
    """
    # Sums and counts of what is known before each mark: their differences are those of any six.
    if None not in deviations:
        sums = list(accumulate(cast("Sequence[int]", deviations), initial=0))
        return [_level_of(sums[mark] - sums[mark - LEVEL_MARKS], LEVEL_MARKS) for mark in marks]
    sums = list(accumulate([0 if each is None else each for each in deviations], initial=0))
    counts = list(accumulate([each is not None for each in deviations], initial=0))
    return [
        _level_of(sums[mark] - sums[mark - LEVEL_MARKS], counts[mark] - counts[mark - LEVEL_MARKS]) for mark in marks
    ]


@lru_cache(maxsize=4096)
def _level_of(total: int, known: int) -> int | None:
    """Return the level in buckets, from the sum of the known deviations at six marks; None with too few."""
    if known < LEVEL_MIN_MARKS:
        return None
    numerator, denominator = LEVEL_SHARE
    level = round(numerator * total / (denominator * known))
    return max(-BUCKETS_PER_OCTAVE, min(BUCKETS_PER_OCTAVE, level))
