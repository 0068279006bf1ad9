"""The correlation of exceedances that is learned from how alike the requests of a window are."""

from itertools import combinations
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.likeness import SHARE_UNITS, learned_correlation, likeness, shares_above
from exporter.detection.parameters import CORRELATION, MAX_CORRELATION

WEEK = 7 * 288
HALF = SHARE_UNITS // 2


def sums(unlike: float, apart: float, windows: int = WEEK) -> tuple[int, ...]:
    """Return sums of windows half of which is above the baseline, with a share of unlike pairs, also an hour apart."""
    return (windows, windows * HALF, int(windows * unlike * SHARE_UNITS), windows, windows, int(windows * apart))


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=30), st.integers(-20, 20))
def test_shares_follow_the_definition(window: list[int], limit: int) -> None:
    pairs = list(combinations(window, 2))
    share, unlike = shares_above(sum(bucket > limit for bucket in window), len(window))
    assert share == SHARE_UNITS * sum(bucket > limit for bucket in window) // len(window)
    assert unlike == SHARE_UNITS * sum((a > limit) != (b > limit) for a, b in pairs) // len(pairs)


def test_likeness_of_independent_and_of_equal_values() -> None:
    assert likeness(WEEK, WEEK / 2, WEEK / 2) == 0
    assert likeness(WEEK, WEEK / 2, 0) == pytest.approx(0.977, abs=0.001)
    # Values that are all on one side say nothing about the others.
    assert likeness(WEEK, 0, 0) == likeness(0, 0, 0) == 0
    # Few windows say little.
    assert likeness(12, 6, 0) == pytest.approx(0.2)


def test_requests_that_share_a_value_are_correlated() -> None:
    assert learned_correlation(sums(0, 0.5)) == pytest.approx(0.38, abs=0.01)
    assert learned_correlation(sums(0.1, 0.5)) == pytest.approx(0.062, abs=0.002)


def test_correlation_of_others_is_what_it_was() -> None:
    assert learned_correlation((0,) * 6) == CORRELATION
    assert learned_correlation(sums(0.5, 0.5)) == CORRELATION
    assert learned_correlation(sums(0.44, 0.5)) == CORRELATION


def test_level_that_lasts_for_hours_is_no_correlation() -> None:
    assert learned_correlation(sums(0.1, 0.1)) == CORRELATION
    assert CORRELATION < learned_correlation(sums(0.1, 0.25)) < learned_correlation(sums(0.1, 0.5))


counted = st.integers(0, 5000).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n * SHARE_UNITS), st.integers(0, n * SHARE_UNITS))
)


@given(counted, counted)
def test_correlation_lies_within_its_bounds(within: tuple[int, int, int], apart: tuple[int, int, int]) -> None:
    pairs, above, unlike = apart[0], 2 * apart[1] // SHARE_UNITS, apart[2] // SHARE_UNITS
    found = learned_correlation((*within, pairs, above, unlike))
    assert CORRELATION <= found <= MAX_CORRELATION
    # The same with a shift of the limit to the other side.
    n, share, unlike_share = within
    mirrored = learned_correlation((n, n * SHARE_UNITS - share, unlike_share, pairs, 2 * pairs - above, unlike))
    assert isclose(found, mirrored, rel_tol=1e-6)
