"""Tempo's own counts: asked for cheaply, believed only as far as they can be, and missed by nobody."""

import logging
from typing import Any

import pytest

from exporter.ingest.tempo_counts import TempoCounts
from exporter.model.ledger import Window
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.tempo.counts import SpanCounts
from exporter.tempo.errors import TempoError
from tests.support.fakes import KEY, FakeTempo, Recorder, span
from tests.support.samples import HOUR, NOON, Clock, events

OTHER = SeriesKey("checkout", "GET /")


def hour(ago: int) -> Window:
    return Window(NOON - ago * HOUR, NOON - (ago - 1) * HOUR)


def last(hours: int) -> list[Window]:
    """The last so many hours, by time."""
    return [hour(ago) for ago in range(hours, 0, -1)]


def traffic(hours: int, per_hour: int = 6) -> list[Span]:
    return [
        span(NOON - ago * HOUR + number * HOUR / per_hour + 0.5, key=KEY if number % 3 else OTHER)
        for ago in range(1, hours + 1)
        for number in range(per_hour)
    ]


class Rig:
    def __init__(self, tempo: FakeTempo) -> None:
        self.tempo = tempo
        self.clock = Clock(0)
        self.telemetry = Recorder()
        self.counts = TempoCounts(tempo, self.telemetry, self.clock, get_logger("test"))


def test_one_question_covers_a_day() -> None:
    rig = Rig(FakeTempo(traffic(30), counting="exact"))
    assert rig.counts.learn([hour(1)], last(30))
    assert rig.tempo.counted == [(NOON - 24 * HOUR, NOON)]
    assert [rig.counts.of(hour(ago)) for ago in (1, 24, 25)] == [6, 6, None]
    assert not rig.counts.learn([hour(5)], last(30))
    assert rig.counts.learn([hour(26), hour(25)], last(30))
    assert len(rig.tempo.counted) == 2
    assert rig.telemetry.source_counts == [True, True]


def test_how_long_a_question_may_be_is_learned_from_a_refusal() -> None:
    rig = Rig(FakeTempo(traffic(8), counting="exact", allowed_count_seconds=3 * HOUR))
    assert rig.counts.learn(last(7), last(8))
    assert all(rig.counts.of(window) == 6 for window in last(7))
    assert [end - start for start, end in rig.tempo.counted] == [8 * HOUR, 3 * HOUR, 3 * HOUR, 2 * HOUR]


@pytest.mark.parametrize("shift", [0, 1800, 900])
@pytest.mark.parametrize("seconds", [60, 300, 900, HOUR])
def test_windows_of_any_grid_are_counted_exactly(shift: int, seconds: int) -> None:
    """Half-hour time zones begin their hours at half past, and windows may be short."""
    windows = [Window(start, start + seconds) for start in range(NOON + shift, NOON + shift + 4 * seconds, seconds)]
    spans = [span(NOON + shift + second + 0.001) for second in range(0, 4 * seconds, 7)]
    rig = Rig(FakeTempo(spans, counting="exact"))
    assert rig.counts.learn(windows, [])
    for window in windows:
        assert rig.counts.of(window) == sum(window.start * 10**9 < each.start_ns < window.end * 10**9 for each in spans)
    one = Rig(FakeTempo(spans, counting="exact"))
    assert one.counts.learn(windows[:1], [])
    assert one.counts.of(windows[0]) == rig.counts.of(windows[0])


@pytest.mark.parametrize("how", ["empty", "refused"])
def test_no_answer_is_not_no_traffic(how: str, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(FakeTempo(traffic(8), counting=how))  # type: ignore[arg-type]
    caplog.set_level(logging.INFO)
    for ago in (1, 2, 3):
        assert not rig.counts.learn([hour(ago)], last(8))
        assert rig.counts.of(hour(ago)) is None
        assert rig.counts.by_series(hour(ago)) == {}
        assert rig.counts.verified(hour(ago), 6) is None
    # Asked once, and not again with every window.
    assert len(rig.tempo.counted) == 1
    assert rig.telemetry.source_counts == [False]
    assert len(events(caplog)) == 1
    rig.tempo.counting = "exact"
    rig.clock.now = 901.0
    assert rig.counts.learn([hour(1)], [])
    assert rig.telemetry.source_counts == [False, True]


def test_it_is_asked_less_and_less_often() -> None:
    rig = Rig(FakeTempo(counting="refused"))
    for minute in range(24 * 60):
        rig.clock.now = 60.0 * minute
        rig.counts.learn([hour(1)], [])
    assert 6 <= len(rig.tempo.counted) <= 9


def test_an_hour_without_traffic_says_nothing_about_tempo() -> None:
    rig = Rig(FakeTempo(counting="exact"))
    assert not rig.counts.learn([hour(1)], [])
    assert rig.counts.verified(hour(1), 0) is None
    assert rig.telemetry.source_counts == []


def test_each_endpoint_is_counted_where_it_is_asked_for() -> None:
    rig = Rig(FakeTempo(traffic(3), counting="exact"))
    rig.counts.learn([hour(2)], [])
    assert rig.counts.by_series(hour(2)) == {KEY: 4, OTHER: 2}


def test_counts_of_less_than_was_read_are_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(FakeTempo(traffic(3, per_hour=1000), counting="exact"))
    caplog.set_level(logging.INFO)
    rig.counts.learn(last(3), [])
    assert rig.counts.verified(hour(1), 990) == 1000
    assert rig.counts.verified(hour(1), 1005) == 1000
    assert rig.counts.verified(hour(2), 1200) is None
    assert rig.counts.of(hour(1)) is None
    assert rig.telemetry.source_counts[-1] is False
    assert events(caplog)[-1] == "counts_unavailable"


def test_what_takes_too_long_to_count_is_asked_for_in_parts() -> None:
    tempo = FakeTempo(traffic(24), counting="exact")
    count = tempo.count

    def slow(start: int, end: int, step_seconds: int, **options: Any) -> SpanCounts:
        if end - start > 4 * HOUR:
            tempo.counted.append((start, end))
            raise TempoError("not answered within 15 s", reason="timeout", retryable=True)
        return count(start, end, step_seconds, **options)

    tempo.count = slow  # type: ignore[method-assign]
    rig = Rig(tempo)
    assert rig.counts.learn([hour(1)], last(24))
    assert [end - start for start, end in tempo.counted] == [24 * HOUR, 4 * HOUR]
    # From now on no more is asked for at once.
    assert rig.counts.learn([hour(5)], last(24))
    assert tempo.counted[-1] == (NOON - 8 * HOUR, NOON - 4 * HOUR)
    assert rig.telemetry.source_counts == [True, True]


def test_what_takes_too_long_however_little_is_asked_for_is_left_alone() -> None:
    tempo = FakeTempo(traffic(24), counting="exact")

    def slow(start: int, end: int, step_seconds: int, **options: Any) -> SpanCounts:
        tempo.counted.append((start, end))
        raise TempoError("not answered within 15 s", reason="timeout", retryable=True)

    tempo.count = slow  # type: ignore[method-assign]
    rig = Rig(tempo)
    assert not rig.counts.learn([hour(1)], last(24))
    assert not rig.counts.learn([hour(2)], last(24))
    assert [end - start for start, end in tempo.counted] == [24 * HOUR, 4 * HOUR, HOUR]
    assert rig.telemetry.source_counts == [False]
