"""Deviations of an hour by mark: encoding, medians, and counts over many hours."""

from statistics import median_low

from hypothesis import given
from hypothesis import strategies as st

from exporter.model.deviations import (
    MARKS,
    MAX_LANES,
    DeviationCounts,
    compare_medians,
    deviations_of,
    encode_deviations,
    median_deviation,
)

LIMIT = 4
deviations = st.lists(st.none() | st.integers(-200, 200), min_size=MAX_LANES, max_size=MAX_LANES)
few_values = st.lists(st.sampled_from([None, 0, 4, 5, 90]), min_size=MAX_LANES, max_size=MAX_LANES)


@given(deviations)
def test_encoding_round_trip_up_to_four_octaves(some: list[int | None]) -> None:
    encoded = encode_deviations(some)
    clipped = [None if each is None else max(-127, min(127, each)) for each in some]
    for index in range(3):
        assert deviations_of(encoded, index) == clipped[MARKS * index : MARKS * (index + 1)]


def test_unknown_deviations_at_the_end_take_no_bytes() -> None:
    assert encode_deviations([None] * MAX_LANES) == b""
    assert len(encode_deviations([0, None, 3] + [None] * (MAX_LANES - 3))) == 3


@given(st.lists(few_values, max_size=8), st.lists(few_values, max_size=3))
def test_counts_find_the_lanes_whose_median_is_above_the_limit(
    hours: list[list[int | None]], removed: list[list[int | None]]
) -> None:
    encoded = [encode_deviations(each) for each in hours]
    counts = DeviationCounts(LIMIT, encoded[::2])
    for each in encoded[1::2] + [encode_deviations(hour) for hour in removed]:
        counts.add(each)
    for hour in removed:
        counts.subtract(encode_deviations(hour))
    expected = []
    for lane in range(MAX_LANES):
        known = [hour[lane] for hour in hours if hour[lane] is not None]
        found = median_deviation(encoded, lane, 1)
        assert found == (median_low([each for each in known if each is not None]) if known else None)
        if found is not None and found > LIMIT:
            expected.append(lane)
    assert counts.lanes_above() == expected


def test_median_needs_enough_hours() -> None:
    hours = [encode_deviations([20])] * 3
    assert median_deviation(hours, 0, 3) == 20
    assert median_deviation(hours, 0, 4) is None
    assert median_deviation(hours, 1, 1) is None


known_or_not = st.none() | st.integers(-200, 200)


@given(st.lists(known_or_not, max_size=MARKS), st.lists(known_or_not, max_size=MARKS))
def test_medians_of_two_hours_are_compared_mark_by_mark(before: list[int | None], after: list[int | None]) -> None:
    known = [(a > 0, b > 0) for a, b in zip(before, after, strict=False) if a is not None and b is not None]
    found = compare_medians(encode_deviations(before), encode_deviations(after))
    assert found == (len(known), sum(a + b for a, b in known), sum(a != b for a, b in known))
