"""The split of a sequence where its mean rises."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.change_point import ChangePoint, find_change_point


def find(values: list[float], weights: list[float] | None = None) -> ChangePoint | None:
    return find_change_point(values, weights or [1.0] * len(values), least_before=3, least_after=3)


def test_exact_step_is_found_where_it_is() -> None:
    assert find([1.0] * 20 + [2.0] * 10) == ChangePoint(20, 20, 20)


@pytest.mark.parametrize("values", [[1.0] * 30, [2.0] * 15 + [1.0] * 15, [1.0, 2.0, 3.0], []])
def test_without_a_rise_or_with_too_few_values_no_change_is_found(values: list[float]) -> None:
    assert find(values) is None


def test_interval_holds_the_change_about_as_often_as_it_should() -> None:
    rng = random.Random(7)
    inside = widths = 0
    for _ in range(200):
        found = find([rng.gauss(0 if position < 70 else 1.5, 1) for position in range(100)])
        assert found is not None
        inside += found.first <= 70 <= found.last
        widths += found.last - found.first
    assert inside >= 180
    assert widths / 200 < 10


def test_noisier_values_have_a_wider_interval() -> None:
    rng = random.Random(3)
    noise = [rng.gauss(0, 1) for _ in range(100)]
    quiet, loud = (
        find([(position >= 60) * 2.0 + scale * each for position, each in enumerate(noise)]) for scale in (0.2, 1.2)
    )
    assert quiet is not None
    assert loud is not None
    assert quiet.last - quiet.first <= loud.last - loud.first
    assert quiet.best == 60


@given(
    st.lists(st.integers(-50, 50).map(float), min_size=6, max_size=40),
    st.integers(-100, 100),
    st.sampled_from((0.25, 0.5, 2.0, 8.0)),
)
def test_level_scale_and_weight_of_all_values_change_nothing(values: list[float], level: int, scale: float) -> None:
    found = find(values)
    assert found is None or found.first <= found.best <= found.last
    # Powers of two are exact.
    assert find([scale * value for value in values]) == found
    assert find(values, [4.0] * len(values)) == found
    moved = find([value + level for value in values])
    assert (moved is None) == (found is None)
