import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from exporter.detection.flag import Flag
from exporter.evaluation.baseline_table import NOT_KNOWN_YET, BaselineTable, SeriesBaseline
from exporter.evaluation.live import LiveEvaluator
from exporter.evaluation.poller import Poller, PollSettings
from exporter.evaluation.snapshot import HistoryFacts, SeriesStatus, Snapshot
from exporter.ingest.exact_reader import Budget
from exporter.ingest.live_reader import LiveReader
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.tempo.errors import StoppedError, TempoError
from tests.support.fakes import FakeTempo, Recorder
from tests.support.samples import HOUR, KEY, NOON, SETTINGS, Clock, baseline, event_of, events, span, thresholds

NOW = NOON + 1800.0
POLL = PollSettings(
    interval_seconds=15.0, lookback_seconds=120.0, window_seconds=300.0, max_window_seconds=3600.0,
    affordable_traces=50_000, budget=Budget(20_000, 50),
)  # fmt: skip
FACTS = HistoryFacts(windows=7, traces=70)


@dataclass
class History:
    """One book for each hour, and what was to be remembered."""

    series: Mapping[SeriesKey, SeriesBaseline]
    remembered: list[tuple[Mapping[SeriesKey, Flag], Mapping[SeriesKey, tuple[int, ...]]]]
    books: dict[int, BaselineTable] = field(default_factory=dict)
    work_out: Callable[[], None] = lambda: None
    comes: Callable[[float], bool] = lambda seconds: False

    def book(self, now: float) -> BaselineTable:
        start = int(now) // HOUR * HOUR
        if start not in self.books:
            self.work_out()
        return self.books.setdefault(start, BaselineTable(start, self.series))

    def wait_for_book(self, seconds: float) -> bool:
        return self.comes(seconds)

    def describe(self, snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, history=FACTS)

    def remember(self, flags: Mapping[SeriesKey, Flag], suspects: Mapping[SeriesKey, tuple[int, ...]]) -> None:
        self.remembered.append((flags, suspects))


class Stop(threading.Event):
    """Waiting moves the monotonic clock and the wall clock; ends after so many waits."""

    def __init__(self, clocks: Sequence[Clock], waits: int) -> None:
        super().__init__()
        self._clocks = clocks
        self._waits = waits
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited.append(timeout)
        for clock in self._clocks:
            clock.now += timeout
        if len(self.waited) == self._waits:
            self.set()
        return self.is_set()


class Bench:
    """A poller with everything around it."""

    def __init__(self, tempo: FakeTempo, settings: PollSettings = POLL, waits: int = 3) -> None:
        self.tempo = tempo
        self.clock = Clock(NOW)
        self.monotonic = Clock(1000.0)
        self.stop = Stop([self.clock, self.monotonic], waits)
        self.telemetry = Recorder()
        self.history = History({KEY: SeriesBaseline(NOW, baseline(), 0.4, thresholds())}, [])
        self.published: list[Snapshot] = []
        self.new_books: list[int] = []
        self.poller = Poller(
            LiveReader(
                tempo,
                self.telemetry,
                settings.budget,
                poll_seconds=settings.lookback_seconds,
                hold_seconds=settings.window_seconds,
            ),
            LiveEvaluator(
                SETTINGS,
                lambda key: key,
                started_at=NOW - 60,
                remembered_seconds=settings.remembered_seconds,
                flags={},
            ),
            self.history,
            self.published.append,
            settings,
            self.telemetry,
            clock=self.clock,
            monotonic=self.monotonic,
            stop=self.stop,
            log=get_logger("test"),
            on_new_book=lambda: self.new_books.append(len(self.published)),
        )

    def cycle(self, after: float = 0.0) -> tuple[bool, list[tuple[int, int]]]:
        """One cycle some seconds later: whether it was complete, and the ranges it asked for, relative to now."""
        self.clock.now += after
        self.monotonic.now += after
        self.tempo.searches.clear()
        complete = self.poller.cycle()
        now = int(self.clock.now)
        return complete, [(start - now, end - now) for start, end in self.tempo.searches]

    def status(self) -> SeriesStatus:
        (status,) = self.published[-1].series
        return status


def fail(start: int, end: int) -> None:
    raise TempoError("http://tempo:3200 is not there", reason="connection")


