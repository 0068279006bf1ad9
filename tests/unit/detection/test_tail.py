"""Tail probability of the beta-binomial distribution, compared with exact enumeration."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.significance import tail_probability
from tests.support.naive_detector import beta_binomial_tail


@given(
    st.integers(1, 25).flatmap(lambda n: st.tuples(st.integers(0, n + 1), st.just(n))),
    st.integers(1, 99),
    st.integers(2, 1000),
)
def test_equals_exact_enumeration(counts: tuple[int, int], percent: int, inverse_correlation: int) -> None:
    k, n = counts
    p, correlation = Fraction(percent, 100), Fraction(1, inverse_correlation)
    exact = beta_binomial_tail(k, n, p, correlation)
    assert tail_probability(k, n, float(p), float(correlation)) == pytest.approx(float(exact), rel=1e-9, abs=1e-300)


def test_approaches_the_binomial_for_small_correlation() -> None:
    binomial = sum(comb(20, j) * 0.1**j * 0.9 ** (20 - j) for j in range(6, 21))
    assert tail_probability(6, 20, 0.1, 1e-7) == pytest.approx(binomial, rel=1e-4)


def test_correlation_increases_the_tail() -> None:
    assert tail_probability(12, 40, 0.1, 0.003) < tail_probability(12, 40, 0.1, 0.05)


@given(st.integers(1, 300), st.integers(1, 20), st.sampled_from([0.5, 0.1, 0.01]))
def test_large_windows_are_scaled_down_to_the_cap(k: int, factor: int, p: float) -> None:
    assert tail_probability(k * factor, 300 * factor, p, 0.003) == tail_probability(k, 300, p, 0.003)


def test_scaled_count_is_rounded_up() -> None:
    # 301 of 1,000 is 90.3 of 300.
    assert tail_probability(301, 1000, 0.1, 0.003) == tail_probability(91, 300, 0.1, 0.003)


@given(st.integers(1, 600), st.data())
def test_tail_decreases_with_the_number_of_exceedances(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    p = data.draw(st.sampled_from([0.5, 0.1, 0.01]))
    rounding = 1 + 1e-9
    assert tail_probability(k + 1, n, p, 0.01) <= tail_probability(k, n, p, 0.01) * rounding


def test_certain_and_impossible_counts() -> None:
    assert tail_probability(0, 10, 0.5, 0.01) == 1.0
    assert tail_probability(11, 10, 0.5, 0.01) == 0.0
