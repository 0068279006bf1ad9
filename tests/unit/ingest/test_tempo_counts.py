"""The counts of Tempo: few requests, a plausibility check, and pauses while Tempo does not count."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from exporter.ingest.tempo_counts import TempoCounts
from exporter.model.ledger import Window
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import FailureReason
from exporter.tempo.counts import SpanCounts
from exporter.tempo.errors import TempoError
from tests.support.fakes import KEY, FakeTempo, Recorder, span
from tests.support.samples import HOUR, NOON, Clock, events

OTHER = SeriesKey("checkout", "GET /")


def hour(ago: int) -> Window:
    return Window(NOON - ago * HOUR, NOON - (ago - 1) * HOUR)


def last(hours: int) -> list[Window]:
    """The windows of the last hours, by time."""
    return [hour(ago) for ago in range(hours, 0, -1)]


def traffic(hours: int, per_hour: int = 6) -> list[Span]:
    return [
        span(NOON - ago * HOUR + number * HOUR / per_hour + 0.5, key=KEY if number % 3 else OTHER)
        for ago in range(1, hours + 1)
        for number in range(per_hour)
    ]


class CountsBench:
    def __init__(self, tempo: FakeTempo) -> None:
        self.tempo = tempo
        self.clock = Clock(0)
        self.telemetry = Recorder()
        self.counts = TempoCounts(tempo, self.telemetry, self.clock, get_logger("test"))


def test_one_count_request_covers_a_day() -> None:
    bench = CountsBench(FakeTempo(traffic(30), counting="exact"))
    assert bench.counts.learn([hour(1)], last(30))
    assert bench.tempo.counted == [(NOON - 24 * HOUR, NOON)]
    assert [bench.counts.of(hour(ago)) for ago in (1, 24, 25)] == [6, 6, None]
    assert not bench.counts.learn([hour(5)], last(30))
    assert bench.counts.learn([hour(26), hour(25)], last(30))
    assert len(bench.tempo.counted) == 2
    assert bench.telemetry.source_counts == [True, True]


def test_count_requests_keep_to_the_range_limit_after_one_refusal() -> None:
    bench = CountsBench(FakeTempo(traffic(8), counting="exact", allowed_count_seconds=3 * HOUR))
    assert bench.counts.learn(last(7), last(8))
    assert all(bench.counts.of(window) == 6 for window in last(7))
    assert [end - start for start, end in bench.tempo.counted] == [8 * HOUR, 3 * HOUR, 3 * HOUR, 2 * HOUR]


@pytest.mark.parametrize("shift", [0, 1800, 900])
@pytest.mark.parametrize("seconds", [60, 300, 900, HOUR])
def test_counts_are_exact_for_windows_of_any_length_and_offset(shift: int, seconds: int) -> None:
    """In time zones with half-hour offsets, windows start at half past; windows may also be short."""
    windows = [Window(start, start + seconds) for start in range(NOON + shift, NOON + shift + 4 * seconds, seconds)]
    spans = [span(NOON + shift + second + 0.001) for second in range(0, 4 * seconds, 7)]
    bench = CountsBench(FakeTempo(spans, counting="exact"))
    assert bench.counts.learn(windows, [])
    for window in windows:
        assert bench.counts.of(window) == sum(
            window.start * 10**9 < each.start_ns < window.end * 10**9 for each in spans
        )
    single = CountsBench(FakeTempo(spans, counting="exact"))
    assert single.counts.learn(windows[:1], [])
    assert single.counts.of(windows[0]) == bench.counts.of(windows[0])


@pytest.mark.parametrize("counting", ["empty", "refused"])
def test_missing_counts_are_unknown_and_requested_again_after_a_pause(
    counting: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = CountsBench(FakeTempo(traffic(8), counting=counting))  # type: ignore[arg-type]
    caplog.set_level(logging.INFO)
    for ago in (1, 2, 3):
        assert not bench.counts.learn([hour(ago)], last(8))
        assert bench.counts.of(hour(ago)) is None
        assert bench.counts.by_series(hour(ago)) == {}
        assert bench.counts.verified(hour(ago), 6) is None
    # One request in total, not one for every window.
    assert len(bench.tempo.counted) == 1
    assert bench.telemetry.source_counts == [False]
    assert len(events(caplog)) == 1
    bench.tempo.counting = "exact"
    bench.clock.now = 901.0
    assert bench.counts.learn([hour(1)], [])
    assert bench.telemetry.source_counts == [False, True]


@pytest.mark.parametrize(
    ("reason", "said"), [("connection", "could not be asked"), ("server_error", "everything works without that")]
)
def test_an_unreachable_tempo_is_not_said_to_do_without_counts(
    reason: FailureReason, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    tempo = FakeTempo(traffic(3), counting="exact")

    def failing(*_: Any, **__: Any) -> SpanCounts:
        raise TempoError("failed", reason=reason, retryable=True)

    tempo.count = failing  # type: ignore[method-assign]
    caplog.set_level(logging.INFO)
    assert not CountsBench(tempo).counts.learn([hour(1)], [])
    assert said in caplog.records[-1].getMessage()


def test_pause_between_count_requests_grows_while_tempo_does_not_count() -> None:
    bench = CountsBench(FakeTempo(counting="refused"))
    for minute in range(24 * 60):
        bench.clock.now = 60.0 * minute
        bench.counts.learn([hour(1)], [])
    assert 6 <= len(bench.tempo.counted) <= 9


def test_hour_without_traffic_does_not_report_counts_as_unavailable() -> None:
    bench = CountsBench(FakeTempo(counting="exact"))
    assert not bench.counts.learn([hour(1)], [])
    assert bench.counts.verified(hour(1), 0) is None
    assert bench.telemetry.source_counts == []


def test_by_series_returns_the_count_of_each_endpoint() -> None:
    bench = CountsBench(FakeTempo(traffic(3), counting="exact"))
    bench.counts.learn([hour(2)], [])
    assert bench.counts.by_series(hour(2)) == {KEY: 4, OTHER: 2}


def test_counts_lower_than_what_was_read_are_discarded(caplog: pytest.LogCaptureFixture) -> None:
    bench = CountsBench(FakeTempo(traffic(3, per_hour=1000), counting="exact"))
    caplog.set_level(logging.INFO)
    bench.counts.learn(last(3), [])
    assert bench.counts.verified(hour(1), 990) == 1000
    assert bench.counts.verified(hour(1), 1005) == 1000
    assert bench.counts.verified(hour(2), 1200) is None
    assert bench.counts.of(hour(1)) is None
    assert bench.telemetry.source_counts[-1] is False
    assert events(caplog)[-1] == "counts_unavailable"


def test_count_that_times_out_is_repeated_over_a_shorter_range() -> None:
    tempo = FakeTempo(traffic(24), counting="exact")
    count = tempo.count

    def slow(start: int, end: int, step_seconds: int, **options: Any) -> SpanCounts:
        if end - start > 4 * HOUR:
            tempo.counted.append((start, end))
            raise TempoError("not answered within 15 s", reason="timeout", retryable=True)
        return count(start, end, step_seconds, **options)

    tempo.count = slow  # type: ignore[method-assign]
    bench = CountsBench(tempo)
    assert bench.counts.learn([hour(1)], last(24))
    assert [end - start for start, end in tempo.counted] == [24 * HOUR, 4 * HOUR]
    # Later requests keep to the shorter range.
    assert bench.counts.learn([hour(5)], last(24))
    assert tempo.counted[-1] == (NOON - 8 * HOUR, NOON - 4 * HOUR)
    assert bench.telemetry.source_counts == [True, True]


def test_counts_pause_if_a_request_over_one_hour_times_out() -> None:
    tempo = FakeTempo(traffic(24), counting="exact")

    def slow(start: int, end: int, step_seconds: int, **options: Any) -> SpanCounts:
        tempo.counted.append((start, end))
        raise TempoError("not answered within 15 s", reason="timeout", retryable=True)

    tempo.count = slow  # type: ignore[method-assign]
    bench = CountsBench(tempo)
    assert not bench.counts.learn([hour(1)], last(24))
    assert not bench.counts.learn([hour(2)], last(24))
    assert [end - start for start, end in tempo.counted] == [24 * HOUR, 4 * HOUR, HOUR]
    assert bench.telemetry.source_counts == [False]


def test_renewed_counts_are_as_tempo_counts_now_or_unknown() -> None:
    bench = CountsBench(FakeTempo(traffic(3), counting="exact"))
    assert bench.counts.learn(last(3), ())
    bench.tempo.spans = [*bench.tempo.spans, *traffic(1, per_hour=5)]
    bench.counts.renew([hour(2), hour(1)])
    assert [bench.counts.of(hour(ago)) for ago in (1, 2, 3)] == [11, 6, 6]
    assert bench.tempo.counted[-1] == (NOON - 2 * HOUR, NOON)
    bench.tempo.counting = "refused"
    bench.counts.renew([hour(1)])
    assert [bench.counts.of(hour(ago)) for ago in (1, 2, 3)] == [None, 6, 6]


def test_incomplete_counts_are_unknown(caplog: pytest.LogCaptureFixture) -> None:
    tempo = FakeTempo(traffic(3), counting="exact")
    bench = CountsBench(tempo)
    caplog.set_level(logging.INFO)
    assert bench.counts.learn([hour(1)], [])
    count, incomplete = tempo.count, True

    def cut(start: int, end: int, step_seconds: int, **options: Any) -> SpanCounts:
        return replace(count(start, end, step_seconds, **options), complete=not incomplete)

    tempo.count = cut  # type: ignore[method-assign]
    assert bench.counts.by_series(hour(1)) == {}
    assert not bench.counts.learn([hour(2)], [])
    assert bench.counts.of(hour(2)) is None
    assert events(caplog) == ["counts_unavailable"]
    incomplete = False
    bench.clock.now = 901.0
    assert bench.counts.learn([hour(2)], [])
    assert bench.counts.of(hour(2)) == 6
