"""The detector agrees with the reference implementation on every transition and every quarantined hour."""

import random
from collections.abc import Mapping, Sequence

import pytest

from exporter.baseline.levels import FallbackRules
from exporter.detection.detector import Detector
from exporter.detection.flag import FlagEvent
from exporter.detection.parameters import ALL_PARTS, NO_PARTS, Parameters, Parts
from exporter.detection.replay import Replay
from exporter.detection.window import end_second
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram import bucket_of_ns
from tests.support.detection_traffic import MONDAY_HOUR, traffic
from tests.support.naive_detector import NaiveDetector

RULES = FallbackRules(min_samples=30, nearby_min_samples=30, daytype_min_samples=30, global_min_samples=30)


INCIDENTS = {(50.3, 50.8): 6.0, (76.5, 79.0): 3.0, (90.2, 90.3): 10.0}
NIGHTLY = {(24.0 * day + 3, 24.0 * day + 4): 4.0 for day in range(1, 6)}
HOURLY = {(hour, hour + 0.08): 4.0 for hour in range(72)}


@pytest.mark.parametrize(
    ("seed", "days", "per_hour", "incidents", "parts"),
    [
        pytest.param(
            1,
            5,
            40,
            {(50.3, 50.8): 6.0, (76.5, 79.0): 3.0, (90.2, 90.3): 10.0},
            NO_PARTS,
            id="incidents, first method",
        ),
        pytest.param(2, 4, 6, {(60.0, 63.0): 8.0, (85.2, 85.9): 10.0}, ALL_PARTS, id="little traffic"),
        pytest.param(3, 4, 20, {(50.0, 999.0): 2.5}, ALL_PARTS, id="a lasting change"),
        pytest.param(
            4, 9, 12, {(24.0 * day + 3, 24.0 * day + 4): 4.0 for day in range(1, 6)}, ALL_PARTS, id="a nightly batch"
        ),
        pytest.param(
            8, 4, 4, {(50.0, 999.0): 2.5, (40.2, 42.9): 20.0}, ALL_PARTS, id="a lasting change of few requests"
        ),
        pytest.param(5, 2.5, 150, {(50.0, 51.5): 2.0, (54.0, 55.0): 0.3}, ALL_PARTS, id="busy, and faster"),
        pytest.param(6, 3, 40, HOURLY | {(66.2, 66.9): 8.0}, ALL_PARTS, id="an hourly batch"),
        pytest.param(7, 2.4, 220, {(50.0, 51.5): 1.45, (54.0, 55.0): 1.35}, ALL_PARTS, id="small shifts"),
    ],
)
def test_agrees_with_the_reference_implementation(
    seed: int, days: float, per_hour: float, incidents: dict[tuple[float, float], float], parts: Parts
) -> None:
    _agree(traffic(seed, days, per_hour, incidents), days, Parameters(parts=parts))


def test_agrees_on_requests_that_share_durations() -> None:
    made = traffic(9, 4, 40, {(76.5, 79.0): 6.0}, sigma=0.5)
    batched = {
        hour: [(start, requests[number - number % 8][1]) for number, (start, _) in enumerate(requests)]
        for hour, requests in made.items()
    }
    _agree(batched, 4, Parameters())


def test_agrees_on_a_few_slow_requests() -> None:
    made = traffic(11, 2, 150, {(46.0, 46.5): 6.0}, sigma=0.4)
    rng = random.Random(10)
    slower = {
        hour: [(start, took * (12 if 38 <= hour < 41 and rng.random() < 0.05 else 1)) for start, took in requests]
        for hour, requests in made.items()
    }
    with_tail = _agree(slower, 2, Parameters())
    assert with_tail != _agree(slower, 2, Parameters(parts=ALL_PARTS._replace(tail=False)))
    assert any(MONDAY_HOUR + 38 < at / 3600 < MONDAY_HOUR + 41 for at, _ in with_tail)


def test_agrees_on_busy_hours_and_quiet_nights() -> None:
    made = traffic(12, 2.5, 300, {(58.0, 58.5): 1.9}, sigma=0.9)
    by_day = {hour: requests[:: 1 if 8 <= hour % 24 < 20 else 10] for hour, requests in made.items()}
    found = _agree(by_day, 2.5, Parameters())
    assert found != _agree(by_day, 2.5, Parameters(parts=ALL_PARTS._replace(busy_swing=False)))


def _agree(
    made: Mapping[int, Sequence[tuple[int, int]]], days: float, parameters: Parameters
) -> list[tuple[int, bool]]:
    naive = NaiveDetector(RULES, parameters)
    naive.run(
        [
            (end_second(start + took), MONDAY_HOUR + hour, bucket_of_ns(took))
            for hour, requests in made.items()
            for start, took in requests
        ],
        MONDAY_HOUR,
        round(24 * days),
        60,
    )
    clock = HourClock(Calendar())
    replay = Replay(Detector(RULES, parameters, clock), tick_seconds=60)
    for hour, requests in made.items():
        replay.add_hour(clock.hour((MONDAY_HOUR + hour) * 3600), requests)

    assert [(change.at, change.event is FlagEvent.FIRING) for change in replay.changes] == naive.changes
    quarantined = {start // 3600 for start, found in replay.evaluations.items() if found.quarantined}
    assert quarantined == naive.quarantined
    assert [changepoint // 3600 for changepoint, _ in replay.accepted] == naive.changepoints
    assert naive.changes
    return naive.changes
