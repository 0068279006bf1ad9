"""Series replayed from single requests and from stored history."""

from pathlib import Path

import pytest

from exporter.backtest.replay import SeriesReplay, replay_history, replay_requests
from exporter.baseline.levels import FallbackRules
from exporter.detection.detector import Detector
from exporter.detection.flag import FlagEvent
from exporter.detection.history import advance
from exporter.detection.parameters import Parameters
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.span import SeriesKey
from exporter.store import Store, StoredSeries
from tests.support.backtest_traffic import MONDAY, Incident, as_requests, requests, write_history

DETECTOR = Detector(FallbackRules(), Parameters(), HourClock(Calendar()))
KEY = SeriesKey("shop", "GET /pay")
DAYS = 4
INCIDENT = Incident(76.5, 78.0, 6.0)
A_CHANGE = Incident(60.0, 999.0, 2.5)
NIGHTLY = [Incident(24.0 * day + 3, 24.0 * day + 4, 4.0) for day in range(1, 5)]


def hour(number: float) -> int:
    return int(MONDAY + number * HOUR_SECONDS)


def stored(tmp_path: Path, days: int, incidents: list[Incident], per_hour: float = 40) -> StoredSeries:
    path = write_history(tmp_path / "h.db", {KEY: requests(days, per_hour, incidents)}, days)
    opened = Store.open_readonly(path)
    (history,) = opened.history([KEY], 0, hour(24 * days), marks_from=0)
    opened.close()
    return history


def test_finds_an_incident_in_requests() -> None:
    made = requests(DAYS, incidents=[INCIDENT])
    found = replay_requests("pay", as_requests(made), DETECTOR, learn_seconds=3 * 86_400)
    (alert,) = found.alerts
    assert hour(76.5) < alert.start < hour(76.5) + 900
    assert hour(78) < alert.end < hour(78) + 1800
    assert not alert.ongoing
    assert alert.explanation is not None
    assert alert.explanation.current_seconds > 2 * alert.explanation.baseline_seconds
    assert set(found.quarantined) >= {hour(76), hour(77)}
    assert (found.series, found.traces, found.start, found.end) == ("pay", len(made), hour(0), hour(24 * DAYS))
    assert found.counts_from == made[0][0] // 10**9 + 3 * 86_400
    assert found.judged_hours > 48


def test_finds_an_incident_in_stored_history(tmp_path: Path) -> None:
    found = replay_history(stored(tmp_path, DAYS, [INCIDENT]), DETECTOR, hour(24 * DAYS))
    (alert,) = found.alerts
    assert hour(76.5) < alert.start <= hour(77)
    assert hour(78) < alert.end <= hour(78.5)
    assert alert.explanation is not None
    assert set(found.quarantined) >= {hour(76), hour(77)}
    assert found.series == "shop/GET /pay"
    assert found.step_seconds == pytest.approx(90, rel=0.1)
    # Learning was over once there was a baseline, and no sooner.
    assert hour(2) < found.counts_from < hour(48)


@pytest.mark.parametrize(
    ("days", "incidents"),
    [
        pytest.param(DAYS, [INCIDENT], id="an incident"),
        pytest.param(DAYS, [A_CHANGE], id="a change that stays"),
        pytest.param(5, NIGHTLY, id="a nightly batch"),
    ],
)
def test_hour_by_hour_judges_as_all_at_once(tmp_path: Path, days: int, incidents: list[Incident]) -> None:
    history = stored(tmp_path, days, incidents, per_hour=20)
    until = hour(24 * days)
    found = replay_history(history, DETECTOR, until)
    progress = advance(DETECTOR, SeriesHours(hours_of(history.windows, DETECTOR.clock)), until)
    assert found.quarantined == tuple(sorted(h for h, j in progress.evaluations.items() if j.quarantined))
    assert found.judged_hours == len(progress.evaluations)
    assert [accepted.since for accepted in found.accepted] == progress.accepted
    assert set(found.released) == set(progress.released)
    raised = [change for change in progress.changes if change.event is FlagEvent.FIRING]
    assert [(alert.start, alert.explanation) for alert in found.alerts] == [(c.at, c.explanation) for c in raised]


