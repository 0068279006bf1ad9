"""Long histories evaluated with arrays: the same results as hour by hour, regardless of what happens in them."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackRules
from exporter.detection.arrays.history import advance_with_arrays
from exporter.detection.arrays.hour_table import HourTable
from exporter.detection.arrays.quiet_hours import QuietHours
from exporter.detection.detector import Detector
from exporter.detection.history import HistoryEvaluation, advance
from exporter.detection.parameters import Parameters
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock, LocalHour
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.series_hour import StoredWindow
from tests.support.detection_traffic import stored
from tests.support.long_histories import is_same
from tests.support.verdicts import BEGIN

DETECTOR = Detector(FallbackRules(), Parameters(), HourClock(Calendar()))
DAYS = 5


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_arrays_find_the_same_as_the_evaluation_by_hour(seed: int) -> None:
    assert is_same(seed, 5_000)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(6, id="surge"),
        pytest.param(52, id="errors-accepted"),
        pytest.param(125, id="windows-of-two-hours-and-look-back-of-four-days"),
        pytest.param(185, id="errors"),
    ],
)
def test_arrays_find_the_same_in_long_histories(seed: int) -> None:
    assert is_same(seed)


def windows(slower: Callable[[float], float] = lambda hour: 1.0, per_hour: float = 40) -> list[StoredWindow]:
    """Requests of some days, which take 0.1 s times a factor by hour."""
    rng = random.Random(1)
    requests = []
    now = 0.0
    while (now := now + rng.expovariate(per_hour)) < DAYS * 24:
        requests.append((int((BEGIN + now * HOUR_SECONDS) * 1e9), int(1e8 * slower(now) * rng.lognormvariate(0, 0.3))))
    return stored(iter(requests), HOUR_SECONDS)


def history(stored_windows: list[StoredWindow]) -> SeriesHours:
    return SeriesHours(hours_of(stored_windows, DETECTOR.clock))


@pytest.mark.parametrize(
    "slower",
    [
        pytest.param(lambda hour: 1.0, id="steady"),
        pytest.param(lambda hour: 3.0 if 70 <= hour < 74 else 1.0, id="incident"),
        pytest.param(lambda hour: 2.0 if hour >= 60 else 1.0, id="accepted"),
        pytest.param(lambda hour: 4.0 if hour % 24 < 0.8 else 1.0, id="daily"),
        pytest.param(lambda hour: 3.0 if hour % 1 < 0.1 else 1.0, id="hourly"),
    ],
)
def test_arrays_find_the_same_where_something_happens(slower: Callable[[float], float]) -> None:
    past, until = windows(slower), BEGIN + DAYS * 24 * HOUR_SECONDS
    by_hour = advance(DETECTOR, history(past), until)
    assert advance_with_arrays(DETECTOR, history(past), until) == by_hour
    assert len(by_hour.evaluations) > 3 * 24


def test_arrays_are_computed_once_where_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    positions, alone = [], []

    class Counted(QuietHours):
        def __init__(self, table: HourTable, detector: Detector, position: int, *rest: Any) -> None:
            positions.append(position)
            super().__init__(table, detector, position, *rest)

    def evaluate_hour(evaluation: HistoryEvaluation, hour: LocalHour) -> None:
        alone.append(hour.start)
        by_hour(evaluation, hour)

    by_hour = HistoryEvaluation._evaluate_hour
    monkeypatch.setattr(HistoryEvaluation, "_evaluate_hour", evaluate_hour)
    monkeypatch.setattr("exporter.detection.arrays.history.QuietHours", Counted)
    advance_with_arrays(DETECTOR, history(windows()), BEGIN + DAYS * 24 * HOUR_SECONDS)
    assert positions == [0]
    # The first hour with a prediction: its windows do not extend into the hour before.
    assert len(alone) == 1


@pytest.mark.parametrize("position", [10, 80])
def test_damage_is_reported_alike(position: int) -> None:
    past = windows()
    past[position] = past[position]._replace(digest=past[position].digest[:-1])
    reasons = []
    for evaluate in (advance, advance_with_arrays):
        with pytest.raises(DamagedDigestError) as caught:
            evaluate(DETECTOR, history(past), BEGIN + DAYS * 24 * HOUR_SECONDS)
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1]
