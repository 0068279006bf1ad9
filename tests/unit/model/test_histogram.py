"""Digest: quantiles, counts and merging agree with the samples to within a bucket."""

from bisect import bisect_left
from collections import Counter
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.histogram import (
    HIGHEST_BUCKET,
    ZERO_BUCKET,
    Digest,
    bucket_middle_seconds,
    bucket_of_ns,
    bucket_of_seconds,
    bucket_upper_seconds,
)

NS = 1_000_000_000
DAY_NS = 24 * 3600 * NS
LONGEST_NS = 2**63 - 1
BUCKETS = range(-957, HIGHEST_BUCKET)

# Spread over all magnitudes; uniform integers would nearly all be days.
any_duration_ns = st.one_of(
    st.just(0),
    st.integers(0, 63).flatmap(lambda bits: st.integers(2**bits // 2, 2**bits - 1)),
    st.integers(1, 30 * DAY_NS),
)
samples = st.lists(any_duration_ns, max_size=60)
some_samples = st.lists(any_duration_ns, min_size=1, max_size=60)
percents = st.integers(0, 100)


def nearest_rank(durations_ns: list[int], percent: int) -> int:
    """Return the sample of rank max(1, ceil(q n)), computed without floating point."""
    rank = max(1, ceil(Fraction(percent, 100) * len(durations_ns)))
    return sorted(durations_ns)[rank - 1]


@given(some_samples, percents)
def test_quantile_seconds_is_within_1_percent_of_the_sample_of_its_rank(durations_ns: list[int], percent: int) -> None:
    exact = nearest_rank(durations_ns, percent) / NS
    assert Digest.of_ns(durations_ns).quantile_seconds(percent / 100) == pytest.approx(exact, rel=0.011, abs=0)


@given(some_samples, percents)
def test_quantile_bucket_is_the_bucket_of_the_sample_of_its_rank(durations_ns: list[int], percent: int) -> None:
    bucket = Digest.of_ns(durations_ns).quantile_bucket(percent / 100)
    assert bucket == bucket_of_ns(nearest_rank(durations_ns, percent))


def test_durations_of_zero_have_their_own_bucket() -> None:
    digest = Digest.of_ns([0, 0, 0, NS])
    assert digest.quantile_seconds(0.5) == 0.0
    assert digest.quantile_seconds(0.75) == 0.0
    assert digest.quantile_seconds(0.76) == pytest.approx(1, rel=0.011)
    assert digest.mad_seconds() == 0.0
    assert bucket_of_ns(0) == bucket_of_seconds(0) == ZERO_BUCKET
    assert bucket_upper_seconds(ZERO_BUCKET) == bucket_middle_seconds(ZERO_BUCKET) == 0.0


@given(any_duration_ns)
def test_duration_lies_within_the_bounds_of_its_bucket(duration_ns: int) -> None:
    bucket = bucket_of_ns(duration_ns)
    if duration_ns == 0:
        assert bucket == ZERO_BUCKET
        return
    seconds = duration_ns / NS
    assert ZERO_BUCKET < bucket <= HIGHEST_BUCKET
    assert bucket_upper_seconds(bucket - 1) <= seconds * (1 + 1e-10)
    assert seconds <= bucket_upper_seconds(bucket) * (1 + 1e-10)


@given(any_duration_ns, any_duration_ns)
def test_buckets_are_monotonic(one: int, other: int) -> None:
    assert bucket_of_ns(min(one, other)) <= bucket_of_ns(max(one, other))


@pytest.mark.parametrize("octave", range(-4, 18))
def test_power_of_two_is_the_inclusive_upper_bound_of_its_bucket(octave: int) -> None:
    bound = 32 * octave - 1
    assert bucket_upper_seconds(bound) == 2.0**octave
    assert bucket_of_seconds(2.0**octave) == bound
    exact_ns = Fraction(2) ** octave * NS
    assert exact_ns.denominator == 1
    assert bucket_of_ns(int(exact_ns)) == bound
    slightly_more = exact_ns * (1 + Fraction(1, 1_000_000_000))
    assert bucket_of_ns(ceil(slightly_more)) == bound + 1


@given(st.sampled_from(BUCKETS))
def test_upper_bound_and_middle_of_a_bucket_lie_in_it(bucket: int) -> None:
    assert bucket_of_seconds(bucket_upper_seconds(bucket)) == bucket
    assert bucket_of_seconds(bucket_middle_seconds(bucket)) == bucket
    assert bucket_upper_seconds(bucket - 1) < bucket_middle_seconds(bucket) < bucket_upper_seconds(bucket)


@given(any_duration_ns, st.floats(0, 1e9))
def test_samples_in_higher_buckets_exceed_the_threshold(duration_ns: int, seconds: float) -> None:
    if bucket_of_ns(duration_ns) > bucket_of_seconds(seconds):
        assert duration_ns / NS > seconds


@given(st.lists(samples, max_size=5))
def test_pool_is_the_digest_of_all_samples(parts: list[list[int]]) -> None:
    pooled = Digest.pool(Digest.of_ns(part) for part in parts)
    assert pooled == Digest.of_ns([duration for part in parts for duration in part])
    assert pooled.count == sum(map(len, parts))


@given(samples, samples, samples)
def test_pool_is_associative_and_commutative(one: list[int], two: list[int], three: list[int]) -> None:
    a, b, c = map(Digest.of_ns, (one, two, three))
    assert Digest.pool([Digest.pool([a, b]), c]) == Digest.pool([a, Digest.pool([b, c])])
    assert Digest.pool([a, b]) == Digest.pool([b, a])
    assert Digest.pool([a, Digest({})]) == a


@given(samples, st.one_of(st.integers(-1100, 1200), any_duration_ns.map(bucket_of_ns)))
def test_count_above_counts_samples_in_higher_buckets(durations_ns: list[int], bucket: int) -> None:
    expected = sum(bucket_of_ns(duration) > bucket for duration in durations_ns)
    assert Digest.of_ns(durations_ns).count_above(bucket) == expected


@given(some_samples)
def test_mad_is_that_of_the_samples_at_the_middles_of_their_buckets(durations_ns: list[int]) -> None:
    digest = Digest.of_ns(durations_ns)
    middles = sorted(bucket_middle_seconds(bucket_of_ns(duration)) for duration in durations_ns)
    half = ceil(Fraction(len(middles), 2)) - 1
    deviations = sorted(abs(middle - middles[half]) for middle in middles)
    assert digest.mad_seconds() == deviations[half]


@given(samples)
def test_iteration_yields_counts_in_ascending_order_of_buckets(durations_ns: list[int]) -> None:
    digest = Digest.of_ns(durations_ns)
    entries = list(digest)
    assert entries == sorted(Counter(map(bucket_of_ns, durations_ns)).items())
    assert Digest(dict(entries)) == Digest.of_ascending(dict(entries)) == digest
    assert Digest.of_ascending(dict(entries)).count == digest.count
    assert hash(Digest(dict(entries))) == hash(digest)
    assert bool(digest) is bool(durations_ns)


def test_digests_are_equal_if_their_counts_are() -> None:
    assert Digest({1: 2}) != Digest({1: 3})
    assert Digest({1: 2}) != Digest({2: 2})
    assert Digest({1: 2}) != {1: 2}
    assert Digest({1: 2, 3: 0}) == Digest({1: 2})
    assert repr(Digest({1: 2})) == "Digest({1: 2})"


def test_empty_digest_has_no_quantiles() -> None:
    empty = Digest({})
    assert (empty.count, list(empty), empty.count_above(0)) == (0, [], 0)
    with pytest.raises(ValueError, match="empty"):
        empty.quantile_seconds(0.5)
    with pytest.raises(ValueError, match="empty"):
        empty.mad_seconds()


def test_rank_is_exact_with_many_samples() -> None:
    """Where q n is an integer, rounding of the product must not move the rank to the next sample."""
    for percent in range(1, 100):
        for count in (100, 700, 1_000_000):
            below = count * percent // 100
            assert Digest({0: below, 1: count - below}).quantile_bucket(percent / 100) == 0
            assert Digest({0: below - 1, 1: count - below + 1}).quantile_bucket(percent / 100) == 1


def test_buckets_are_those_of_the_exponential_histogram_at_scale_5() -> None:
    """Compare with independently computed bounds: 32 to an octave, upper bounds inclusive."""
    bounds = [2 ** (index / 32) for index in range(-320, 320)]
    for milliseconds in (2, 3, 10, 33, 100, 250, 999, 1001, 7777, 100_000):
        seconds = milliseconds / 1000
        assert bucket_of_seconds(seconds) == bisect_left(bounds, seconds) - 320 - 1
        assert bucket_of_ns(milliseconds * 1_000_000) == bucket_of_seconds(seconds)


@pytest.mark.parametrize("duration_ns", [LONGEST_NS, LONGEST_NS - 1])
def test_longest_64_bit_duration_has_a_bucket(duration_ns: int) -> None:
    assert bucket_of_ns(duration_ns) <= HIGHEST_BUCKET
