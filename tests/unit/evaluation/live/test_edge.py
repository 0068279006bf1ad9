"""Whether the live edge is blind: the pure rule, and a poller whose Tempo finds traces late."""

import logging
from collections.abc import Iterable
from dataclasses import replace

import pytest

from exporter.evaluation.baseline_table import EMPTY_TABLE, BaselineTable, SeriesBaseline
from exporter.evaluation.live.edge import (
    UNKNOWN_EDGE,
    EdgeReading,
    LiveEdge,
    advance_edge,
    expected_traces,
    newest_lag,
)
from exporter.evaluation.settings import PollSettings
from exporter.model.span import SeriesKey, Span
from tests.support.fakes import FakeTempo
from tests.support.samples import HOUR, KEY, NOON, baseline, event_of, events, span, thresholds
from tests.unit.evaluation.live.test_poller import NOW, POLL, Bench

OTHER = SeriesKey("checkout", "POST /pay")


def follow(readings: Iterable[EdgeReading], edge: LiveEdge = UNKNOWN_EDGE) -> list[bool | None]:
    """Return the state after each cycle."""
    states = []
    for reading in readings:
        edge = advance_edge(edge, reading, hold_seconds=30, silence_seconds=3600)
        states.append(edge.blind)
    return states


def cycles(ended: int, expected: float | None, count: int = 4, **more: float | None) -> list[EdgeReading]:
    return [EdgeReading(NOW + 15 * number, ended, expected, **more) for number in range(count)]


class TestRule:
    def test_blind_in_the_third_cycle_with_a_proof(self) -> None:
        readings = cycles(2, 100, newest_at=NOW - 240, lag_seconds=240)
        assert follow(readings) == [None, None, True, True]
        assert follow(readings, LiveEdge(False)) == [False, False, True, True]

    def test_one_proof_counts_until_the_window_has_traffic(self) -> None:
        first, *others = cycles(0, 100, newest_at=NOW - 240)
        assert follow([replace(first, lag_seconds=240), *others]) == [None, None, True, True]
        broken = [replace(first, lag_seconds=240), replace(others[0], ended=3), *others[1:]]
        assert follow(broken)[-1] is False

    def test_without_a_proof_only_an_hour_of_silence_is_blindness(self) -> None:
        assert follow(cycles(0, 100, newest_at=NOW - 1800)) == [False] * 4
        assert follow(cycles(0, 100, newest_at=NOW - 3600)) == [None, None, True, True]
        assert follow(cycles(0, 100)) == [None, None, True, True]

    def test_traffic_is_seen_at_once_and_ends_blindness_in_the_third_cycle(self) -> None:
        assert follow(cycles(3, 100)) == [False] * 4
        assert follow(cycles(3, 100), LiveEdge(True, 240)) == [True, True, False, False]

    @pytest.mark.parametrize("expected", [None, 19.9])
    def test_is_unknown_without_enough_usual_traffic(self, expected: float | None) -> None:
        assert follow(cycles(0, expected)) == [None] * 4
        assert follow(cycles(0, expected), LiveEdge(True)) == [True, True, None, None]

    def test_a_clock_that_is_set_back_starts_the_hold_again(self) -> None:
        dark = cycles(0, 100)
        assert follow([*dark[:2], *(replace(each, at=each.at - 1000) for each in dark)]) == [None] * 4 + [True] * 2


class TestExpectedTraces:
    def test_sums_the_usual_traffic_of_all_series_that_still_exist(self) -> None:
        usual = replace(baseline(), windows=10, count=12_000)
        series = {KEY: SeriesBaseline(NOW, usual), OTHER: SeriesBaseline(NOW - 100, usual)}
        table = BaselineTable(NOON, {**series, SeriesKey("svc", "new"): SeriesBaseline(NOW)})
        assert expected_traces(table, 300, NOW - 200) == 200
        assert expected_traces(table, 300, NOW - 50) == 100

    def test_is_unknown_without_baselines(self) -> None:
        assert expected_traces(EMPTY_TABLE, 300, 0) is None
        assert expected_traces(BaselineTable(NOON), 300, 0) is None


@pytest.mark.parametrize("age", [125, 240, 600, 3500])
def test_the_lag_is_found_with_few_requests(age: int) -> None:
    asked = []

    def exists(start: int, end: int) -> bool:
        asked.append((start, end))
        return start <= NOON - age <= end

    lag = newest_lag(exists, NOON, NOON - 3600, NOON - 120)
    assert lag == pytest.approx(age, rel=0.08, abs=5)
    assert len(asked) <= 11