class TestDenseTraffic:
    """What is too much to be read is judged by a sample, and what was read before is thinned to it."""

    def dense(self, start: float, end: float, per_second: int) -> list[Span]:
        count = round((end - start) * per_second)
        return [span(int(start) * 1000 + n, start + (n + 0.5) / per_second, 0.1) for n in range(count)]

    def test_a_sample_is_judged_and_its_share_published(self) -> None:
        spans = self.dense(NOW - 300, NOW, 100)
        bench = Bench(FakeTempo(spans, max_limit=1000), replace(POLL, budget=Budget(2000, 50)))
        complete, searches = bench.cycle()
        assert complete
        assert len(searches) <= 2.5 * 50
        (snapshot,) = bench.published
        assert snapshot.poll_share is not None
        assert snapshot.poll_share <= 1 / 4
        assert bench.status().current_traces == pytest.approx(len(spans) * snapshot.poll_share, rel=0.3)
        assert bench.telemetry.sampled_windows == {"poll": 1}

    def test_when_traffic_grows_the_minutes_before_do_not_outweigh_the_newest(self) -> None:
        bench = Bench(FakeTempo(self.dense(NOW - 300, NOW, 10), max_limit=1000), replace(POLL, budget=Budget(2000, 50)))
        bench.cycle()
        assert bench.published[-1].poll_share == 1
        assert bench.status().current_traces == 3000
        bench.tempo.spans += self.dense(NOW, NOW + 60, 150)
        for _ in range(4):
            bench.cycle(after=15)
        share = bench.published[-1].poll_share
        assert share is not None
        assert share < 1
        there = sum(NOW - 240 < each.end_ns / 1e9 <= NOW + 60 for each in bench.tempo.spans)
        assert bench.status().current_traces == pytest.approx(there * share, rel=0.35)

    def test_an_endpoint_with_little_traffic_is_seen_whole(self) -> None:
        rare = SeriesKey("checkout", "POST /refund")
        few = [span(number, NOW - number * 20 - 1, 0.1, rare) for number in range(15)]
        bench = Bench(
            FakeTempo([*few, *self.dense(NOW - 300, NOW, 100)], max_limit=1000),
            replace(POLL, budget=Budget(2000, 50)),
        )
        usual = replace(baseline(), windows=10, count=1500)
        bench.history.series = {rare: SeriesBaseline(NOW, usual, 0.4, thresholds())}
        bench.cycle()
        (status,) = [each for each in bench.published[-1].series if each.key == rare]
        assert status.current_traces == 15


