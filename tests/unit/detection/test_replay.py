"""The replay of single traces: what the exporter would have seen live."""

from exporter.baseline.levels import FallbackRules
from exporter.detection.detector import Detector
from exporter.detection.flag import FlagEvent
from exporter.detection.parameters import Parameters
from exporter.detection.replay import Replay
from exporter.model.calendar import Calendar, HourClock
from tests.support.detection_traffic import MONDAY, MONDAY_HOUR, Request, traffic


def replayed(made: dict[int, list[Request]], live_from: int = 0, parameters: Parameters | None = None) -> Replay:
    clock = HourClock(Calendar())
    replay = Replay(Detector(FallbackRules(), parameters or Parameters(), clock))
    for hour, requests in made.items():
        replay.add_hour(clock.hour((MONDAY_HOUR + hour) * 3600), requests, live=hour >= live_from)
    return replay


def test_an_incident_is_flagged_within_minutes_and_clears() -> None:
    begin, end = MONDAY + 74.25 * 3600, MONDAY + 75.0 * 3600
    replay = replayed(traffic(1, 4, 240, {(74.25, 75.0): 5.0}), live_from=60)
    raised, cleared = replay.changes
    assert begin + 60 < raised.at < begin + 240
    assert end < cleared.at < end + 360
    assert raised.explanation is not None
    assert cleared.event is FlagEvent.RESOLVED
    assert {start for start, found in replay.evaluations.items() if found.quarantined} >= {MONDAY + 74 * 3600}


def test_nobody_watches_while_it_only_learns() -> None:
    assert not replayed(traffic(1, 4, 60, {(74.25, 75.0): 5.0}), live_from=96).changes


def test_verdicts_are_the_same_on_any_scale() -> None:
    made = traffic(2, 4, 30, {(60.0, 61.0): 6.0, (80.0, 80.5): 4.0})
    slower = {
        # Only durations grow: the starts move so that every trace still ends when it did.
        hour: [(start - 7 * took, 8 * took) for start, took in requests]
        for hour, requests in made.items()
    }
    usual = replayed(made, parameters=Parameters(min_delta_seconds=0.002))
    scaled = replayed(slower, parameters=Parameters(min_delta_seconds=0.016))
    assert usual.changes
    assert [(change.at, change.event) for change in scaled.changes] == [
        (change.at, change.event) for change in usual.changes
    ]
    assert scaled.judgements == usual.judgements


def test_a_change_that_stays_clears_when_it_is_accepted() -> None:
    replay = replayed(traffic(3, 6, 30, {(75.0, 999.0): 4.0}), live_from=70)
    ((changepoint, accepted_at),) = replay.accepted
    assert MONDAY + 75 * 3600 <= changepoint <= MONDAY + 76 * 3600
    assert accepted_at == changepoint + 24 * 3600
    raised, cleared = replay.changes
    assert raised.at < changepoint + 2400
    assert (cleared.at, cleared.event) == (accepted_at, FlagEvent.RESOLVED)
    assert not any(found.quarantined for start, found in replay.evaluations.items() if start >= changepoint)
