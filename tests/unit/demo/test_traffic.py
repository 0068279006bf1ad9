"""Synthetic traffic: reproducible for any division of time, and according to its parameters."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from statistics import NormalDist, fmean, median, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.demo.latency import Bimodal, HeavyTailed, Incident, LatencyShape, Lognormal, WanderingLoad
from exporter.demo.traffic import (
    MAX_DURATION_SECONDS,
    Batch,
    Cron,
    Drift,
    SeriesProfile,
    Surge,
    SyntheticRequest,
    generate_requests,
)

HOUR = 3600
DAY = 24 * HOUR
NS = 1_000_000_000
MONDAY = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp())
SATURDAY = MONDAY + 5 * DAY

SHAPES: list[LatencyShape] = [Lognormal(0.3), Lognormal(1.2), Bimodal(), HeavyTailed()]

profiles = st.builds(
    SeriesProfile,
    rate_per_minute=st.sampled_from([0.05, 0.5, 3.0]),
    base_seconds=st.floats(0.001, 2.0),
    shape=st.sampled_from(SHAPES),
    peak_hour=st.floats(0, 24),
    traffic_swing=st.floats(0, 1),
    weekend_traffic=st.floats(0, 2),
    latency_swing=st.floats(1, 4),
    weekend_latency=st.floats(0.7, 1),
    load_sd=st.sampled_from([0.0, 0.2]),
    load_correlation_minutes=st.floats(5, 120),
    day_sd=st.sampled_from([0.0, 0.05]),
    begins_at=st.sampled_from([-math.inf, MONDAY + 1234.5]),
    gaps=st.sampled_from([(), ((MONDAY + 5000.25, MONDAY + 9000.75),)]),
    surge=st.sampled_from([None, Surge(hour=1)]),
    drift=st.sampled_from([None, Drift(0.01, MONDAY - DAY)]),
    incidents=st.sampled_from([(), (Incident(MONDAY + 3000.5, MONDAY + 8000, 10, 0.1),)]),
)


def durations(profile: SeriesProfile, start: float, end: float, seed: int = 1) -> list[float]:
    return [request.duration_ns / NS for request in generate_requests(profile, start, end, seed)]


def count(profile: SeriesProfile, start: float, end: float, seed: int = 1) -> int:
    return sum(1 for _ in generate_requests(profile, start, end, seed))


def near(expected: float) -> object:
    """Approximate a Poisson count within five standard deviations."""
    return pytest.approx(expected, abs=5 * math.sqrt(expected))


@settings(deadline=None, max_examples=60)
@given(
    profile=profiles,
    cuts=st.lists(st.floats(0, 6 * HOUR), min_size=2, max_size=6).map(sorted),
    seed=st.integers(0, 2**32),
)
def test_requests_do_not_depend_on_the_division_of_time(profile: SeriesProfile, cuts: list[float], seed: int) -> None:
    bounds = [MONDAY + cut for cut in cuts]

    pieces = [request for start, end in pairwise(bounds) for request in generate_requests(profile, start, end, seed)]

    assert pieces == list(generate_requests(profile, bounds[0], bounds[-1], seed))


@settings(deadline=None, max_examples=40)
@given(profile=profiles, start=st.floats(0, 3 * HOUR), length=st.floats(0, 3 * HOUR))
def test_requests_are_in_the_range_and_in_order(profile: SeriesProfile, start: float, length: float) -> None:
    begin, end = MONDAY + start, MONDAY + start + length

    requests = list(generate_requests(profile, begin, end, 1))

    starts = [request.start_ns for request in requests]
    assert starts == sorted(starts)
    assert all(begin * NS <= start_ns < end * NS for start_ns in starts)
    assert all(0 <= request.duration_ns <= MAX_DURATION_SECONDS * NS for request in requests)


def test_seed_changes_the_traffic() -> None:
    profile = SeriesProfile(rate_per_minute=1)

    first, second = (set(generate_requests(profile, MONDAY, MONDAY + DAY, seed)) for seed in (1, 2))

    assert first
    assert not first & second


def test_zero_rate_gives_no_requests() -> None:
    assert count(SeriesProfile(rate_per_minute=0), MONDAY, MONDAY + DAY) == 0


@pytest.mark.parametrize("rate", [0.05, 0.5, 2, 10])
def test_weekday_rate_is_the_mean_rate(rate: float) -> None:
    profile = SeriesProfile(rate_per_minute=rate, traffic_swing=0.7, weekend_traffic=0.2)

    assert count(profile, MONDAY, MONDAY + 5 * DAY) == near(rate * 5 * 24 * 60)


def test_counts_vary_like_a_poisson_process() -> None:
    profile = SeriesProfile(rate_per_minute=2)

    counts = [count(profile, MONDAY + i * 600, MONDAY + (i + 1) * 600) for i in range(300)]

    assert fmean(counts) == pytest.approx(20, rel=0.05)
    assert pstdev(counts) == pytest.approx(math.sqrt(20), rel=0.15)


def test_traffic_follows_the_hour_of_the_day() -> None:
    profile = SeriesProfile(rate_per_minute=20, traffic_swing=0.5, peak_hour=14)

    assert count(profile, MONDAY + 13 * HOUR, MONDAY + 15 * HOUR) == near(1.5 * 20 * 120 * 0.99)
    assert count(profile, MONDAY + 1 * HOUR, MONDAY + 3 * HOUR) == near(0.5 * 20 * 120 * 1.02)


def test_traffic_and_latency_follow_the_day_of_the_week() -> None:
    profile = SeriesProfile(rate_per_minute=5, weekend_traffic=0.5, weekend_latency=0.7)

    assert count(profile, SATURDAY, SATURDAY + 2 * DAY) == near(0.5 * 5 * 2 * 24 * 60)
    weekday, weekend = (
        median(durations(profile, MONDAY, SATURDAY)),
        median(durations(profile, SATURDAY, SATURDAY + DAY)),
    )
    assert weekend / weekday == pytest.approx(0.7, rel=0.03)


def test_weekend_days_can_be_set() -> None:
    profile = SeriesProfile(rate_per_minute=5, weekend_traffic=0.0, weekend=frozenset({0}))

    assert count(profile, MONDAY, MONDAY + DAY) == 0
    assert count(profile, SATURDAY, SATURDAY + DAY) == near(5 * 24 * 60)


def test_traffic_is_limited_to_active_hours() -> None:
    profile = SeriesProfile(rate_per_minute=1, active_hours=frozenset({2, 3}))

    hours = {request.start_ns // NS // HOUR % 24 for request in generate_requests(profile, MONDAY, MONDAY + 2 * DAY, 1)}

    assert hours == {2, 3}


def test_surge_multiplies_traffic_but_not_latency() -> None:
    without_surge = SeriesProfile(rate_per_minute=5)
    with_surge = replace(without_surge, surge=Surge(hour=9))

    for day in range(2):
        nine = MONDAY + day * DAY + 9 * HOUR
        assert count(with_surge, nine, nine + HOUR) == near(10 * 5 * 60)
        assert count(with_surge, nine + HOUR, nine + 2 * HOUR) == near(5 * 60)
        assert median(durations(with_surge, nine, nine + HOUR)) == pytest.approx(0.1, rel=0.05)


def test_surge_can_extend_into_the_next_day() -> None:
    profile = SeriesProfile(rate_per_minute=5, surge=Surge(hour=23, minutes=90))

    assert count(profile, MONDAY + DAY, MONDAY + DAY + 1800) == near(10 * 5 * 30)
    assert count(profile, MONDAY + DAY + 1800, MONDAY + DAY + 3600) == near(5 * 30)


def test_gaps_remove_requests_without_changing_the_rest() -> None:
    without_gaps = SeriesProfile(rate_per_minute=5)
    begin, gap = MONDAY + 1800.5, (MONDAY + 2 * HOUR + 7.25, MONDAY + 4 * HOUR)
    with_gaps = replace(without_gaps, begins_at=begin, gaps=(gap,))

    expected = [
        request
        for request in generate_requests(without_gaps, MONDAY, MONDAY + DAY, 1)
        if request.start_ns >= begin * NS and not gap[0] * NS <= request.start_ns < gap[1] * NS
    ]

    assert list(generate_requests(with_gaps, MONDAY, MONDAY + DAY, 1)) == expected


@pytest.mark.parametrize("sigma", [0.3, 0.6, 0.9, 1.2])
@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_lognormal_durations_have_their_quantiles(sigma: float, q: float) -> None:
    profile = SeriesProfile(rate_per_minute=20, base_seconds=0.2, shape=Lognormal(sigma))

    sample = sorted(durations(profile, MONDAY, MONDAY + DAY))

    expected = 0.2 * math.exp(sigma * NormalDist().inv_cdf(q))
    assert sample[int(q * len(sample))] == pytest.approx(expected, rel=0.06 * sigma / 0.3)


def test_bimodal_durations_are_hits_and_misses() -> None:
    profile = SeriesProfile(
        rate_per_minute=10, base_seconds=0.1, shape=Bimodal(hit_share=0.7, hit_factor=0.1, sigma=0.2)
    )

    sample = durations(profile, MONDAY, MONDAY + DAY)

    hits = [duration for duration in sample if duration < 0.03]
    assert len(hits) / len(sample) == pytest.approx(0.7, abs=0.02)
    assert median(hits) == pytest.approx(0.01, rel=0.03)
    assert median(set(sample) - set(hits)) == pytest.approx(0.1, rel=0.03)


def test_heavy_tail_is_heavier_and_bounded() -> None:
    shape = HeavyTailed(sigma=0.3, tail_share=0.05, tail_index=1.5, longest=50)
    profile = SeriesProfile(rate_per_minute=40, base_seconds=0.1, shape=shape)

    sample = durations(profile, MONDAY, MONDAY + DAY)

    assert median(sample) == pytest.approx(0.1, rel=0.05)
    # P(factor > 10) is the tail's share times 10^-1.5; a lognormal of this sigma never comes that far.
    assert sum(duration > 1.0 for duration in sample) / len(sample) == pytest.approx(0.05 * 10**-1.5, rel=0.4)
    assert max(sample) < 0.1 * 50 * math.exp(0.3 * 5)


def test_latency_follows_the_hour_of_the_day() -> None:
    profile = SeriesProfile(rate_per_minute=20, base_seconds=0.05, latency_swing=4, peak_hour=14)

    assert median(durations(profile, MONDAY + 13.5 * HOUR, MONDAY + 14.5 * HOUR)) == pytest.approx(0.2, rel=0.05)
    assert median(durations(profile, MONDAY + 1.5 * HOUR, MONDAY + 2.5 * HOUR)) == pytest.approx(0.05, rel=0.05)


def test_latency_drifts() -> None:
    profile = SeriesProfile(rate_per_minute=5, base_seconds=0.1, drift=Drift(per_day=0.01, since=MONDAY))

    assert median(durations(profile, MONDAY + 10 * DAY, MONDAY + 11 * DAY)) == pytest.approx(0.1 * 1.01**10.5, rel=0.02)
    assert median(durations(profile, MONDAY - 2 * DAY, MONDAY)) == pytest.approx(0.1, rel=0.02)


def test_days_have_factors_of_their_own() -> None:
    profile = SeriesProfile(rate_per_minute=2, base_seconds=0.1, shape=Lognormal(0.01), day_sd=0.05)

    day_factors = [
        math.log(median(durations(profile, MONDAY + d * DAY, MONDAY + d * DAY + HOUR)) / 0.1) for d in range(150)
    ]

    assert fmean(day_factors) == pytest.approx(0, abs=0.02)
    assert pstdev(day_factors) == pytest.approx(0.05, rel=0.25)


@pytest.mark.parametrize(("sd", "correlation_minutes"), [(0.2, 5.0), (0.1, 30.0), (0.03, 120.0)])
def test_load_has_the_set_deviation_and_correlation(sd: float, correlation_minutes: float) -> None:
    load = WanderingLoad(3, sd, correlation_minutes)
    values = [value for hour in range(4000) for value in load.minutes(hour)]

    lag = round(correlation_minutes)
    correlation = fmean(a * b for a, b in zip(values, values[lag:], strict=False)) / fmean(a * a for a in values)

    assert fmean(values) == pytest.approx(0, abs=0.2 * sd)
    assert pstdev(values) == pytest.approx(sd, rel=0.1)
    assert correlation == pytest.approx(math.exp(-lag / correlation_minutes), abs=0.1)


def test_load_does_not_depend_on_the_order_of_hours() -> None:
    hours = range(100, 130)
    forward, backward = WanderingLoad(3, 0.1, 120), WanderingLoad(3, 0.1, 120)

    assert [forward.minutes(hour) for hour in hours] == [backward.minutes(hour) for hour in reversed(hours)][::-1]


def test_load_is_continuous_between_hours() -> None:
    load = WanderingLoad(3, 0.1, 120)
    jumps = [load.minutes(hour + 1)[0] - load.minutes(hour)[-1] for hour in range(500)]
    steps = [b - a for hour in range(50) for a, b in zip(load.minutes(hour), load.minutes(hour)[1:], strict=False)]

    assert pstdev(jumps) == pytest.approx(pstdev(steps), rel=0.15)


def test_incident_slows_only_its_requests() -> None:
    profile = SeriesProfile(rate_per_minute=5, load_sd=0.1)
    incident = Incident(MONDAY + 1800.5, MONDAY + 2.5 * HOUR, factor=5)

    before = list(generate_requests(profile, MONDAY, MONDAY + 4 * HOUR, 1))
    after = list(generate_requests(replace(profile, incidents=(incident,)), MONDAY, MONDAY + 4 * HOUR, 1))

    assert after == [
        SyntheticRequest(
            r.start_ns, 5 * r.duration_ns if incident.start * NS <= r.start_ns < incident.end * NS else r.duration_ns
        )
        for r in before
    ]


def test_incident_can_affect_a_share_of_requests() -> None:
    profile = SeriesProfile(rate_per_minute=20)
    incident = Incident(MONDAY, MONDAY + 6 * HOUR, factor=10, share=0.1)

    before = durations(profile, MONDAY, MONDAY + 6 * HOUR)
    after = durations(replace(profile, incidents=(incident,)), MONDAY, MONDAY + 6 * HOUR)

    ratios = [b / a for a, b in zip(before, after, strict=True)]
    assert {round(ratio) for ratio in ratios} == {1, 10}
    assert sum(ratio > 5 for ratio in ratios) / len(ratios) == pytest.approx(0.1, abs=0.02)


def test_duration_is_limited() -> None:
    incident = Incident(MONDAY, MONDAY + DAY, factor=10)
    profile = SeriesProfile(rate_per_minute=1, base_seconds=120, incidents=(incident,))

    assert max(durations(profile, MONDAY, MONDAY + DAY)) == MAX_DURATION_SECONDS


@pytest.mark.parametrize(
    "invalid",
    [{"rate_per_minute": -1}, {"base_seconds": 0}, {"traffic_swing": 1.5}, {"latency_swing": 0.5}],
)
def test_invalid_profile_is_rejected(invalid: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        SeriesProfile(**{"rate_per_minute": 1.0, **invalid})  # type: ignore[arg-type]


def test_invalid_load_is_rejected() -> None:
    with pytest.raises(ValueError, match="correlation"):
        WanderingLoad(1, 0.1, 0)


def test_batch_slows_its_minutes_of_every_hour_or_of_one() -> None:
    hourly = SeriesProfile(rate_per_minute=60, shape=Lognormal(0.1), batch=Batch(minute=58, minutes=4, factor=3))
    slow = {(r.start_ns // NS // 60) % 60 for r in generate_requests(hourly, MONDAY, MONDAY + DAY, 1) if r[1] > 2e8}
    assert slow == {58, 59, 0, 1}
    daily = replace(hourly, batch=Batch(minute=30, minutes=4, factor=3, hour=5))
    slow = {(r.start_ns // NS - MONDAY) // 60 for r in generate_requests(daily, MONDAY, MONDAY + DAY, 1) if r[1] > 2e8}
    assert slow == {5 * 60 + minute for minute in range(30, 34)}


def test_cron_has_all_requests_in_runs() -> None:
    profile = SeriesProfile(rate_per_minute=60, base_seconds=0.1, cron=Cron(minute=7, requests=10))
    starts = [r.start_ns / NS for r in generate_requests(profile, MONDAY, MONDAY + DAY, 1)]
    assert len(starts) == near(24 * 10)
    assert {int(start % HOUR) // 60 for start in starts} == {7}
    daily = replace(profile, cron=Cron(minute=7, requests=10, hour=3))
    assert {int(r.start_ns // NS - MONDAY) // HOUR for r in generate_requests(daily, MONDAY, MONDAY + DAY, 1)} == {3}


def test_rhythm_and_holidays_follow_the_local_clock() -> None:
    profile = SeriesProfile(
        rate_per_minute=60, active_hours=frozenset({12}), timezone="Europe/Berlin", weekend_traffic=0.0
    )
    summer = int(datetime(2026, 3, 30, tzinfo=UTC).timestamp())
    for day, hour in ((MONDAY, 11), (summer, 10)):
        assert {(r.start_ns // NS - day) // HOUR for r in generate_requests(profile, day, day + DAY, 1)} == {hour}
    free = replace(profile, holidays=frozenset({MONDAY // DAY}))
    assert not count(free, MONDAY, MONDAY + DAY)


def test_series_with_a_common_load_seed_share_the_load() -> None:
    profile = SeriesProfile(rate_per_minute=60, shape=Lognormal(0.01), load_sd=0.5, load_seed="shared")
    first, second = (median(durations(profile, MONDAY, MONDAY + 60, seed)) for seed in (1, 2))
    assert first == pytest.approx(second, rel=0.02)


def test_incident_of_some_ranks_affects_only_those() -> None:
    plain = SeriesProfile(rate_per_minute=60, shape=Lognormal(0.3))
    tail = replace(plain, incidents=(Incident(MONDAY, MONDAY + HOUR, 5, ranks=(0.98, 1)),))
    pairs = zip(durations(plain, MONDAY, MONDAY + HOUR), durations(tail, MONDAY, MONDAY + HOUR), strict=True)
    changed = [(before, after) for before, after in pairs if before != after]
    assert len(changed) == pytest.approx(0.02 * 3600, rel=0.2)
    assert min(before for before, _ in changed) > sorted(durations(plain, MONDAY, MONDAY + HOUR))[-len(changed) - 1]


def test_ramp_grows_and_a_time_out_is_fixed() -> None:
    plain = SeriesProfile(rate_per_minute=60, shape=Lognormal(0.01))
    ramp = replace(plain, incidents=(Incident(MONDAY, MONDAY + 2 * HOUR, 4, ramp_seconds=HOUR),))
    for minutes, factor in ((30, 2), (60, 4), (90, 4)):
        now = MONDAY + 60 * minutes
        assert median(durations(ramp, now, now + 60)) == pytest.approx(0.1 * factor, rel=0.03)
    stuck = replace(plain, incidents=(Incident(MONDAY, MONDAY + HOUR, 1, 0.05, fixed_seconds=3),))
    assert durations(stuck, MONDAY, MONDAY + HOUR).count(3.0) == pytest.approx(0.05 * 3600, rel=0.3)
