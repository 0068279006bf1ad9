"""Lower bounds of the thresholds for small shifts never leave out a window in which the tests are positive."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel
from exporter.detection.parameters import ALL_PARTS, Parameters
from exporter.detection.prediction import Prediction
from exporter.detection.schedule import HourSmallThresholds
from exporter.detection.small_shift import can_be_small_shift, find_small_shift
from exporter.detection.window import RecentTraces
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hour_evaluation import NO_SWINGS
from tests.unit.detection.test_thresholds import pool_of

PARAMETERS = Parameters(min_delta_seconds=0)
HOUR = 1_760_400_000
NOW = HOUR + 9 * MARK_SECONDS
SPREAD = (-8, -5, -3, -2, -1, 0, 1, 2, 3, 5, 8, 12)


def is_found(traces_an_hour: int, shifts: list[int], per_mark: int, *, level: int = 0) -> tuple[bool, bool]:
    """Return whether a small shift is found in the newest window, and whether the bounds allow for one."""
    pool = pool_of([[SPREAD[number % len(SPREAD)] for number in range(traces_an_hour)]] * 5)
    prediction = Prediction(pool, NO_SWINGS, PARAMETERS)
    small, floors = prediction.small, prediction.small_floors
    assert small is not None
    assert floors is not None
    recent = RecentTraces()
    for mark in range(1, 9):
        for number in range(per_mark):
            recent.add(HOUR + mark * MARK_SECONDS, SPREAD[number % len(SPREAD)] + level)
    for number in range(per_mark):
        recent.add(NOW, SPREAD[number % len(SPREAD)] + shifts[number % len(shifts)])
    since = NOW - MARK_SECONDS
    window = [bucket for _, buckets in recent.by_mark(since, NOW) for bucket in buckets]
    long_traces = sum(len(buckets) for _, buckets in recent.by_mark(NOW - 6 * MARK_SECONDS, NOW))
    found = find_small_shift(recent, NOW, since, [HourSmallThresholds(HOUR, small)], PARAMETERS)
    return found is not None, can_be_small_shift(sorted(window), long_traces, floors, PARAMETERS)


@given(
    st.integers(40, 300),
    st.lists(st.integers(-10, 40), min_size=1, max_size=6),
    st.integers(3, 60),
    st.integers(-9, 20),
)
def test_bounds_allow_for_every_small_shift(traces_an_hour: int, shifts: list[int], per_mark: int, level: int) -> None:
    found, possible = is_found(traces_an_hour, shifts, per_mark, level=level)
    assert possible or not found


def test_bounds_separate_a_shift_from_usual_traffic() -> None:
    assert is_found(60, [30], 15) == (True, True)
    assert is_found(60, [0], 15) == (False, False)
    assert is_found(300, [16], 40, level=16) == (True, True)


def test_small_shifts_need_a_baseline_of_the_hour_or_of_those_around_it() -> None:
    pool = pool_of([list(SPREAD) * 25] * 5)
    for level, has_small in zip(FallbackLevel, (True, True, False, False), strict=False):
        prediction = Prediction(pool._replace(level=level), NO_SWINGS, PARAMETERS)
        assert (prediction.has_small, prediction.small is not None) == (has_small, has_small)
        # Their swings are measured all the same, for later hours.
        assert prediction.has_long_window
        assert prediction.has_level
        without = replace(PARAMETERS, parts=ALL_PARTS._replace(near_baselines=False))
        assert Prediction(pool._replace(level=level), NO_SWINGS, without).has_small
