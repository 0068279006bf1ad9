"""The errors of the predicted quantiles in the windows of one hour that has settled.

With D the distance of a window's quantile from its baseline, at most 2 octaves, and s its sampling error, the squared
errors of an hour are ``max(Σ D² / 8, Σ D² - Σ s²)``. The sampling error is taken out of the sum and not of each window:
windows that happen to lie near their baseline make up for those that lie far from it. Windows with too few traces, and
quantiles with too few expected exceedances, do not count. In the swing of the evaluation windows, D is the distance
from the baseline raised by the pattern within the hour, and for the level also from that.

The sampling error of a quantile of n traces is half the width of its distribution-free interval at one standard error
of the rank (normal approximation of the binomial): ``s(n) = (Q(q + e) - Q(q - e)) / 2``, ``e = sqrt(q (1 - q) / n)``,
with Q the quantiles of the pool.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import accumulate
from math import sqrt
from typing import Final, NamedTuple, cast

from exporter.detection.likeness import shares_above
from exporter.detection.parameters import (
    LEVEL_MARKS,
    LEVEL_MIN_MARKS,
    LEVEL_SHARE,
    LONG_SWING_MIN_TRACES,
    MAX_SWING_OCTAVES,
    MIN_EVALUATED_TRACES,
    MIN_SWING_EXCEEDANCES,
)
from exporter.detection.window import SweptWindow, quantile_positions
from exporter.model.deviations import MARKS, MAX_LANES, compare_medians, deviations_of, encode_deviations
from exporter.model.histogram import BUCKETS_PER_OCTAVE, ZERO_BUCKET, Digest
from exporter.model.hour_evaluation import ERROR_SUMS, NO_SWINGS, QUANTILES, HourProfile, Swings

MAX_SQUARE: Final = (MAX_SWING_OCTAVES * BUCKETS_PER_OCTAVE) ** 2
"""Upper bound of a squared distance, in square buckets."""
UNITS_PER_SQUARE_OCTAVE: Final = (2 * BUCKETS_PER_OCTAVE) ** 2
"""Squares are in square half buckets, which are integers: distances are whole buckets, sampling errors half buckets."""
LONG_SUMS: Final = 2 * len(QUANTILES)
LEVEL_SUMS: Final = 4 * len(QUANTILES)
"""Positions in :data:`.Swings` of the sums for the windows of half an hour, and for the level."""
LEAST_JOINT_SHARE: Final = 8
_LEAST_SHARE: Final = 4
"""Of the squared distances, at least this fraction counts as swing: of those of an hour together, and of one window."""
_OFFSETS: Final = range(0, LONG_SUMS, 2)
"""Positions of the quantiles' sums in :data:`.Swings`, for the evaluation windows."""
_LANES: Final = {offset: MARKS * index for index, offset in enumerate(_OFFSETS)}
"""First lane of the quantile with an offset."""
_NO_PROFILE: Final[HourProfile] = ((0,) * MARKS,) * len(QUANTILES)
_ROUNDING: Final = 1e-9


class HourMeasurement(NamedTuple):
    """The windows of an hour compared with its baseline.

    Attributes:
        swings: sums of squared prediction errors.
        deviations: deviations from the baseline by mark; see :mod:`exporter.model.deviations`.
    """

    swings: Swings = NO_SWINGS
    deviations: bytes = b""


class Reference(NamedTuple):
    """What the windows of an hour are compared with.

    Attributes:
        pooled: all traces of the hours that form the baseline.
        baseline: bucket of each of :data:`.QUANTILES` in the pool.
        profile: the pattern within the hour.
        has_long_window: whether windows of half an hour are measured.
        has_level: whether errors are measured from the level of now, too.
        is_joint: whether sampling errors are taken out of the sum, and not of each window.
    """

    pooled: Digest
    baseline: Sequence[int]
    profile: HourProfile
    has_long_window: bool
    has_level: bool
    is_joint: bool


def measure_hour(
    reference: Reference, windows: Sequence[SweptWindow], halves: Sequence[Sequence[int]] = (), before: bytes = b""
) -> HourMeasurement:
    """Compare the windows of an hour with its baseline.

    Args:
        reference: what they are compared with.
        windows: evaluation windows at the marks of the hour.
        halves: sorted buckets of the two windows of half an hour.
        before: deviations of the hour before; empty if unknown.
    """
    # Called for millions of windows, so that everything that only depends on their size is computed once per size.
    sizes = {len(buckets) for _, buckets, _ in windows}
    long_windows = [buckets for buckets in halves if len(buckets) >= LONG_SWING_MIN_TRACES]
    by_size = _by_size(reference, sizes.union(map(len, long_windows)))
    swings = list(NO_SWINGS)
    deviations: list[int | None] = [None] * MAX_LANES
    variances = [0] * MAX_LANES
    median, most = reference.baseline[0], MAX_SQUARE
    # By quantile: the sum of the squared distances, and that of the sampling variances.
    squares, expected = [0] * len(QUANTILES), [0] * len(QUANTILES)
    is_joint = reference.is_joint
    mark = measured = shares = unlike_pairs = 0
    is_plain = not reference.profile and not reference.has_level
    for instants, buckets, _ in windows:
        weight, traces = len(instants), len(buckets)
        for offset, lane, position, baseline, variance in by_size[traces]:
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
        swings[:LONG_SUMS:2] = [
            _error(square, variance, LEAST_JOINT_SHARE) for square, variance in zip(squares, expected, strict=True)
        ]
    if not is_plain:
        _measure_errors(reference, swings, deviations, variances, before)
    if reference.has_long_window:
        for index in range(len(QUANTILES)):
            found = [
                (half_hour[position] - baseline, variance)
                for half_hour in long_windows
                for _, _, position, baseline, variance in by_size[len(half_hour)][index : index + 1]
            ]
            if found:
                swings[LONG_SUMS + 2 * index : LONG_SUMS + 2 * index + 2] = _squares(
                    *zip(*found, strict=True), is_joint=is_joint
                )
    if ZERO_BUCKET in reference.baseline:
        for index, baseline in enumerate(reference.baseline):
            if baseline == ZERO_BUCKET:
                # Distances from zero say nothing.
                deviations[MARKS * index : MARKS * (index + 1)] = [None] * MARKS
    encoded = encode_deviations(deviations)
    swings[ERROR_SUMS:] = (measured, shares, unlike_pairs, *compare_medians(before, encoded))
    return HourMeasurement(tuple(swings), encoded)


