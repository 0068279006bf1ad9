"""Replays of series from requests and from stored history."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.backtest.replay import SeriesReplay, replay_history, replay_requests
from exporter.baseline.levels import FallbackRules
from exporter.detection.detector import Detector
from exporter.detection.explanation import Explanation
from exporter.detection.flag import FlagEvent
from exporter.detection.history import advance
from exporter.detection.parameters import Parameters
from exporter.detection.streams import StreamRules
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.store import Store, StoredSeries
from tests.support import detection_traffic
from tests.support.backtest_traffic import MONDAY, Incident, as_requests, requests, write_history

DETECTOR = Detector(FallbackRules(), Parameters(), HourClock(Calendar()))
KEY = SeriesKey("shop", "GET /pay")
DAYS = 4
INCIDENT = Incident(76.5, 78.0, 6.0)
CHANGE = Incident(60.0, 999.0, 2.5)
NIGHTLY = [Incident(24.0 * day + 3, 24.0 * day + 4, 4.0) for day in range(1, 5)]


def hour(number: float) -> int:
    return int(MONDAY + number * HOUR_SECONDS)


def stored_series(tmp_path: Path, days: int, incidents: list[Incident], per_hour: float = 40) -> StoredSeries:
    path = write_history(tmp_path / "h.db", {KEY: requests(days, per_hour, incidents)}, days)
    with closing(Store.open_readonly(path)) as store:
        (history,) = store.history([KEY], 0, hour(24 * days), marks_from=0)
    return history


def test_incident_in_requests_is_found() -> None:
    traffic = requests(DAYS, incidents=[INCIDENT])
    replay = replay_requests("pay", as_requests(traffic), DETECTOR, learn_seconds=3 * 86_400)
    (period,) = replay.firing_periods
    assert hour(76.5) < period.start < hour(76.5) + 900
    assert hour(78) < period.end < hour(78) + 1800
    assert not period.ongoing
    assert isinstance(period.explanation, Explanation)
    assert period.explanation.current_seconds > 2 * period.explanation.baseline_seconds
    assert set(replay.quarantined) >= {hour(76), hour(77)}
    assert (replay.series, replay.traces, replay.start, replay.end) == ("pay", len(traffic), hour(0), hour(24 * DAYS))
    assert replay.learned_until == traffic[0][0] // 10**9 + 3 * 86_400
    assert replay.evaluated_hours > 48


def test_incident_in_stored_history_is_found(tmp_path: Path) -> None:
    replay = replay_history(stored_series(tmp_path, DAYS, [INCIDENT]), DETECTOR, hour(24 * DAYS))
    (period,) = replay.firing_periods
    assert hour(76.5) < period.start <= hour(77)
    assert hour(78) < period.end <= hour(78.5)
    assert period.explanation is not None
    assert set(replay.quarantined) >= {hour(76), hour(77)}
    assert replay.series == "shop/GET /pay"
    assert replay.step_seconds == pytest.approx(90, rel=0.1)
    # The learning period ends with the first mature baseline.
    assert hour(2) < replay.learned_until < hour(48)


@pytest.mark.parametrize(
    ("days", "incidents"),
    [
        pytest.param(DAYS, [INCIDENT], id="an incident"),
        pytest.param(DAYS, [CHANGE], id="a change that stays"),
        pytest.param(5, NIGHTLY, id="a nightly batch"),
    ],
)
def test_hour_by_hour_gives_the_same_result_as_all_at_once(
    tmp_path: Path, days: int, incidents: list[Incident]
) -> None:
    history = stored_series(tmp_path, days, incidents, per_hour=20)
    until = hour(24 * days)
    replay = replay_history(history, DETECTOR, until)
    progress = advance(DETECTOR, SeriesHours(hours_of(history.windows, DETECTOR.clock)), until)
    assert replay.quarantined == tuple(sorted(h for h, j in progress.evaluations.items() if j.quarantined))
    assert replay.evaluated_hours == len(progress.evaluations)
    assert [accepted_change.since for accepted_change in replay.accepted_changes] == progress.accepted
    assert set(replay.released) == set(progress.released)
    raised = [change for change in progress.changes if change.event is FlagEvent.FIRING]
    assert [(period.start, period.explanation) for period in replay.firing_periods] == [
        (c.at, c.explanation) for c in raised
    ]


def replays(tmp_path: Path, days: int, incidents: list[Incident]) -> list[SeriesReplay]:
    """Replay the same traffic from stored history and from requests."""
    traffic = requests(days, 20, incidents)
    return [
        replay_history(stored_series(tmp_path, days, incidents, per_hour=20), DETECTOR, hour(24 * days)),
        replay_requests("pay", as_requests(traffic), DETECTOR, learn_seconds=2 * 86_400),
    ]


def test_accepted_change_ends_the_firing_period(tmp_path: Path) -> None:
    for replay in replays(tmp_path, DAYS, [CHANGE]):
        (accepted_change,) = replay.accepted_changes
        assert hour(58) <= accepted_change.since <= hour(62)
        assert hour(82) <= accepted_change.accepted_at <= hour(90)
        assert replay.firing_periods
        assert all(period.end <= accepted_change.accepted_at for period in replay.firing_periods)
        assert not any(
            accepted_change.since <= quarantined < accepted_change.accepted_at for quarantined in replay.quarantined
        )
        assert replay.released == ()


def test_recurring_hours_are_released(tmp_path: Path) -> None:
    batches = {hour(incident.start) for incident in NIGHTLY}
    for replay in replays(tmp_path, 5, NIGHTLY):
        assert len(batches & set(replay.released)) >= 3
        assert not set(replay.released) & set(replay.quarantined)
        assert not replay.accepted_changes


def test_firing_period_at_the_end_is_ongoing() -> None:
    traffic = requests(4, incidents=[Incident(95.0, 96.0, 6.0)])
    replay = replay_requests("pay", as_requests(traffic), DETECTOR, learn_seconds=3 * 86_400)
    assert [(period.ongoing, period.end) for period in replay.firing_periods] == [(True, hour(96))]


def test_firing_periods_while_learning_are_left_out() -> None:
    traffic = as_requests(requests(DAYS, incidents=[INCIDENT]))
    replay = replay_requests("pay", traffic, DETECTOR, learn_seconds=84 * HOUR_SECONDS)
    assert replay.firing_periods == ()
    # The incident is quarantined nevertheless.
    assert set(replay.quarantined) >= {hour(76), hour(77)}


def test_learning_period_of_stored_history_can_be_set(tmp_path: Path) -> None:
    history = stored_series(tmp_path, DAYS, [INCIDENT])
    until = hour(24 * DAYS)
    assert replay_history(history, DETECTOR, until, learn_seconds=86_400).learned_until == hour(24)
    assert replay_history(history, DETECTOR, until, learn_seconds=84 * HOUR_SECONDS).firing_periods == ()


def test_incomplete_hour_is_not_evaluated(tmp_path: Path) -> None:
    history = stored_series(tmp_path, 3, [])
    whole = replay_history(history, DETECTOR, hour(72))
    short = replay_history(history, DETECTOR, hour(72) - 1)
    assert short.evaluated_hours == whole.evaluated_hours - 1


def test_order_of_requests_does_not_matter() -> None:
    traffic = requests(3, 20, [Incident(60, 62, 6)])
    one = replay_requests("pay", as_requests(traffic), DETECTOR, learn_seconds=2 * 86_400)
    other = replay_requests("pay", as_requests(traffic[::-1]), DETECTOR, learn_seconds=2 * 86_400)
    assert one == other
    assert one.firing_periods


def test_gap_of_weeks_is_replayed() -> None:
    traffic = requests(2, 20)
    later = [(start_ns + 14 * 86_400 * 10**9, duration_ns) for start_ns, duration_ns in traffic]
    replay = replay_requests("pay", as_requests(traffic + later), DETECTOR, learn_seconds=86_400)
    assert replay.end - replay.start == 16 * 86_400
    assert replay.firing_periods == ()


def test_single_request_is_replayed() -> None:
    replay = replay_requests("pay", as_requests([(MONDAY * 10**9, 1)]), DETECTOR, learn_seconds=0)
    assert (replay.traces, replay.evaluated_hours, replay.firing_periods, replay.step_seconds) == (1, 0, (), 0)


def test_streams_have_no_firing_period_in_requests_and_in_stored_history(tmp_path: Path) -> None:
    made = as_requests(requests(DAYS, incidents=[INCIDENT]))
    assert replay_requests("shop/orders receive", made, DETECTOR, learn_seconds=3 * 86_400).firing_periods == ()
    judged = replace(DETECTOR, streams=StreamRules(requests=(Pattern("receive"),)))
    assert len(replay_requests("shop/orders receive", made, judged, learn_seconds=3 * 86_400).firing_periods) == 1
    stored = stored_series(tmp_path, DAYS, [INCIDENT])
    configured = replace(DETECTOR, streams=StreamRules(streams=(Pattern("^shop/GET /pay$"),)))
    replay = replay_history(stored, configured, hour(24 * DAYS))
    assert (replay.firing_periods, replay.quarantined, replay.evaluated_hours) == ((), (), 0)


def test_periods_in_which_the_error_flag_fired_are_those_of_the_history() -> None:
    incident = {12 * 24 * 8 + mark: 0.4 for mark in range(1, 19)}
    stored = StoredSeries(
        SeriesKey("checkout", "POST /pay"), detection_traffic.windows_with_failures(10, incident), {}, frozenset(), None
    )
    replay = replay_history(stored, DETECTOR, detection_traffic.MONDAY + 10 * 24 * 3600)
    (period,) = replay.error_periods
    assert period.end is not None
    assert 0 <= period.start - (detection_traffic.MONDAY + 8 * 24 * 3600) <= 900
    assert 5400 <= period.end - (detection_traffic.MONDAY + 8 * 24 * 3600) <= 6300
    assert "requests failed" in str(period.explanation)
    assert replay.firing_periods == ()
