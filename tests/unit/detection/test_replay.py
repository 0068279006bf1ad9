"""Replay of single traces: live ticks and evaluation of history."""

from exporter.baseline.levels import FallbackRules
from exporter.detection.detector import Detector
from exporter.detection.flag import FlagEvent
from exporter.detection.parameters import ALL_PARTS, NO_PARTS, Parameters
from exporter.detection.replay import Replay
from exporter.detection.small_shift import ShiftTest
from exporter.model.calendar import Calendar, HourClock
from tests.support.detection_traffic import MONDAY, MONDAY_HOUR, Request, traffic


def replayed(made: dict[int, list[Request]], live_from: int = 0, parameters: Parameters | None = None) -> Replay:
    clock = HourClock(Calendar())
    replay = Replay(Detector(FallbackRules(), parameters or Parameters(), clock))
    for hour, requests in made.items():
        replay.add_hour(clock.hour((MONDAY_HOUR + hour) * 3600), requests, live=hour >= live_from)
    return replay


def test_incident_fires_within_minutes_and_resolves() -> None:
    begin, end = MONDAY + 74.25 * 3600, MONDAY + 75.0 * 3600
    replay = replayed(traffic(1, 4, 240, {(74.25, 75.0): 5.0}), live_from=60)
    firing, resolved = replay.changes
    assert begin + 60 < firing.at < begin + 240
    assert end < resolved.at < end + 360
    assert firing.explanation is not None
    assert resolved.event is FlagEvent.RESOLVED
    assert {start for start, found in replay.evaluations.items() if found.quarantined} >= {MONDAY + 74 * 3600}


def test_hours_that_are_not_live_do_not_tick() -> None:
    assert not replayed(traffic(1, 4, 60, {(74.25, 75.0): 5.0}), live_from=96).changes


def test_batch_of_every_hour_is_a_pattern() -> None:
    batches = {(float(hour), hour + 0.07): 3.0 for hour in range(96)}
    without = replayed(traffic(4, 4, 240, batches, sigma=0.3), 72, Parameters(parts=ALL_PARTS._replace(profile=False)))
    assert len(without.changes) > 8
    assert not replayed(traffic(4, 4, 240, batches, sigma=0.3), 72).changes
    incident = replayed(traffic(4, 4, 240, {(80.9, 81.4): 6.0} | batches, sigma=0.3), 72)
    assert [change.event for change in incident.changes] == [FlagEvent.FIRING, FlagEvent.RESOLVED]


def test_small_lasting_shift_needs_more_than_one_window() -> None:
    made = traffic(7, 2.4, 220, {(50.0, 51.5): 1.45})
    begin = MONDAY + 50 * 3600
    assert not replayed(made, 48, Parameters(ratio=2, parts=NO_PARTS)).changes
    found = replayed(made, 48, Parameters(ratio=2)).changes
    assert found
    assert begin + 120 <= found[0].at < begin + 5400
    assert found[0].explanation is not None
    assert found[0].explanation.test is not ShiftTest.WINDOW


def test_transitions_do_not_depend_on_the_scale_of_durations() -> None:
    made = traffic(2, 4, 30, {(60.0, 61.0): 6.0, (80.0, 80.5): 4.0})
    slower = {
        # Starts move so that every trace ends at the same time with eight times its duration.
        hour: [(start - 7 * took, 8 * took) for start, took in requests]
        for hour, requests in made.items()
    }
    unscaled = replayed(made, parameters=Parameters(min_delta_seconds=0.002))
    scaled = replayed(slower, parameters=Parameters(min_delta_seconds=0.016))
    assert unscaled.changes
    assert [(change.at, change.event) for change in scaled.changes] == [
        (change.at, change.event) for change in unscaled.changes
    ]
    assert scaled.evaluations == unscaled.evaluations


def test_flag_resolves_when_a_lasting_change_is_accepted() -> None:
    replay = replayed(traffic(3, 6, 30, {(75.0, 999.0): 4.0}), live_from=70)
    ((changepoint, accepted_at),) = replay.accepted
    assert MONDAY + 75 * 3600 <= changepoint <= MONDAY + 76 * 3600
    assert accepted_at == changepoint + 24 * 3600
    firing, resolved = replay.changes
    assert firing.at < changepoint + 2400
    assert (resolved.at, resolved.event) == (accepted_at, FlagEvent.RESOLVED)
    assert not any(found.quarantined for start, found in replay.evaluations.items() if start >= changepoint)