def _measure_errors(
    reference: Reference,
    swings: list[int],
    deviations: Sequence[int | None],
    variances: Sequence[int],
    before: bytes,
) -> None:
    """Set the sums that depend on the pattern within the hour and on the level before each window."""
    has_level, is_joint = reference.has_level, reference.is_joint
    for index, raised in enumerate(reference.profile or _NO_PROFILE):
        lanes = slice(MARKS * index, MARKS * (index + 1))
        errors, own_variances = deviations[lanes], variances[lanes]
        if errors.count(None) == MARKS:
            break
        # The level at the first mark depends on the last ones of the hour before.
        errors_before = deviations_of(before, index)[-LEVEL_MARKS:] if has_level else []
        if reference.profile:
            errors = [None if d is None else d - o for d, o in zip(errors, raised, strict=True)]
            if has_level:
                last = raised[-LEVEL_MARKS:]
                errors_before = [None if d is None else d - o for d, o in zip(errors_before, last, strict=True)]
            swings[2 * index : 2 * index + 2] = _squares(errors, own_variances, is_joint=is_joint)
        if has_level and reference.baseline[index] != ZERO_BUCKET:
            levels = levels_of([*errors_before, *errors], range(LEVEL_MARKS, LEVEL_MARKS + MARKS))
            errors = [None if d is None or c is None else d - c for d, c in zip(errors, levels, strict=True)]
            first = LEVEL_SUMS + 2 * index
            swings[first : first + 2] = _squares(errors, own_variances, is_joint=is_joint)


def _by_size(reference: Reference, sizes: Collection[int]) -> dict[int, list[tuple[int, int, int, int, int]]]:
    """Return, by number of traces, what windows are compared with.

    A tuple for each quantile with enough expected exceedances: its offset in :data:`.Swings`, its first lane, its
    index in the sorted window, its baseline bucket, and its sampling variance.
    """
    # All at once, because each call takes as long as two or three widths.
    baseline = reference.baseline
    widths = iter(reference.pooled.quantile_widths([ranks for n in sizes for ranks in _measurable_ranks(n)]))
    return {
        n: [
            (offset, lane, position, baseline[index], width * width)
            # The widths come last: zip() takes none for a quantile that there is not.
            for (index, offset, lane, position), width in zip(_measured_quantiles(n), widths)  # noqa: B905
        ]
        for n in sizes
    }


@lru_cache(maxsize=4096)
def standard_error_ranks(n: int) -> tuple[tuple[float, float], ...]:
    """Return q - e and q + e for each quantile of ``n`` traces, with e the standard error of its rank."""
    errors = ((q, sqrt(q * (1 - q) / n)) for q in QUANTILES)
    return tuple((max(0.0, q - error), min(1.0, q + error)) for q, error in errors)


@lru_cache(maxsize=4096)
def _measurable_ranks(n: int) -> tuple[tuple[float, float], ...]:
    """Return :func:`standard_error_ranks` of the quantiles for which ``n`` traces have enough expected exceedances."""
    measurable = sum(n * (1 - q) >= MIN_SWING_EXCEEDANCES - _ROUNDING for q in QUANTILES)
    return standard_error_ranks(n)[:measurable] if n >= MIN_EVALUATED_TRACES else ()


@lru_cache(maxsize=4096)
def measurable_quantiles(n: int) -> tuple[tuple[int, int, int], ...]:
    """Return the same quantiles as index, offset in :data:`.Swings`, and index in the sorted window."""
    offsets = _OFFSETS[: len(_measurable_ranks(n))]
    return tuple((index, offset, quantile_positions(n)[index]) for index, offset in enumerate(offsets))


@lru_cache(maxsize=4096)
def _measured_quantiles(n: int) -> tuple[tuple[int, int, int, int], ...]:
    """Return :func:`measurable_quantiles` with the first lane of each before the index in the sorted window."""
    return tuple((index, offset, _LANES[offset], position) for index, offset, position in measurable_quantiles(n))


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
