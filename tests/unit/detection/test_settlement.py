"""Tests on settled hours, and acceptance of lasting changes."""

import pytest

from exporter.detection.parameters import Parameters
from exporter.detection.prediction import SlowHour
from exporter.detection.settlement import (
    SettledHour,
    accepted_streak,
    extended_run,
    extended_streak,
    is_anomalous,
    is_elevated,
    is_new_baseline,
)
from exporter.detection.thresholds import QuantileThreshold, Thresholds
from exporter.model.histogram import Digest
from exporter.model.hour_evaluation import QUANTILES

PARAMETERS = Parameters()
THRESHOLDS = Thresholds(
    tuple(
        QuantileThreshold(q, baseline, 0.1, stat=baseline + 10, gate=baseline + 16, clear=baseline + 9)
        for q, baseline in zip(QUANTILES, (0, 30, 60), strict=True)
    ),
    0.004,
    -16,
)


@pytest.mark.parametrize(
    ("counts", "anomalous", "elevated"),
    [
        pytest.param({0: 60, 30: 35, 60: 5}, False, False, id="as the baseline"),
        pytest.param({40: 100}, True, True, id="slower"),
        pytest.param({0: 90, 200: 10}, True, True, id="a slow tail"),
        pytest.param({12: 100}, False, True, id="a little slower"),
        pytest.param({-40: 100}, True, False, id="faster"),
        pytest.param({-40: 52, 0: 48}, False, False, id="half of it faster, by chance"),
        pytest.param({40: 2}, False, True, id="too few"),
        pytest.param({0: 40, 17: 45}, False, True, id="slower by chance"),
        pytest.param({0: 3, 200: 2}, False, True, id="too few slow ones"),
    ],
)
def test_hour_is_tested_as_one_window(counts: dict[int, int], anomalous: bool, elevated: bool) -> None:
    digest = Digest(counts)
    assert is_anomalous(digest, THRESHOLDS, PARAMETERS) is anomalous
    assert is_elevated(digest, THRESHOLDS) is elevated


def run_of(pattern: str) -> tuple[SettledHour, ...]:
    """Return the run after hours that are ``A`` anomalous, ``E`` elevated, ``.`` neither, or blank: without traffic."""
    run: tuple[SettledHour, ...] = ()
    for index, kind in enumerate(pattern):
        if kind != " ":
            run = extended_run(run, SettledHour(3600 * index, kind == "A", kind in "AE"))
    return run


def accepted(pattern: str) -> bool:
    return is_new_baseline(run_of(pattern), PARAMETERS)


def test_run_begins_at_an_anomalous_hour_and_ends_after_three_hours_not_elevated() -> None:
    assert run_of("..E..") == ()
    assert [hour.start for hour in run_of("..E.AE.")] == [4 * 3600, 5 * 3600, 6 * 3600]
    assert run_of("AAA..") != ()
    assert run_of("AAA...") == ()
    assert [hour.start for hour in run_of("AAA...A")] == [6 * 3600]


def test_run_is_limited_to_sixty_hours() -> None:
    assert len(run_of("A" * 100)) == 60
    assert run_of("A" + "E" * 100 + "AE")[0].anomalous


@pytest.mark.parametrize(
    ("pattern", "is_accepted"),
    [
        ("A" * 23, False),
        ("A" * 24, True),
        ("AAA" + "E" * 21, True),
        ("AA" + "E" * 22, False),
        ("A" * 23 + ".", False),
        ("A" * 17 + ".A" * 4, True),
        ("AAA" + ".E" * 11, False),
        ("A " * 12, False),
        ("A " * 12 + "A", True),
        ("A  " * 8 + "A", False),
        ("", False),
    ],
)
def test_run_is_accepted_if_old_busy_and_elevated_enough(pattern: str, is_accepted: bool) -> None:
    assert accepted(pattern) is is_accepted


def slow_hours(*slow: int, traces: int = 3, expected: float = 0.3) -> tuple[SlowHour, ...]:
    streak: tuple[SlowHour, ...] = ()
    for number, each in enumerate(slow):
        streak = extended_streak(streak, SlowHour(number * 3600, traces, each, expected))
    return streak


def test_streak_begins_at_a_slow_hour_and_ends_with_a_half_day_that_is_not() -> None:
    assert slow_hours(0, 1) == ()
    assert [hour.start for hour in slow_hours(0, 3, 3, 0)] == [3600, 7200, 10800]
    assert slow_hours(*[3] * 5, *[0] * 7) == ()
    assert len(slow_hours(*[3] * 6, *[0] * 6)) == 12
    assert len(slow_hours(*[3] * 90)) == 60


def test_streak_of_a_day_is_accepted_if_it_is_significant() -> None:
    parameters = Parameters()
    day = slow_hours(*[2] * 24)
    assert accepted_streak(day, 0.004, parameters)
    assert not accepted_streak(slow_hours(*[2] * 23), 0.004, parameters)
    # Half of the traces are expected to be slow, or there are too few of them.
    assert not accepted_streak(slow_hours(*[2] * 24, expected=0.5), 0.004, parameters)
    assert not accepted_streak(slow_hours(*[1] * 24, traces=1, expected=0.01), 0.004, parameters)
    # Traffic in less than half of the hours.
    rare = tuple(hour._replace(start=3 * hour.start, traces=9, slow=9) for hour in slow_hours(*[3] * 9))
    assert not accepted_streak(rare, 0.004, parameters)
    assert accepted_streak(rare, 0.004, Parameters(accept_after_seconds=18 * 3600))


def test_accepted_streak_begins_where_the_change_does() -> None:
    # Before it, half of the traces are slow by chance.
    streak = slow_hours(3, 1, 1, 1, *[3] * 24)
    assert [hour.start for hour in accepted_streak(streak, 0.004, PARAMETERS)][:2] == [4 * 3600, 5 * 3600]


def test_streak_that_is_over_is_not_accepted() -> None:
    streak = slow_hours(*[3] * 24, *[0] * 6)
    assert len(streak) == 30
    assert not accepted_streak(streak, 0.004, PARAMETERS)


def test_traces_of_different_parts_of_the_day_are_independent() -> None:
    # One block of six hours with as many slow traces says less than four.
    spread = slow_hours(*[2] * 24)
    once = tuple(hour._replace(start=hour.start // 24, traces=3) for hour in spread)
    brief = Parameters(accept_after_seconds=3600)
    assert accepted_streak(spread, 0.05, brief)
    assert not accepted_streak(once, 0.05, brief)
