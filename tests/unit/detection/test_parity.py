"""The detector agrees with the reference implementation on every transition and every quarantined hour."""

import pytest

from exporter.baseline.levels import FallbackRules
from exporter.detection.detector import Detector
from exporter.detection.flag import FlagEvent
from exporter.detection.parameters import Parameters
from exporter.detection.replay import Replay
from exporter.detection.window import end_second
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram import bucket_of_ns
from tests.support.detection_traffic import MONDAY_HOUR, traffic
from tests.support.naive_detector import NaiveDetector

RULES = FallbackRules(min_samples=30, nearby_min_samples=30, daytype_min_samples=30, global_min_samples=30)


@pytest.mark.parametrize(
    ("seed", "days", "per_hour", "incidents"),
    [
        pytest.param(1, 5, 40, {(50.3, 50.8): 6.0, (76.5, 79.0): 3.0, (98.2, 98.3): 10.0}, id="incidents"),
        pytest.param(2, 6, 6, {(60.0, 63.0): 8.0, (110.2, 110.9): 10.0}, id="little traffic"),
        pytest.param(3, 5, 20, {(50.0, 999.0): 2.5}, id="a lasting change"),
        pytest.param(4, 9, 12, {(24.0 * day + 3, 24.0 * day + 4): 4.0 for day in range(2, 9)}, id="a nightly batch"),
        pytest.param(5, 4, 150, {(70.0, 71.5): 2.0, (80.0, 81.0): 0.3}, id="busy, and faster"),
    ],
)
def test_agrees_with_the_reference_implementation(
    seed: int, days: int, per_hour: float, incidents: dict[tuple[float, float], float]
) -> None:
    made = traffic(seed, days, per_hour, incidents)
    parameters = Parameters()
    naive = NaiveDetector(RULES, parameters)
    naive.run(
        [
            (end_second(start + took), MONDAY_HOUR + hour, bucket_of_ns(took))
            for hour, requests in made.items()
            for start, took in requests
        ],
        MONDAY_HOUR,
        24 * days,
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
