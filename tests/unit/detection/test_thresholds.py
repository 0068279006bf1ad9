"""Thresholds from baseline, swing and practical significance."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import chain
from math import ceil, log2, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel, Pool
from exporter.detection.parameters import MIN_EVALUATED_TRACES, Parameters
from exporter.detection.thresholds import Prediction, Thresholds
from exporter.model.calendar import DayType, LocalHour, Slot
from exporter.model.histogram import BUCKETS_PER_OCTAVE, ZERO_BUCKET, Digest, bucket_of_seconds
from exporter.model.histogram_codec import encode_digest
from exporter.model.hours import NO_SWINGS, SeriesHour, StoredWindow, Swings
from tests.support.naive_detector import QUANTILES, NaiveDetector, quantile

SLOT = Slot(0, DayType.WEEKDAY)
PARAMETERS = Parameters()
NO_DELTA = Parameters(min_delta_seconds=0)


def pool_of(hours: Sequence[Sequence[int]]) -> Pool:
    """Return a pool of hours, each given as the buckets of its traces."""
    members = []
    counts: dict[int, int] = {}
    for index, buckets in enumerate(hours):
        digest = Digest({bucket: list(buckets).count(bucket) for bucket in buckets})
        local_hour = LocalHour(index * 3600, (index + 1) * 3600, SLOT, 1)
        members.append(SeriesHour(local_hour, [StoredWindow(local_hour.start, len(buckets), encode_digest(digest))]))
        for bucket, count in digest:
            counts[bucket] = counts.get(bucket, 0) + count
    return Pool(FallbackLevel.EXACT, SLOT, tuple(members), mature=True, pooled=Digest(counts))


def thresholds(
    hours: Sequence[Sequence[int]], swings: Swings = NO_SWINGS, parameters: Parameters = NO_DELTA
) -> Thresholds:
    return Prediction(pool_of(hours), swings, parameters).thresholds


def steady(bucket: int) -> list[list[int]]:
    return [[bucket] * 40 for _ in range(5)]


def scaled_up(bucket: int, factor: float) -> int:
    return bucket + ceil(BUCKETS_PER_OCTAVE * log2(factor))


def test_thresholds_of_a_steady_series() -> None:
    for threshold in thresholds(steady(-100)).quantiles:
        factor = 2 ** (2.5 * threshold.swing_octaves)
        assert threshold.baseline == -100
        assert threshold.swing_octaves == pytest.approx(0.1)
        assert threshold.gate == scaled_up(-100, 1.4)
        assert threshold.stat == scaled_up(-100, factor)
        assert threshold.clear == scaled_up(-100, 1.2)


def test_min_delta_determines_the_gate_of_small_latencies() -> None:
    one_ms = bucket_of_seconds(0.001)
    (median, *_) = thresholds(steady(one_ms), parameters=Parameters(min_delta_seconds=0.005)).quantiles
    assert 2 ** ((median.gate + 1) / 32) == pytest.approx(0.006, rel=0.03)
    assert 2 ** ((median.clear + 1) / 32) == pytest.approx(0.0035, rel=0.03)


def test_thresholds_of_a_baseline_of_zero() -> None:
    zero = thresholds(steady(ZERO_BUCKET), parameters=Parameters(min_delta_seconds=0.005))
    for threshold in zero.quantiles:
        assert (threshold.baseline, threshold.stat) == (ZERO_BUCKET, ZERO_BUCKET)
        assert threshold.gate == bucket_of_seconds(0.005)
        assert threshold.clear == bucket_of_seconds(0.0025)
    assert zero.fast < ZERO_BUCKET
    assert thresholds(steady(ZERO_BUCKET)).quantiles[0].gate == ZERO_BUCKET


def test_prediction_errors_raise_all_thresholds() -> None:
    # 480 windows with an error of half an octave: variances of 48 times 0.01 and 480 times 0.25.
    swings = (480 * 4096 // 4, 480) * 3
    tau = sqrt((48 * 0.01 + 480 * 0.25) / (48 + 480))
    for threshold in thresholds(steady(-100), swings).quantiles:
        assert threshold.swing_octaves == pytest.approx(tau)
        assert threshold.gate == threshold.stat == scaled_up(-100, 2 ** (2.5 * tau))
        assert threshold.clear == scaled_up(-100, 2 ** (1.25 * tau))


def test_variance_between_hours_raises_the_swing() -> None:
    apart = [[-100 + 32 * (index % 2)] * 1000 for index in range(6)]
    together = thresholds(steady(-100)).quantiles[0]
    assert thresholds(apart).quantiles[0].swing_octaves > 4 * together.swing_octaves


def test_correlation_is_higher_for_a_small_pool() -> None:
    assert thresholds([[0] * 10] * 5).correlation == pytest.approx(0.003 + 2 / 50)


def test_fast_threshold_mirrors_the_gate_of_the_median() -> None:
    found = thresholds(steady(-100))
    assert found.fast == -100 - (found.quantiles[0].gate - -100)


buckets = st.lists(st.integers(-400, 200), min_size=1, max_size=60)
pools = st.lists(buckets, min_size=3, max_size=8)
some_swings = st.lists(
    st.builds(lambda marks, mean: (marks * mean, marks), st.integers(0, 3000), st.integers(0, 16384)),
    min_size=3,
    max_size=3,
).map(lambda each: tuple(chain.from_iterable(each)))


@given(pools, some_swings, st.integers(-6, 6))
def test_scaling_durations_by_a_power_of_two_shifts_all_thresholds(
    hours: list[list[int]], swings: Swings, octaves: int
) -> None:
    parameters = Parameters(min_delta_seconds=0.004)
    scaled = Parameters(min_delta_seconds=0.004 * 2.0**octaves)
    steps = octaves * BUCKETS_PER_OCTAVE
    before = thresholds(hours, swings, parameters)
    after = thresholds([[bucket + steps for bucket in hour] for hour in hours], swings, scaled)
    assert after.fast == before.fast + steps
    for old, new in zip(before.quantiles, after.quantiles, strict=True):
        assert new == old._replace(
            baseline=old.baseline + steps, stat=old.stat + steps, gate=old.gate + steps, clear=old.clear + steps
        )


@given(pools, some_swings, st.floats(0.5, 5), st.floats(1.1, 4))
def test_thresholds_follow_the_formulas(hours: list[list[int]], swings: Swings, tolerated: float, ratio: float) -> None:
    parameters = Parameters(min_delta_seconds=0.002, swing=tolerated, ratio=ratio)
    naive = NaiveDetector(parameters=parameters)
    pool = [bucket for hour in hours for bucket in hour]
    found = thresholds(hours, swings, parameters)
    for index, (q, threshold) in enumerate(zip(QUANTILES, found.quantiles, strict=True)):
        errors = (48 * 0.01 + swings[2 * index] / 4096) / (48 + swings[2 * index + 1])
        baseline = quantile(pool, float(q))
        weights = [float(len(hour) * (1 - q) / (len(hour) * (1 - q) + 2)) for hour in hours]
        squares = [
            min(2.0, abs(quantile(hour, float(q)) - baseline) / 32) ** 2 - naive.sampling_sd(pool, q, len(hour)) ** 2
            for hour in hours
        ]
        excess = max(0.0, sum(weight * square for weight, square in zip(weights, squares, strict=True)))
        disagreement = (excess + 0.01) / (sum(weights) + 1) * (1 + 1 / len(hours))
        assert threshold.baseline == baseline
        assert threshold.swing_octaves == pytest.approx(sqrt(max(errors, disagreement)))
        assert threshold.clear <= threshold.gate
        assert threshold.stat <= threshold.gate


@given(pools, buckets)
def test_measured_swings_follow_the_definition(hours: list[list[int]], window: list[int]) -> None:
    pool = [bucket for hour in hours for bucket in hour]
    n = len(window)
    expected = []
    for q in QUANTILES:
        if n * (1 - q) < Fraction(1, 2):
            break
        distance = min(Fraction(2), Fraction(abs(quantile(window, float(q)) - quantile(pool, float(q))), 32))
        sampling = Fraction(NaiveDetector.sampling_sd(pool, q, n))
        expected.append(4096 * max(distance**2 / 4, distance**2 - sampling**2))
    measured = expected if n >= MIN_EVALUATED_TRACES else []
    # A window shared by two marks counts twice.
    found = Prediction(pool_of(hours), NO_SWINGS, NO_DELTA).measure_swings([([300, 600], sorted(window))])
    squares, marks = found[::2], found[1::2]
    assert [square for square, times in zip(squares, marks, strict=True) if times] == [2 * each for each in measured]
    assert set(marks) <= {0, 2}


@given(pools, st.lists(st.integers(0, 4096), min_size=3, max_size=3))
def test_thresholds_are_not_below_their_floors(hours: list[list[int]], squares: list[int]) -> None:
    prediction = Prediction(pool_of(hours), tuple(chain.from_iterable((each, 1) for each in squares)), PARAMETERS)
    floors, found = prediction.floor_thresholds, prediction.thresholds
    for least, threshold in zip(floors.quantiles, found.quantiles, strict=True):
        assert (least.q, least.baseline) == (threshold.q, threshold.baseline)
        assert least.stat <= threshold.stat
        assert least.gate <= threshold.gate
        assert least.clear <= threshold.clear
    assert floors.correlation == found.correlation
    assert floors.fast >= found.fast