class TestReading:
    def test_first_the_whole_window_and_what_little_traffic_needs_then_the_lookback(self) -> None:
        bench = Bench(FakeTempo())
        assert bench.cycle() == (True, [(-300, 2), (-3600, -298)])
        assert bench.cycle(15) == (True, [(-120, 2)])
        assert bench.cycle(15) == (True, [(-120, 2)])

    def test_it_reaches_back_only_as_far_as_that_is_affordable(self) -> None:
        spans = [span(number, NOW - number % 300) for number in range(100)]
        settings = replace(POLL, affordable_traces=1092)
        assert Bench(FakeTempo(spans, max_limit=5000), settings).cycle() == (True, [(-300, 2)])
        settings = replace(POLL, affordable_traces=1093)
        assert Bench(FakeTempo(spans, max_limit=5000), settings).cycle() == (True, [(-300, 2), (-3600, -298)])

    def test_it_does_not_reach_back_where_no_window_does(self) -> None:
        assert Bench(FakeTempo(), replace(POLL, max_window_seconds=300.0)).cycle() == (True, [(-300, 2)])

    def test_that_it_cannot_reach_back_keeps_it_from_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail_on_the_older(start: int, end: int) -> None:
            if end < NOW:
                fail(start, end)

        bench = Bench(FakeTempo([span(1, NOW)]))
        bench.tempo.before_search = fail_on_the_older
        assert bench.cycle()[0] is True
        assert bench.published[-1].judged_at == NOW
        assert events(caplog) == ["poll_history_failed"]
        assert bench.cycle(15) == (True, [(-120, 2)])

    @pytest.mark.parametrize(
        ("pause", "back"), [(15, 120), (16, 121), (75, 180), (1815, 1920), (4000, 3600), (100_000, 3600), (-500, 120)]
    )
    def test_after_a_pause_it_reads_what_it_has_missed(self, pause: int, back: int) -> None:
        bench = Bench(FakeTempo())
        bench.cycle()
        assert bench.cycle(pause) == (True, [(-back, 2)])

    def test_a_pause_leaves_no_hole_in_the_window(self) -> None:
        bench = Bench(FakeTempo([span(1, NOW - 5)]))
        bench.cycle()
        bench.tempo.spans += [span(2, NOW + 300), span(3, NOW + 1100)]
        bench.cycle(1200)
        assert bench.status().current_traces == 3
        assert bench.status().traces_total == 3

    def test_what_was_missed_while_tempo_was_away_is_read_when_it_is_back(self) -> None:
        bench = Bench(FakeTempo())
        bench.cycle()
        bench.tempo.before_search = fail
        for _ in range(4):
            assert bench.cycle(15) == (False, [(bench.tempo.searches[0][0] - int(bench.clock.now), 2)])
        bench.tempo.before_search = lambda start, end: None
        assert bench.cycle(15) == (True, [(-180, 2)])

    def test_until_it_has_succeeded_once_it_wants_the_whole_window(self) -> None:
        bench = Bench(FakeTempo())
        bench.tempo.before_search = fail
        assert bench.cycle() == (False, [(-300, 2)])
        assert bench.cycle(15) == (False, [(-300, 2)])
        bench.tempo.before_search = lambda start, end: None
        assert bench.cycle(15) == (True, [(-300, 2), (-3600, -298)])

    def test_dense_traffic_is_split_and_nothing_is_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        spans = [span(number, NOW - number * 0.5, 0.01) for number in range(400)]
        bench = Bench(FakeTempo(spans, max_limit=50), replace(POLL, max_window_seconds=300.0))
        assert bench.cycle()[0] is True
        assert bench.status().current_traces == 400
        assert events(caplog) == ["poll_saturated"]
        first = len(bench.tempo.searches)
        bench.cycle(1)
        # Knowing how dense it is, it cuts beforehand.
        assert len(bench.tempo.searches) < first / 2

    def test_a_second_that_holds_too_much_is_said_and_counted_and_the_rest_is_judged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        spans = [span(number, NOW - 100, 0.01) for number in range(60)] + [span(100, NOW)]
        bench = Bench(FakeTempo(spans, max_limit=50), replace(POLL, max_window_seconds=300.0))
        assert bench.cycle()[0] is False
        assert bench.telemetry.truncated_windows["poll"] == 1
        assert bench.status().current_traces == 1
        assert events(caplog)[-1] == "poll_truncated"
        bench.cycle(15)
        assert bench.telemetry.truncated_windows["poll"] == 2
        assert len(events(caplog)) == 2

    def test_it_gives_up_what_it_has_no_time_for_the_newest_first(self) -> None:
        spans = [span(number, NOW + 15 - number, 0.01) for number in range(120)]
        bench = Bench(FakeTempo(max_limit=50))
        bench.cycle()
        bench.tempo.spans = spans

        def take_time(start: int, end: int) -> None:
            bench.monotonic.now += 6

        bench.tempo.before_search = take_time
        complete, asked = bench.cycle(15)
        assert not complete
        assert len(asked) == 3
        assert asked[-1][1] == 2
        assert bench.telemetry.truncated_windows["poll"] == 1

    def test_what_is_left_out_is_counted(self) -> None:
        bench = Bench(FakeTempo([span(1, NOW)]))
        bench.cycle()
        bench.cycle(15)
        assert bench.telemetry.skipped == {("poll", "duplicate"): 1}


