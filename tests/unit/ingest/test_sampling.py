"""The time samples of stretches too dense to be read whole: evenly spread, pseudo-random and reproducible."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.sampling import WHOLE, TimeSample, sample_for
from tests.support.samples import HOUR, NOON

samples = st.builds(TimeSample, st.integers(1, 40), st.one_of(st.integers(1, 300), st.sampled_from([2, 4, 64, 256])))
stretches = st.tuples(st.integers(NOON, NOON + 10_000), st.integers(1, 5000)).map(lambda r: (r[0], r[0] + r[1]))


@given(samples, stretches)
def test_each_stratum_within_a_stretch_has_exactly_one_slice(sample: TimeSample, stretch: tuple[int, int]) -> None:
    start, end = stretch
    stratum = sample.slice_seconds * sample.one_in
    chosen = Counter(first // stratum for first, _ in sample.slices_in(start, end))
    for number in range(-(-start // stratum), end // stratum):
        assert chosen.pop(number) == 1
    # The strata across the two ends have at most one slice each.
    assert all(count == 1 for count in chosen.values()) and len(chosen) <= 2


@given(samples, stretches)
def test_slices_of_any_stretch_consist_of_the_seconds_that_the_sample_includes(
    sample: TimeSample, stretch: tuple[int, int]
) -> None:
    start, end = stretch
    seconds = [second for first, last in sample.slices_in(start, end) for second in range(first, last)]
    assert seconds == [second for second in range(start, end) if sample.includes(second)]


@given(samples, stretches)
def test_sample_of_half_the_share_is_a_subset_of_the_sample(sample: TimeSample, stretch: tuple[int, int]) -> None:
    half = sample._replace(one_in=2 * sample.one_in)
    assert set(half.slices_in(*stretch)) <= set(sample.slices_in(*stretch))


@pytest.mark.parametrize("one_in", [2, 7, 8, 60, 64, 101])
def test_chosen_positions_are_uniform_and_independent_of_the_previous_one(one_in: int) -> None:
    """Otherwise the sample would miss parts of periodic traffic."""
    positions = [first % one_in for first, _ in TimeSample(1, one_in).slices_in(0, 4096 * one_in)]
    expected = 4096 / one_in
    assert len(set(positions)) == one_in
    assert all(abs(count - expected) < 6 * expected**0.5 for count in Counter(positions).values())
    same = sum(one == other for one, other in pairwise(positions))
    assert same / 4096 == pytest.approx(1 / one_in, abs=0.05)


@given(st.floats(1e-6, 3), st.sampled_from([60, 300, 900, HOUR]), st.integers(4, 64))
def test_sample_for_respects_the_maximum_share_and_number_of_slices(
    share: float, seconds: int, max_slices: int
) -> None:
    sample = sample_for(share, seconds, max_slices)
    assert sample.is_whole == (share >= 1)
    assert sample.share <= share
    assert sample.is_whole or 1 / (sample.one_in - 1) > share * 0.999
    if not sample.is_whole:
        assert len(list(sample.slices_in(NOON, NOON + seconds))) <= max_slices + 1


def test_sample_for_an_hour_has_as_many_slices_as_allowed() -> None:
    assert sample_for(0.5, HOUR, 64) == TimeSample(29, 2)
    assert sample_for(0.1, HOUR, 64) == TimeSample(6, 10)
    assert sample_for(1 / 64, HOUR, 64) == TimeSample(1, 64)
    assert sample_for(0.01, HOUR, 64) == TimeSample(1, 100)
    assert sample_for(1.5, HOUR, 64) == WHOLE