def test_no_lag_without_a_trace() -> None:
    assert newest_lag(lambda start, end: False, NOON, NOON - 3600, NOON - 120) is None
    assert newest_lag(lambda start, end: True, NOON, NOON - 100, NOON - 120) is None


class LateTempo(FakeTempo):
    """Finds a trace only some time after its end."""

    def __init__(self, spans: list[Span], lag_seconds: float) -> None:
        super().__init__(spans, max_limit=5000)
        self.lag_seconds = lag_seconds
        self.now = NOW

    def _overlapping(self, start: int, end: int, series: frozenset[SeriesKey] = frozenset()) -> list[list[Span]]:
        found = super()._overlapping(start, end, series)
        newest = (self.now - self.lag_seconds) * 1e9
        return [trace for trace in found if all(each.end_ns <= newest for each in trace)]


def late_bench(lag_seconds: float, per_minute: int = 40, settings: PollSettings = POLL) -> Bench:
    """A poller with a usual traffic of some traces a minute, which has gone on for an hour and continues."""
    step = 60 / per_minute
    spans = [span(number, NOW - HOUR + number * step, 0.5) for number in range(120 * per_minute)]
    bench = Bench(LateTempo(spans, lag_seconds), settings)
    usual = replace(baseline(), windows=10, count=600 * per_minute)
    bench.history.series = {KEY: SeriesBaseline(NOW, usual, 0.4, thresholds())}
    return bench


def poll(bench: Bench, after: float = 15) -> None:
    assert isinstance(bench.tempo, LateTempo)
    bench.tempo.now += after
    bench.cycle(after)


class TestPoller:
    def test_traces_found_later_than_the_lookback(self, caplog: pytest.LogCaptureFixture) -> None:
        """The case of bug-cases/03: values of the first reading stood as current for an hour, and nothing said so."""
        caplog.set_level(logging.INFO)
        bench = late_bench(lag_seconds=240)
        poll(bench, after=0)
        assert bench.status().current_p95_seconds is not None
        for _ in range(8):
            poll(bench)
        assert bench.published[-1].edge.blind
        status = bench.status()
        assert (status.current_traces, status.current_p50_seconds, status.current_p95_seconds) == (None, None, None)
        assert (status.score, status.outlier) == (None, None)
        assert status.baseline is not None
        assert bench.published[-1].read_error is None
        assert events(caplog).count("live_edge_blind") == 1
        (record,) = [each for each in caplog.records if event_of(each) == "live_edge_blind"]
        assert "polling.tempo_lookback" in record.getMessage()
        assert bench.published[-1].edge.lag_seconds == pytest.approx(240, abs=30)

    def test_recovers_once_traces_are_found_in_time(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = late_bench(lag_seconds=240)
        poll(bench, after=0)
        for _ in range(8):
            poll(bench)
        assert isinstance(bench.tempo, LateTempo)
        bench.tempo.lag_seconds = 10
        for _ in range(3):
            poll(bench)
        assert bench.published[-1].edge.blind is False
        assert bench.status().current_p95_seconds is not None
        assert events(caplog)[-1] == "live_edge_recovered"

    def test_a_lookback_longer_than_the_evaluation_window_is_no_help_if_traces_come_later(self) -> None:
        bench = late_bench(lag_seconds=400, settings=replace(POLL, lookback_seconds=900.0))
        for number in range(5):
            poll(bench, after=15 if number else 0)
        assert bench.published[-1].edge.blind
        assert bench.published[-1].edge.lag_seconds == pytest.approx(400, abs=30)

    def test_a_gap_in_bursty_traffic_is_not_blindness(self) -> None:
        bench = late_bench(lag_seconds=10)
        bench.tempo.spans = [each for each in bench.tempo.spans if each.end_ns / 1e9 < NOW - 600]
        for number in range(8):
            poll(bench, after=15 if number else 0)
        assert {snapshot.edge.blind for snapshot in bench.published} == {False}
        # One measurement a minute.
        assert len(bench.tempo.probes) == 2

    def test_firing_flag_stays_as_it_is(self) -> None:
        bench = late_bench(lag_seconds=10)
        for number in range(8):
            poll(bench, after=15 if number else 0)
        assert bench.status().shift is True
        since = bench.status().since
        assert isinstance(bench.tempo, LateTempo)
        bench.tempo.lag_seconds = 500
        for _ in range(60):
            poll(bench)
        assert bench.published[-1].edge.blind
        assert (bench.status().shift, bench.status().since) == (True, since)