class TestPublishing:
    def test_a_snapshot_says_when_it_was_judged_and_what_is_stored(self) -> None:
        bench = Bench(FakeTempo([span(1, NOW - 1, 0.2)]))

        def take_time(start: int, end: int) -> None:
            bench.monotonic.now += 2

        bench.tempo.before_search = take_time
        bench.cycle()
        (snapshot,) = bench.published
        assert (snapshot.judged_at, snapshot.poll_seconds, snapshot.history) == (NOW, 4.0, FACTS)
        assert bench.status().current_traces == 1
        assert bench.status().baseline == baseline()

    def test_flags_and_suspect_hours_are_to_be_remembered(self) -> None:
        bench = Bench(FakeTempo())
        for cycle in range(6):
            now = NOW + 15 * cycle
            bench.tempo.spans = [span(int(now) - back, now - back, 0.5) for back in range(300)]
            bench.cycle(15 if cycle else 0)
        assert [flags for flags, _ in bench.history.remembered] == [
            {KEY: Flag(pending_since=NOW)}, {}, {}, {}, {KEY: Flag(firing=True, since=NOW)}, {},
        ]  # fmt: skip
        assert [suspects for _, suspects in bench.history.remembered] == [
            {},
            {},
            {},
            {},
            {KEY: (NOON,)},
            {KEY: (NOON,)},
        ]

    def test_a_flag_that_rises_or_falls_is_logged_with_the_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = Bench(FakeTempo())
        for cycle in range(40):
            now = NOW + 15 * cycle
            seconds = 0.5 if cycle < 6 else 0.1
            bench.tempo.spans += [span(int(now) - back, now - back, seconds) for back in range(15)]
            bench.cycle(15 if cycle else 0)
        risen, fallen = caplog.records
        assert (risen.levelname, event_of(risen)) == ("WARNING", "shift_firing")
        fields = risen.exporter_fields  # type: ignore[attr-defined]
        assert (fields["service_name"], fields["span_name"]) == KEY
        assert "requests took longer than" in fields["explanation"]
        assert (fallen.levelname, event_of(fallen)) == ("INFO", "shift_resolved")

    def test_while_tempo_is_away_it_publishes_without_a_verdict(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench(FakeTempo([span(1, NOW)]))
        bench.cycle()
        bench.tempo.before_search = fail
        assert bench.cycle(15)[0] is False
        assert bench.published[-1].judged_at == NOW
        assert bench.published[-1].unread == "http://tempo:3200 is not there"
        assert bench.status().current_traces == 1
        bench.cycle(285)
        assert bench.status().current_traces == 1
        bench.cycle(15)
        assert bench.published[-1].judged_at == NOW
        assert bench.status().current_traces is None
        assert bench.status().baseline is not None
        assert len(bench.history.remembered) == 1
        assert events(caplog) == ["poll_failed"]
        bench.tempo.before_search = lambda start, end: None
        bench.cycle(15)
        assert bench.published[-1].unread is None

    def test_the_end_of_an_outage_is_said_once_if_its_beginning_was(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = Bench(FakeTempo([span(1, NOW)]))
        for failing in (False, True, True, False, False):
            bench.tempo.before_search = fail if failing else lambda start, end: None
            bench.cycle(15)
        told = [event for event in events(caplog) if event in ("poll_failed", "poll_recovered")]
        assert told == ["poll_failed", "poll_recovered"]
        assert caplog.records[-1].exporter_fields == {"after_seconds": 30}  # type: ignore[attr-defined]
        # It is away again soon, which is not repeated, and so has no end either.
        for failing in (True, False):
            bench.tempo.before_search = fail if failing else lambda start, end: None
            bench.cycle(15)
        assert len([event for event in events(caplog) if event in ("poll_failed", "poll_recovered")]) == 2
        # After a while it is.
        for failing in (True, False):
            bench.tempo.before_search = fail if failing else lambda start, end: None
            bench.cycle(600)
        assert [event for event in events(caplog) if event in ("poll_failed", "poll_recovered")] == told * 2

    def test_where_tempo_was_never_there_the_history_is_published_all_the_same(self) -> None:
        bench = Bench(FakeTempo())
        bench.tempo.before_search = fail
        bench.cycle()
        (snapshot,) = bench.published
        assert (snapshot.judged_at, snapshot.poll_seconds) == (None, None)
        assert bench.status().baseline == baseline()

    def test_when_it_is_stopped_while_it_reads_it_publishes_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench(FakeTempo([span(1, NOW)]))
        bench.tempo.before_search = lambda start, end: bench.stop.set()
        assert bench.cycle()[0] is False
        assert bench.published == []

        def stop_and_fail(start: int, end: int) -> None:
            bench.stop.set()
            raise StoppedError

        bench.tempo.before_search = stop_and_fail
        assert bench.cycle()[0] is False
        assert bench.published == []
        assert events(caplog) == []


class TestWhileItIsNotKnownWhatIsUsual:
    def test_what_was_read_is_published_and_that_the_rest_is_not_known(self) -> None:
        bench = Bench(FakeTempo([span(1, NOW - 1)]))
        bench.history.books[int(NOW) // HOUR * HOUR] = NOT_KNOWN_YET
        assert bench.cycle()[0]
        assert (bench.published[-1].known, bench.published[-1].judged_at) == (False, NOW)
        assert (bench.status().current_traces, bench.status().known) == (1, False)
        bench.tempo.before_search = fail
        bench.cycle(15)
        assert (bench.published[-1].known, bench.status().known) == (False, False)


class TestRun:
    def begins(self, bench: Bench) -> list[float]:
        """When cycles began, in seconds since the first."""
        times: list[float] = []
        bench.tempo.before_search = lambda start, end: times.append(bench.monotonic.now - 1000.0)
        bench.poller.run()
        return times

    def test_it_cycles_at_its_interval(self) -> None:
        bench = Bench(FakeTempo(), replace(POLL, max_window_seconds=300.0), waits=4)
        assert self.begins(bench) == [0, 15, 30, 45]
        assert len(bench.published) == 4

    def test_the_time_a_cycle_takes_does_not_move_the_ticks(self) -> None:
        bench = Bench(FakeTempo(), replace(POLL, max_window_seconds=300.0))

        def take_time(start: int, end: int) -> None:
            bench.monotonic.now += 4

        bench.tempo.before_search = take_time
        bench.poller.run()
        assert bench.stop.waited == [11, 11, 11]

    @pytest.mark.parametrize(("takes", "ticks", "skipped"), [(15.0, [0, 15, 30], []), (15.1, [0, 30, 60], [1]),
                                                             (40.0, [0, 45, 90], [2])])  # fmt: skip
    def test_ticks_that_come_while_it_still_works_are_skipped_and_not_queued(
        self, takes: float, ticks: list[float], skipped: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        bench = Bench(FakeTempo(), replace(POLL, max_window_seconds=300.0))
        times: list[float] = []

        def take_time(start: int, end: int) -> None:
            times.append(bench.monotonic.now - 1000.0)
            bench.monotonic.now += takes

        bench.tempo.before_search = take_time
        bench.poller.run()
        assert times == pytest.approx(ticks)
        said = [record for record in caplog.records if event_of(record) == "poll_skipped"]
        assert [record.exporter_fields["skipped"] for record in said] == skipped  # type: ignore[attr-defined]

    def test_a_defect_is_logged_and_does_not_end_it(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench(FakeTempo(), replace(POLL, max_window_seconds=300.0))

        def fail_once(start: int, end: int) -> None:
            if bench.monotonic.now == 1000.0:
                raise ZeroDivisionError

        bench.tempo.before_search = fail_once
        bench.poller.run()
        assert events(caplog) == ["poll_crashed"]
        assert len(bench.published) == 2

    def test_when_the_book_of_the_hour_comes_it_cycles_at_once(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench(FakeTempo([span(1, NOW - 1)]), replace(POLL, max_window_seconds=300.0), waits=3)
        hour = int(NOW) // HOUR * HOUR
        bench.history.books[hour] = NOT_KNOWN_YET
        waited = []

        def comes(seconds: float) -> bool:
            waited.append(seconds)
            bench.clock.now += 14
            bench.monotonic.now += 14
            return bench.history.books.pop(hour, None) is NOT_KNOWN_YET

        bench.history.comes = comes
        begun = self.begins(bench)
        # The first wait ends early, with the book; others are over without one, and what is left is slept.
        assert (begun, waited[0]) == ([0, 14, 29, 44], 15)
        assert [snapshot.known for snapshot in bench.published] == [False, True, True, True]
        assert [snapshot.series[0].level for snapshot in bench.published] == [None, 1, 1, 1]
        assert events(caplog) == []

    def test_what_goes_wrong_because_it_is_stopped_is_not_worth_a_word(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench(FakeTempo())

        def stop_and_fail(start: int, end: int) -> None:
            bench.stop.set()
            raise ZeroDivisionError

        bench.tempo.before_search = stop_and_fail
        bench.poller.run()
        assert events(caplog) == []
        assert bench.stop.waited == []


def test_spans_are_remembered_for_as_long_as_they_may_be_read_again() -> None:
    assert POLL.remembered_seconds == 330
    assert replace(POLL, lookback_seconds=400.0).remembered_seconds == 430


class TestNewBooks:
    """Who wants to know is told of each book once it is in use."""

    def test_it_is_told_once_for_each_book(self) -> None:
        bench = Bench(FakeTempo([span(1, NOW - 10, 0.1)]))
        bench.cycle()
        bench.cycle(15)
        assert bench.new_books == [1]
        bench.history.books.clear()
        bench.cycle(15)
        assert bench.new_books == [1, 3]

    def test_working_one_out_is_no_part_of_the_reading(self) -> None:
        dense = [span(number, NOW - 300 + number / 100, 0.1) for number in range(29_000)]
        bench = Bench(FakeTempo(dense, max_limit=1000), replace(POLL, budget=Budget(2000, 50)))
        bench.history.work_out = lambda: setattr(bench.monotonic, "now", bench.monotonic.now + 40)
        bench.cycle()
        assert bench.published[-1].poll_seconds == 0