def replays(tmp_path: Path, days: int, incidents: list[Incident]) -> list[SeriesReplay]:
    """The same traffic, replayed from what is stored of it and from its requests."""
    made = requests(days, 20, incidents)
    return [
        replay_history(stored(tmp_path, days, incidents, per_hour=20), DETECTOR, hour(24 * days)),
        replay_requests("pay", as_requests(made), DETECTOR, learn_seconds=2 * 86_400),
    ]


def test_a_change_that_stays_ends_the_alert_when_it_is_accepted(tmp_path: Path) -> None:
    for found in replays(tmp_path, DAYS, [A_CHANGE]):
        (accepted,) = found.accepted
        assert hour(58) <= accepted.since <= hour(62)
        assert hour(82) <= accepted.at <= hour(90)
        assert found.alerts
        assert all(alert.end <= accepted.at for alert in found.alerts)
        assert not any(accepted.since <= quarantined < accepted.at for quarantined in found.quarantined)
        assert found.released == ()


def test_a_pattern_is_released(tmp_path: Path) -> None:
    batches = {hour(incident.start) for incident in NIGHTLY}
    for found in replays(tmp_path, 5, NIGHTLY):
        assert len(batches & set(found.released)) >= 3
        assert not set(found.released) & set(found.quarantined)
        assert not found.accepted


def test_an_alert_that_has_not_ended_says_so() -> None:
    made = requests(4, incidents=[Incident(95.0, 96.0, 6.0)])
    found = replay_requests("pay", as_requests(made), DETECTOR, learn_seconds=3 * 86_400)
    assert [(alert.ongoing, alert.end) for alert in found.alerts] == [(True, hour(96))]


def test_nothing_counts_while_learning() -> None:
    made = as_requests(requests(DAYS, incidents=[INCIDENT]))
    found = replay_requests("pay", made, DETECTOR, learn_seconds=84 * HOUR_SECONDS)
    assert found.alerts == ()
    # It is kept out of the baseline all the same.
    assert set(found.quarantined) >= {hour(76), hour(77)}


def test_learning_of_stored_history_can_be_set(tmp_path: Path) -> None:
    history = stored(tmp_path, DAYS, [INCIDENT])
    until = hour(24 * DAYS)
    assert replay_history(history, DETECTOR, until, learn_seconds=86_400).counts_from == hour(24)
    assert replay_history(history, DETECTOR, until, learn_seconds=84 * HOUR_SECONDS).alerts == ()


def test_an_hour_that_is_not_over_is_not_judged(tmp_path: Path) -> None:
    history = stored(tmp_path, 3, [])
    whole = replay_history(history, DETECTOR, hour(72))
    short = replay_history(history, DETECTOR, hour(72) - 1)
    assert short.judged_hours == whole.judged_hours - 1


def test_the_order_of_requests_does_not_matter() -> None:
    made = requests(3, 20, [Incident(60, 62, 6)])
    one = replay_requests("pay", as_requests(made), DETECTOR, learn_seconds=2 * 86_400)
    other = replay_requests("pay", as_requests(made[::-1]), DETECTOR, learn_seconds=2 * 86_400)
    assert one == other
    assert one.alerts


def test_a_gap_of_weeks_is_gone_through() -> None:
    made = requests(2, 20)
    later = [(start_ns + 14 * 86_400 * 10**9, duration_ns) for start_ns, duration_ns in made]
    found = replay_requests("pay", as_requests(made + later), DETECTOR, learn_seconds=86_400)
    assert found.end - found.start == 16 * 86_400
    assert found.alerts == ()


def test_a_single_request_is_a_series() -> None:
    found = replay_requests("pay", as_requests([(MONDAY * 10**9, 1)]), DETECTOR, learn_seconds=0)
    assert (found.traces, found.judged_hours, found.alerts, found.step_seconds) == (1, 0, (), 0)
