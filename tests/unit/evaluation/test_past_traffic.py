"""Stored traffic is judged by the evaluation of the history, the replay of a series and a backtest, all alike."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from exporter.backtest.recorded_traffic import RecordedTraffic
from exporter.backtest.replay import replay_history
from exporter.backtest.traffic import Requests
from exporter.detection.detector import decode_state
from exporter.detection.flag import FlagEvent, FlagKind
from exporter.detection.traffic.history import TrafficState
from exporter.evaluation.replay import PastStatus, StatusReplay
from exporter.evaluation.stored_source import read_whole_source, sampled_keys
from exporter.metrics.families import SERIES_FAMILIES
from exporter.model.calendar import Calendar, HourClock
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkKind, TimeMark, TimeMarks
from exporter.store import Store, StoredSeries
from tests.support.backtest_traffic import MONDAY
from tests.support.samples import DAY, HOUR, NS, SETTINGS, around, commit_hour, evaluate_history

CLOCK = HourClock(Calendar())
DETECTOR = SETTINGS.detector(CLOCK)
KEYS = [SeriesKey("shop", name) for name in ("pay", "search", "cart")]
END = MONDAY + 5 * DAY
SILENT = range(MONDAY + 106 * HOUR, MONDAY + 108 * HOUR, HOUR)


def filled(silent: list[SeriesKey]) -> Store:
    """Return five days of three endpoints with 60 requests an hour, some of which are silent for two hours."""
    store = Store.in_memory()
    for start in range(MONDAY, END, HOUR):
        commit_hour(store, start, {key: [] if key in silent and start in SILENT else around(0.1, 60) for key in KEYS})
    return store


@pytest.fixture(scope="module")
def one_silent() -> Iterator[Store]:
    store = filled(KEYS[:1])
    yield store
    store.close()


@pytest.fixture(scope="module")
def all_silent() -> Iterator[Store]:
    store = filled(KEYS)
    yield store
    store.close()


def stored(store: Store, key: SeriesKey) -> StoredSeries:
    (found,) = store.history([key], 0, END, marks_from=0)
    return found


def state_of(store: Store, key: SeriesKey) -> TrafficState:
    state = stored(store, key).state
    assert state is not None
    return decode_state(state).traffic


@pytest.fixture(scope="module")
def replayed(one_silent: Store) -> list[PastStatus]:
    """The last day of the silent endpoint."""
    source = read_whole_source(one_silent, DETECTOR, END)
    replay = StatusReplay(SETTINGS, CLOCK, source)
    return list(replay.replay(stored(one_silent, KEYS[0]), MONDAY + 4 * DAY, END, 300))


def test_silent_hours_are_quarantined_for_traffic_only(one_silent: Store) -> None:
    evaluate_history(one_silent, END)
    assert set(state_of(one_silent, KEYS[0]).quarantined) >= set(SILENT)
    assert not any(each.quarantined for each in stored(one_silent, KEYS[0]).evaluations.values())
    for key in KEYS[1:]:
        assert state_of(one_silent, key).quarantined == ()


def test_the_flags_of_the_first_backfill_are_stored(one_silent: Store) -> None:
    evaluate_history(one_silent, END)
    (period,) = one_silent.flag_periods(KEYS[0], MONDAY)
    assert period.kind is FlagKind.TRAFFIC
    assert 0 < period.since - SILENT[0] <= 1800
    assert period.until is not None
    assert 0 < period.until - SILENT[-1] - HOUR <= 1800
    assert one_silent.flag_periods(KEYS[1], MONDAY) == []


def test_evaluation_in_parts_has_the_same_result(one_silent: Store) -> None:
    evaluate_history(one_silent, END)
    whole, periods = state_of(one_silent, KEYS[0]), one_silent.flag_periods(KEYS[0], MONDAY)
    one_silent.delete_evaluations()
    for until in (SILENT[0], SILENT[0] + HOUR, END - HOUR, END):
        evaluate_history(one_silent, until)
    assert state_of(one_silent, KEYS[0]) == whole
    assert one_silent.flag_periods(KEYS[0], MONDAY) == periods


def test_backtest_and_replay_agree_with_each_other(one_silent: Store, replayed: list[PastStatus]) -> None:
    source = read_whole_source(one_silent, DETECTOR, END)
    (period,) = replay_history(stored(one_silent, KEYS[0]), DETECTOR, END, None, source).traffic_periods
    assert replay_history(stored(one_silent, KEYS[1]), DETECTOR, END, None, source).traffic_periods == ()
    firing = {moment.at for moment in replayed if moment.status.of_kind(FlagKind.TRAFFIC).firing}
    assert firing == set(range(period.start, period.end, 300))
    assert 0 < period.start - SILENT[0] <= 1800
    assert 0 < period.end - SILENT[-1] - HOUR <= 1800
    assert (period.kind, period.ongoing) == (FlagKind.TRAFFIC, False)
    assert "no requests in 20 minutes" in str(period.explanation)


def test_source_that_loses_everything_is_no_drop_of_any_endpoint(all_silent: Store) -> None:
    evaluate_history(all_silent, END)
    source = read_whole_source(all_silent, DETECTOR, END)
    assert source.losses
    assert [state_of(all_silent, key).quarantined for key in KEYS] == [()] * len(KEYS)
    assert replay_history(stored(all_silent, KEYS[0]), DETECTOR, END, None, source).traffic_periods == ()


def test_what_people_have_marked_says_nothing_about_the_source(all_silent: Store) -> None:
    mark = TimeMark(MarkKind.EXPECTED, Pattern("shop/(search|cart)"), SILENT[0], SILENT[-1] + HOUR)
    detector = replace(DETECTOR, marks=TimeMarks([mark]))
    source = read_whole_source(all_silent, detector, END)
    assert not source.losses, "a single endpoint is never taken for the source"
    (period,) = replay_history(stored(all_silent, KEYS[0]), detector, END, None, source).traffic_periods
    assert 0 < period.start - SILENT[0] <= 1800
    assert replay_history(stored(all_silent, KEYS[1]), detector, END, None, source).traffic_periods == ()
    series = {}
    for key in KEYS:
        requests = series[key.text] = Requests()
        for start in set(range(MONDAY, END, HOUR)).difference(SILENT):
            for number in range(60):
                requests.add((start + number * 60) * NS, NS // 10)
    recorded = RecordedTraffic(series, detector)
    fired = [change.at for change in recorded.changes(KEYS[0].text, detector.of(KEYS[0])) if change.event == "firing"]
    assert fired == [period.start]
    assert recorded.changes(KEYS[1].text, detector.of(KEYS[1])) == []


def test_replay_has_the_metrics_of_the_page(replayed: list[PastStatus]) -> None:
    values = {
        family.name: [family.value(moment.status) for moment in replayed]
        for family in SERIES_FAMILIES
        if family.name.endswith(("_baseline_traces", "_traffic_ratio"))
    }
    assert len(values) == 2
    ratios = [value for value in values["tempo_anomaly_traffic_ratio"] if value is not None]
    assert min(ratios) == 0
    assert sorted(ratios)[len(ratios) // 2] == pytest.approx(1, abs=0.05)
    usual = [value for value in values["tempo_anomaly_baseline_traces"] if value is not None]
    assert sorted(usual)[len(usual) // 2] == pytest.approx(20, abs=1)


def test_recorded_requests_have_the_same_flags(one_silent: Store) -> None:
    """Of a file: the same requests, as single ones."""
    series = {}
    for key in KEYS:
        requests = series[key.text] = Requests()
        for start in range(MONDAY, END, HOUR):
            if key != KEYS[0] or start not in SILENT:
                for number in range(60):
                    requests.add((start + number * 60) * NS, NS // 10)
    recorded = RecordedTraffic(series, DETECTOR)
    source = read_whole_source(one_silent, DETECTOR, END)
    for key in KEYS[:2]:
        periods = replay_history(stored(one_silent, key), DETECTOR, END, None, source).traffic_periods
        changes = recorded.changes(key.text, DETECTOR.of(key))
        assert [change.at for change in changes if change.event is FlagEvent.FIRING] == [each.start for each in periods]
        assert [change.at for change in changes if change.event is FlagEvent.RESOLVED] == [each.end for each in periods]


def test_sample_is_the_same_in_any_order_and_prefers_series_with_enough_requests() -> None:
    store = Store.in_memory()
    keys = [SeriesKey("shop", f"{number}") for number in range(60)]
    for start in range(MONDAY, MONDAY + 3 * HOUR, HOUR):
        commit_hour(store, start, {key: around(0.1, 14_000 if key == keys[7] else 10) for key in keys[:40]})
    sample = sampled_keys(store, keys, MONDAY + 3 * HOUR)
    assert sample == sampled_keys(store, reversed(keys), MONDAY + 3 * HOUR)
    assert sample[0] == keys[7]
    assert len(sample) == 30
    assert set(sample) <= set(keys[:40])
    store.close()
