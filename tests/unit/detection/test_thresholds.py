"""Thresholds from baseline, swing and practical significance."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from math import ceil, log2, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel, Pool
from exporter.detection.measurement import measure_hour
from exporter.detection.parameters import ALL_PARTS, MIN_EVALUATED_TRACES, NO_PARTS, Parameters
from exporter.detection.prediction import Prediction
from exporter.detection.settlement import is_anomalous
from exporter.detection.swing import least_busy
from exporter.detection.thresholds import Thresholds
from exporter.model.calendar import DayType, LocalHour, Slot
from exporter.model.deviations import deviations_of, encode_deviations
from exporter.model.histogram import BUCKETS_PER_OCTAVE, ZERO_BUCKET, Digest, bucket_of_seconds
from exporter.model.histogram_codec import encode_digest
from exporter.model.hour_evaluation import NO_SWINGS, Swings
from exporter.model.series_hour import SeriesHour, StoredWindow
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


@given(
    st.lists(st.lists(st.integers(-40, 40), min_size=3, max_size=40), min_size=3, max_size=5),
    st.dictionaries(st.integers(-120, 120), st.integers(1, 30), min_size=1),
)
def test_a_usual_hour_is_not_anomalous(hours: list[list[int]], counts: dict[int, int]) -> None:
    prediction, digest = Prediction(pool_of(hours), NO_SWINGS, PARAMETERS), Digest(counts)
    window = StoredWindow(3600, digest.count, encode_digest(digest))
    hour = SeriesHour(LocalHour(3600, 7200, SLOT, 1), [window])
    if prediction.is_usual(hour):
        assert not is_anomalous(digest, prediction.floor_thresholds, PARAMETERS)


def test_an_hour_like_the_baseline_is_usual() -> None:
    prediction = Prediction(pool_of(steady(-100)), NO_SWINGS, PARAMETERS)
    for bucket, is_usual in ((-100, True), (-80, False), (-120, False)):
        (hour,) = pool_of([[bucket] * 40]).hours
        assert prediction.is_usual(hour) is is_usual


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


@pytest.mark.parametrize(("traces_an_hour", "stat", "gate"), [(239, 2.5, 2.5), (240, 2.0, 4.5)])
def test_prediction_errors_raise_all_thresholds(traces_an_hour: int, stat: float, gate: float) -> None:
    # 480 windows with an error of half an octave: variances of 48 times 0.01 and 480 times 0.25.
    swings = (480 * 4096 // 4, 480) * 3 + NO_SWINGS[6:]
    prior = 0.01
    for threshold in thresholds([[-100] * traces_an_hour] * 5, swings).quantiles:
        tau = sqrt((48 * prior + 480 * 0.25) / (48 + 480))
        # What the median shows is the prior of the others.
        prior = (48 * 0.01 + 480 * 0.25) / (48 + 480)
        assert threshold.swing_octaves == pytest.approx(tau)
        assert threshold.stat == scaled_up(-100, 2 ** (stat * tau))
        assert threshold.gate == scaled_up(-100, 2 ** (gate * tau))
        assert threshold.swing_factor == pytest.approx(2 ** (gate * tau))
        assert threshold.clear == scaled_up(-100, 2 ** (1.25 * tau))


def test_one_day_does_not_change_the_swing() -> None:
    usual, other = (288 * 4096 // 16, 288, *NO_SWINGS[2:]), (288 * 4096, 288, *NO_SWINGS[2:])

    def swing_of(days: Sequence[Swings]) -> float:
        total = tuple(map(sum, zip(*days, strict=True)))
        return Prediction(pool_of(steady(-100)), total, NO_DELTA, (), days).thresholds.quantiles[0].swing_octaves

    assert swing_of([usual] * 6 + [other]) == pytest.approx(swing_of([usual] * 7))
    assert swing_of([usual] * 2 + [other] * 5) == pytest.approx(swing_of([other] * 7))
    # Days count by their windows.
    assert swing_of([(10 * 4096, 10, *NO_SWINGS[2:])] * 5 + [usual]) < swing_of([other])


def test_in_busy_hours_the_swing_is_that_of_busy_hours() -> None:
    busy = [(windows * 4096 // 64, windows, *NO_SWINGS[2:]) for windows in (144, 288, 144)]
    total = (5000 * 4096 // 4, 5000, *NO_SWINGS[2:])
    tau = sqrt((48 * 0.01 + 576 / 64) / (48 + 576))
    found = Prediction(pool_of([[-100] * 240] * 5), total, NO_DELTA, (), [total], busy).thresholds.quantiles[0]
    assert found.swing_octaves == pytest.approx(tau)
    # As with all hours, the swing is that of a typical day, of which the days before have half of the windows.
    other = [*busy, (288 * 4096, 288, *NO_SWINGS[2:])]
    found = Prediction(pool_of([[-100] * 240] * 5), total, NO_DELTA, (), [total], other).thresholds.quantiles[0]
    assert found.swing_octaves == pytest.approx(sqrt((48 * 0.01 + 864 / 64) / (48 + 864)))
    assert thresholds([[-100] * 240] * 5, total).quantiles[0].swing_octaves > 0.49


@pytest.mark.parametrize(
    ("traces", "least"), [([239] * 5, None), ([240] * 5, 120), ([300] * 4 + [301], 151), ([2000, 10, 10], 337)]
)
def test_an_hour_is_busy_with_half_of_the_traffic_of_the_pool(traces: Sequence[int], least: int | None) -> None:
    pool = pool_of([[-100] * number for number in traces])
    assert least_busy(pool, PARAMETERS) == least
    assert least_busy(pool, Parameters(parts=ALL_PARTS._replace(busy_swing=False))) is None


def test_a_quantile_that_no_window_measures_swings_like_the_median() -> None:
    swings = (480 * 4096 // 4, 480, *NO_SWINGS[2:])
    median, *others = thresholds(steady(-100), swings).quantiles
    assert {each.swing_octaves for each in others} == {median.swing_octaves}
    assert {each.gate for each in others} == {median.gate}
    steadier = thresholds(steady(-100), (0, 480, *NO_SWINGS[2:])).quantiles
    assert steadier[2].swing_octaves == pytest.approx(0.1)


def test_variance_between_hours_raises_the_swing() -> None:
    apart = [[-100 + 32 * (index % 2)] * 1000 for index in range(6)]
    together = thresholds(steady(-100)).quantiles[0]
    assert thresholds(apart).quantiles[0].swing_octaves > 4 * together.swing_octaves


def test_correlation_is_higher_for_a_small_pool() -> None:
    assert thresholds([[0] * 10] * 5).correlation == pytest.approx(0.003 + 2 / 50)


def test_correlation_is_learned_from_how_alike_the_requests_of_a_window_are() -> None:
    alike = (*NO_SWINGS[:18], 2016, 2016 * 2048, 2016 * 409, 2016, 2016, 1008)
    found = thresholds([[0] * 200] * 5, alike)
    assert found.learned_correlation == pytest.approx(0.062, abs=0.002)
    assert found.small is not None
    assert found.correlation == found.small.correlation == found.learned_correlation + 0.002
    assert found.correlations[0] == found.correlation
    assert found.correlations[1] == pytest.approx(0.005)
    first = thresholds([[0] * 200] * 5, alike, Parameters(parts=NO_PARTS))
    assert (first.correlations, first.learned_correlation) == ((0.005,), 0.003)


def test_fast_threshold_mirrors_the_gate_of_the_median() -> None:
    found = thresholds(steady(-100))
    assert found.fast == -100 - (found.quantiles[0].gate - -100)


buckets = st.lists(st.integers(-400, 200), min_size=1, max_size=60)
pools = st.lists(buckets, min_size=3, max_size=8)
some_swings = st.lists(
    st.builds(lambda marks, mean: (marks * mean, marks), st.integers(0, 3000), st.integers(0, 16384)),
    min_size=9,
    max_size=9,
).map(lambda each: (*chain.from_iterable(each), *NO_SWINGS[18:]))


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
    assert (before.small is None) is (after.small is None)
    if before.small is None or after.small is None:
        return
    for old_long, new_long in zip(before.small.long, after.small.long, strict=True):
        assert new_long == old_long._replace(stat=old_long.stat + steps, gate=old_long.gate + steps)
    for old_level, new_level in zip(before.small.level, after.small.level, strict=True):
        assert new_level == (*[bucket + steps for bucket in old_level[:4]], old_level.swing)


@given(pools, some_swings, st.floats(0.5, 5), st.floats(1.1, 4))
def test_thresholds_follow_the_formulas(hours: list[list[int]], swings: Swings, tolerated: float, ratio: float) -> None:
    parameters = Parameters(min_delta_seconds=0.002, swing=tolerated, ratio=ratio)
    naive = NaiveDetector(parameters=parameters)
    pool = [bucket for hour in hours for bucket in hour]
    found = thresholds(hours, swings, parameters)
    prior = 0.01
    for index, (q, threshold) in enumerate(zip(QUANTILES, found.quantiles, strict=True)):
        errors = (48 * prior + swings[2 * index] / 4096) / (48 + swings[2 * index + 1])
        if index == 0:
            prior = max(prior, errors)
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
        expected.append(4096 * max(distance**2 / 8, distance**2 - sampling**2))
    measured = expected if n >= MIN_EVALUATED_TRACES else []
    # A window shared by two marks counts twice.
    reference = Prediction(pool_of(hours), NO_SWINGS, NO_DELTA).reference
    found = measure_hour(reference, [([300, 600], sorted(window), 0)]).swings
    squares, marks = found[:6:2], found[1:6:2]
    assert [square for square, times in zip(squares, marks, strict=True) if times] == [2 * each for each in measured]
    assert set(marks) <= {0, 2}


@given(pools, st.lists(st.integers(0, 4096), min_size=3, max_size=3))
def test_thresholds_are_not_below_their_floors(hours: list[list[int]], squares: list[int]) -> None:
    swings = (*chain.from_iterable((each, 1) for each in squares), *NO_SWINGS[6:])
    prediction = Prediction(pool_of(hours), swings, PARAMETERS)
    floors, found = prediction.floor_thresholds, prediction.thresholds
    for least, threshold in zip(floors.quantiles, found.quantiles, strict=True):
        assert (least.q, least.baseline) == (threshold.q, threshold.baseline)
        assert least.stat <= threshold.stat
        assert least.gate <= threshold.gate
        assert least.clear <= threshold.clear
    assert floors.correlation == found.correlation
    assert floors.fast >= found.fast
    assert all(least <= each.gate for least, each in zip(found.lowest_gates, found.quantiles, strict=True))
    assert all(least <= own for least, own in zip(prediction.lowest_gates, found.lowest_gates, strict=True))


def test_windows_are_compared_with_the_baseline_raised_by_the_pattern() -> None:
    profile = ((0,) * 3 + (32,) + (0,) * 8,) * 3
    prediction = Prediction(pool_of(steady(-100)), NO_SWINGS, NO_DELTA, profile)
    windows = [([300 * (mark + 1)], [-100 + (33 if mark == 3 else 1)] * 40, 300 * mark) for mark in range(12)]
    found = measure_hour(prediction.reference, windows)
    # 11 windows and the one of the pattern deviate by one bucket: four square half buckets each.
    assert found.swings[:4] == (48, 12, 48, 12)
    assert deviations_of(found.deviations, 0) == [1, 1, 1, 33, *[1] * 8]
    assert deviations_of(found.deviations, 2) == [None] * 12


def test_level_is_measured_from_the_sixth_mark_with_known_deviations() -> None:
    prediction = Prediction(pool_of(steady(-100)), NO_SWINGS, NO_DELTA)
    windows = [([300 * (mark + 1)], [-90] * 40, 300 * mark) for mark in range(12)]
    # The level is 7 of the 10 buckets, known from five marks on.
    alone = measure_hour(prediction.reference, windows).swings[12:14]
    assert alone == (7 * 4 * 3**2, 7)
    after = measure_hour(prediction.reference, windows, before=encode_deviations([10] * 12)).swings[12:14]
    assert after == (12 * 4 * 3**2, 12)


def test_half_hours_have_a_swing_of_their_own() -> None:
    too_few = Prediction(pool_of([[-100] * 99] * 5), NO_SWINGS, NO_DELTA)
    assert measure_hour(too_few.reference, [], [[-95] * 30]).swings == NO_SWINGS
    prediction = Prediction(pool_of([[-100] * 100] * 5), NO_SWINGS, NO_DELTA)
    assert measure_hour(prediction.reference, [], [[-95] * 30, [-100] * 9]).swings[6:10] == (4 * 25, 1, 4 * 25, 1)


def test_ladder_expects_the_shares_of_the_pool() -> None:
    hours = [[-100] * 96 + [-60] * 3 + [0]] * 5
    median, p90, p99 = thresholds(hours).quantiles
    assert median.ladder == pytest.approx((0.04, 0.01, 0.01))
    assert p90.ladder == median.ladder
    # Of the pool, nothing lies above 1.4 times the p99 and more; half a trace stands for that.
    assert p99.ladder == pytest.approx((0.01, 0.01, 0.001))


def test_small_shifts_need_enough_traffic() -> None:
    assert Prediction(pool_of([[0] * 39] * 5), NO_SWINGS, NO_DELTA).small is None
    assert Prediction(pool_of([[0] * 200] * 5), NO_SWINGS, Parameters(parts=NO_PARTS)).small is None
    some = Prediction(pool_of([[0] * 40] * 5), NO_SWINGS, NO_DELTA).small
    assert some is not None
    assert (some.long, len(some.level)) == ((), 3)
    assert some.floors is not None
    assert some.floors.gates == tuple(each.least_gate for each in some.level)


def test_few_traces_have_to_rule_out_chance_further_where_there_are_many_windows() -> None:
    for traces, needs_certainty in ((99, False), (100, True)):
        found = thresholds([[-100, -90] * (traces // 2) + [-100] * (traces % 2)] * 5)
        assert found.needs_certainty is needs_certainty
        assert [found.certainty_of(n) for n in (10, 50, 300)] == [0.2 if needs_certainty else 1.0, 1.0, 1.0]
    without = replace(NO_DELTA, parts=ALL_PARTS._replace(certain_firing=False))
    assert not thresholds([[-100, -90] * 60] * 5, parameters=without).needs_certainty
