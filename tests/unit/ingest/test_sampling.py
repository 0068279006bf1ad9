"""The seconds that stand for a stretch too dense to be read whole: spread evenly, by chance, and always the same."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.sampling import WHOLE, TimeSample, sample_for
from tests.support.samples import HOUR, NOON

any_slices = st.builds(TimeSample, st.integers(1, 40), st.one_of(st.integers(1, 300), st.sampled_from([2, 4, 64, 256])))
stretches = st.tuples(st.integers(NOON, NOON + 10_000), st.integers(1, 5000)).map(lambda r: (r[0], r[0] + r[1]))


@given(any_slices, stretches)
def test_every_stratum_within_a_stretch_has_its_slice(slices: TimeSample, stretch: tuple[int, int]) -> None:
    start, end = stretch
    stratum = slices.slice_seconds * slices.one_in
    chosen = Counter(first // stratum for first, _ in slices.slices_in(start, end))
    for number in range(-(-start // stratum), end // stratum):
        assert chosen.pop(number) == 1
    # At the ends, what lies beyond them is not read.
    assert all(count == 1 for count in chosen.values()) and len(chosen) <= 2


@given(any_slices, stretches)
def test_a_second_is_chosen_or_not_whoever_asks(slices: TimeSample, stretch: tuple[int, int]) -> None:
    start, end = stretch
    seconds = [second for first, last in slices.slices_in(start, end) for second in range(first, last)]
    assert seconds == [second for second in range(start, end) if slices.includes(second)]


@given(any_slices, stretches)
def test_a_sample_of_half_the_share_is_part_of_the_whole_sample(slices: TimeSample, stretch: tuple[int, int]) -> None:
    half = slices._replace(one_in=2 * slices.one_in)
    assert set(half.slices_in(*stretch)) <= set(slices.slices_in(*stretch))


@pytest.mark.parametrize("of", [2, 7, 8, 60, 64, 101])
def test_over_time_each_second_of_a_stratum_has_its_turn(of: int) -> None:
    """No period of the traffic can hide: where a slice lies is even, and tells nothing of where the next one does."""
    places = [first % of for first, _ in TimeSample(1, of).slices_in(0, 4096 * of)]
    expected = 4096 / of
    assert len(set(places)) == of
    assert all(abs(count - expected) < 6 * expected**0.5 for count in Counter(places).values())
    same = sum(one == other for one, other in pairwise(places))
    assert same / 4096 == pytest.approx(1 / of, abs=0.05)


@given(st.floats(1e-6, 3), st.sampled_from([60, 300, 900, HOUR]), st.integers(4, 64))
def test_sample_for_a_share_read_no_more_than_that_in_no_more_pieces(share: float, stretch: int, most: int) -> None:
    slices = sample_for(share, stretch, most)
    assert slices.is_whole == (share >= 1)
    assert slices.share <= share
    assert slices.is_whole or 1 / (slices.one_in - 1) > share * 0.999
    if not slices.is_whole:
        assert len(list(slices.slices_in(NOON, NOON + stretch))) <= most + 1


def test_in_an_hour_about_every_minute_has_a_slice() -> None:
    assert sample_for(0.5, HOUR, 64) == TimeSample(29, 2)
    assert sample_for(0.1, HOUR, 64) == TimeSample(6, 10)
    assert sample_for(1 / 64, HOUR, 64) == TimeSample(1, 64)
    assert sample_for(0.01, HOUR, 64) == TimeSample(1, 100)
    assert sample_for(1.5, HOUR, 64) == WHOLE
