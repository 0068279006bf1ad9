import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from exporter.detection.flag import Flag, FlagKind, SeriesFlags
from exporter.detection.service_shift import ServiceBaseline
from exporter.evaluation.baseline_table import EMPTY_TABLE, BaselineTable, SeriesBaseline
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.evaluation.incident_tracker import IncidentTracker
from exporter.evaluation.live.evaluator import LiveEvaluator
from exporter.evaluation.live.poller import Poller
from exporter.evaluation.live.services import LiveServices, ServiceFlagStore
from exporter.evaluation.settings import PollSettings
from exporter.evaluation.snapshot import HistoryFacts, SeriesStatus, Snapshot
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.ingest.exact_reader import Budget
from exporter.ingest.live_reader import LiveReader
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.store import Store
from exporter.tempo.errors import StoppedError, TempoError
from tests.support.causes import a_cause
from tests.support.evaluation import ScriptedWakeup, ledger_status
from tests.support.fakes import FakeTempo, Recorder
from tests.support.samples import HOUR, KEY, NOON, SETTINGS, Clock, baseline, event_of, events, span, thresholds

NOW = NOON + 1800.0
POLL = PollSettings(
    interval_seconds=15.0, lookback_seconds=120.0, window_seconds=300.0, max_window_seconds=3600.0,
    affordable_traces=50_000, budget=Budget(20_000, 50),
)  # fmt: skip
FACTS = HistoryFacts(windows=7, traces=70)


@dataclass
class FakeHistory:
    """One table for each hour, and the flags that were saved.

    Attributes:
        series: the content of every table that is built.
        services: the baselines of services in it.
        saved: flags and suspects of each call.
        tables: the tables by hour; one that is missing is built when it is requested.
        on_build: called when a table is built.
        requests: what was asked for, in order.
    """

    series: Mapping[SeriesKey, SeriesBaseline]
    services: Mapping[ServiceKey, ServiceBaseline] = field(default_factory=dict)
    saved: list[tuple[Mapping[SeriesKey, SeriesFlags], Mapping[SeriesKey, tuple[int, ...]]]] = field(
        default_factory=list
    )
    tables: dict[int, BaselineTable] = field(default_factory=dict)
    on_build: Callable[[], None] = lambda: None
    requests: list[str] = field(default_factory=list)

    def table(self, now: float) -> BaselineTable:
        self.requests.append("table")
        start = int(now) // HOUR * HOUR
        if start not in self.tables:
            self.on_build()
        return self.tables.setdefault(start, BaselineTable(start, self.series, services=self.services))

    def facts(self) -> HistoryFacts:
        self.requests.append("facts")
        return FACTS

    def save(
        self, flags: Mapping[SeriesKey, SeriesFlags], suspects: Mapping[SeriesKey, tuple[int, ...]], at: float
    ) -> None:
        self.saved.append((flags, suspects))


class FakeCauses:
    """Remembers the shifts that fire, and has given causes."""

    def __init__(self) -> None:
        self.shifts: Sequence[Shift] = ()
        self.causes: Mapping[SeriesKey, ShiftCause] = {}
        self.pending: frozenset[SeriesKey] = frozenset()

    def observe(self, shifts: Sequence[Shift]) -> None:
        self.shifts = shifts


class Bench:
    """A poller with everything around it."""

    def __init__(self, tempo: FakeTempo, settings: PollSettings = POLL, sleeps: int = 2) -> None:
        self.tempo = tempo
        self.clock = Clock(NOW)
        self.monotonic = Clock(1000.0)
        self.stop = threading.Event()
        self.wakeup = ScriptedWakeup([self.clock, self.monotonic], sleeps)
        self.telemetry = Recorder()
        self.history = FakeHistory({KEY: SeriesBaseline(NOW, baseline(), 0.4, thresholds())})
        self.backfill: BackfillStatus | None = None
        self.causes = FakeCauses()
        self.store = Store.in_memory()
        service_flags = ServiceFlagStore(self.store, monotonic=self.monotonic, log=get_logger("test"))
        self.published: list[Snapshot] = []
        self.on_publish: Callable[[], None] = lambda: None
        self.new_tables: list[int] = []
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
            self.history,
            self._publish,
            settings,
            self.telemetry,
            clock=self.clock,
            monotonic=self.monotonic,
            stop=self.stop,
            log=get_logger("test"),
            on_new_table=lambda: self.new_tables.append(len(self.published)),
            backfill_status=self._backfill_status,
            wakeup=self.wakeup,
            causes=self.causes,
            incidents=IncidentTracker(
                self.store,
                renamed=lambda key: key,
                monotonic=self.monotonic,
                log=get_logger("test"),
            ),
            services=LiveServices(SETTINGS.shift, service_flags, get_logger("test")),
        )

    def _backfill_status(self) -> BackfillStatus | None:
        self.history.requests.append("backfill")
        return self.backfill

    def _publish(self, snapshot: Snapshot) -> None:
        self.published.append(snapshot)
        self.on_publish()

    def cycle(self, after: float = 0.0) -> tuple[bool, list[tuple[int, int]]]:
        """Run a cycle some seconds later; returns whether it was complete and its searches, relative to now."""
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


class TestServices:
    def test_verdicts_on_services_are_published_with_their_endpoints(self) -> None:
        keys = [SeriesKey("shop", f"GET /{number}") for number in range(4)]
        spans = [
            span(100 * back + number, NOW - back, 0.2, key)
            for back in range(0, 300, 5)
            for number, key in enumerate(keys)
        ]
        bench = Bench(FakeTempo(spans))
        bench.history.series = dict.fromkeys(keys, SeriesBaseline(NOW, baseline(), 0.4, thresholds()))
        bench.history.services = {ServiceKey("shop"): ServiceBaseline(0.05)}
        for after in (0.0, 60.0, 60.0):
            bench.cycle(after)
        (before, _, after_hold) = bench.published
        assert [each.firing for each in before.services] == [False]
        assert {each.service for each in before.series} == {None}
        (service,) = after_hold.services
        assert (service.key, service.firing, service.since) == (ServiceKey("shop"), True, NOW)
        assert {each.service for each in after_hold.series} == {service}
        bench.tempo.before_search = fail
        bench.cycle(15.0)
        (held,) = bench.published[-1].services
        assert (held.firing, held.verdict) == (True, None)


class TestDenseTraffic:
    """Traffic beyond the budget is sampled, and traces read before are thinned to the same share."""

    def dense(self, start: float, end: float, per_second: int) -> list[Span]:
        count = round((end - start) * per_second)
        return [span(int(start) * 1000 + n, start + (n + 0.5) / per_second, 0.1) for n in range(count)]

    def test_sample_is_evaluated_and_its_share_published(self) -> None:
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

    def test_failures_of_a_sample_are_those_that_were_read(self) -> None:
        spans = [each._replace(failed=n % 10 == 0) for n, each in enumerate(self.dense(NOW - 300, NOW, 100))]
        bench = Bench(FakeTempo(spans, max_limit=1000), replace(POLL, budget=Budget(2000, 50)))
        bench.cycle()
        for _ in range(4):
            bench.cycle(after=15)
        status = bench.status()
        assert status.current_failures is not None
        assert status.current_traces is not None
        assert status.current_failures < status.current_traces < len(spans) / 2
        assert status.current_error_ratio == pytest.approx(0.1, rel=0.1)

    def test_older_minutes_do_not_outweigh_newer_ones_when_traffic_grows(self) -> None:
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
        existing = sum(NOW - 240 < each.end_ns / 1e9 <= NOW + 60 for each in bench.tempo.spans)
        assert bench.status().current_traces == pytest.approx(existing * share, rel=0.35)

    def test_series_with_little_traffic_is_read_whole(self) -> None:
        rare = SeriesKey("checkout", "POST /refund")
        few = [span(number, NOW - number * 20 - 1, 0.1, rare) for number in range(15)]
        bench = Bench(
            FakeTempo([*few, *self.dense(NOW - 300, NOW, 100)], max_limit=1000),
            replace(POLL, budget=Budget(2000, 50)),
        )
        rare_baseline = replace(baseline(), windows=10, count=1500)
        bench.history.series = {rare: SeriesBaseline(NOW, rare_baseline, 0.4, thresholds())}
        bench.cycle()
        (status,) = [each for each in bench.published[-1].series if each.key == rare]
        assert status.current_traces == 15


class TestReading:
    def test_first_cycle_reads_the_longest_window_and_later_ones_the_lookback(self) -> None:
        bench = Bench(FakeTempo())
        assert bench.cycle() == (True, [(-300, 2), (-3600, -298)])
        # What has left the lookback is read once more, because it was not that old when it was read last.
        assert bench.cycle(15) == (True, [(-136, 2)])
        assert bench.cycle(15) == (True, [(-136, 2)])

    def test_first_cycle_reads_older_traffic_only_if_that_is_affordable(self) -> None:
        spans = [span(number, NOW - number % 300) for number in range(100)]
        settings = replace(POLL, affordable_traces=1092)
        assert Bench(FakeTempo(spans, max_limit=5000), settings).cycle() == (True, [(-300, 2)])
        settings = replace(POLL, affordable_traces=1093)
        assert Bench(FakeTempo(spans, max_limit=5000), settings).cycle() == (True, [(-300, 2), (-3600, -298)])

    def test_first_cycle_reads_no_further_back_than_the_longest_window(self) -> None:
        assert Bench(FakeTempo(), replace(POLL, max_window_seconds=300.0)).cycle() == (True, [(-300, 2)])

    def test_first_cycle_succeeds_if_older_traffic_cannot_be_read(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail_on_older_traffic(start: int, end: int) -> None:
            if end < NOW:
                fail(start, end)

        bench = Bench(FakeTempo([span(1, NOW)]))
        bench.tempo.before_search = fail_on_older_traffic
        assert bench.cycle()[0] is True
        assert bench.published[-1].evaluated_at == NOW
        assert events(caplog) == ["poll_history_failed"]
        assert bench.cycle(15) == (True, [(-136, 2)])

    def test_first_cycle_waits_for_older_traffic_for_half_a_minute_at_most(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def search_slowly(_start: int, _end: int) -> None:
            bench.monotonic.now += 20

        bench = Bench(FakeTempo([span(number, NOW - 10 * number) for number in range(360)], max_limit=70))
        bench.tempo.before_search = search_slowly
        complete, searches = bench.cycle()
        assert complete
        newest, *older = searches
        assert newest == (-300, 2)
        assert len(older) == 2
        assert older[0][1] == -298
        # The oldest part is left out, and what was read counts.
        assert older[1][0] > -3600
        (snapshot,) = bench.published
        assert snapshot.evaluated_at == NOW
        assert events(caplog) == ["poll_truncated"]
        assert "older traffic" in caplog.records[-1].getMessage()
        assert bench.telemetry.truncated_windows["poll"] == 1
        # That does not hide that current traffic cannot be read in time either.
        bench.tempo.spans += [span(1000 + number, NOW + number) for number in range(200)]
        assert bench.cycle(200)[0] is False
        assert events(caplog)[-1] == "poll_truncated"
        assert "current traffic" in caplog.records[-1].getMessage()

    @pytest.mark.parametrize(
        ("pause", "back"), [(15, 136), (16, 137), (75, 196), (1815, 1936), (4000, 3600), (100_000, 3600), (-500, 121)]
    )
    def test_cycle_after_a_pause_reads_what_was_missed(self, pause: int, back: int) -> None:
        bench = Bench(FakeTempo())
        bench.cycle()
        assert bench.cycle(pause) == (True, [(-back, 2)])

    def test_lookback_longer_than_any_evaluation_window_is_read(self) -> None:
        bench = Bench(FakeTempo(), replace(POLL, lookback_seconds=600.0, window_seconds=60.0, max_window_seconds=60.0))
        bench.cycle()
        assert bench.cycle(15) == (True, [(-616, 2)])

    def test_pause_leaves_no_hole_in_the_window(self) -> None:
        bench = Bench(FakeTempo([span(1, NOW - 5)]))
        bench.cycle()
        bench.tempo.spans += [span(2, NOW + 300), span(3, NOW + 1100)]
        bench.cycle(1200)
        assert bench.status().current_traces == 3
        assert bench.status().traces_total == 3

    def test_cycle_after_an_outage_reads_what_was_missed(self) -> None:
        bench = Bench(FakeTempo())
        bench.cycle()
        bench.tempo.before_search = fail
        for _ in range(4):
            assert bench.cycle(15) == (False, [(bench.tempo.searches[0][0] - int(bench.clock.now), 2)])
        bench.tempo.before_search = lambda start, end: None
        assert bench.cycle(15) == (True, [(-196, 2)])

    def test_whole_window_is_read_until_a_cycle_has_succeeded(self) -> None:
        bench = Bench(FakeTempo())
        bench.tempo.before_search = fail
        assert bench.cycle() == (False, [(-300, 2)])
        assert bench.cycle(15) == (False, [(-300, 2)])
        bench.tempo.before_search = lambda start, end: None
        assert bench.cycle(15) == (True, [(-300, 2), (-3600, -298)])

    def test_saturated_searches_are_split_without_losing_traces(self, caplog: pytest.LogCaptureFixture) -> None:
        spans = [span(number, NOW - 30 - 170 * (number / 400) ** 4, 0.01) for number in range(400)]
        bench = Bench(FakeTempo(spans, max_limit=70, tempo_limit=400), replace(POLL, max_window_seconds=300.0))
        assert bench.cycle()[0] is True
        assert bench.status().current_traces == 400
        assert events(caplog) == ["poll_saturated"]
        first = len(bench.tempo.searches)
        bench.cycle(1)
        # The density is known now, so the range is divided beforehand.
        assert len(bench.tempo.searches) < first

    def test_second_with_too_many_traces_is_counted_as_truncated_and_the_rest_evaluated(
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

    def test_newest_traffic_is_read_first_when_time_runs_out(self) -> None:
        spans = [span(number, NOW + 15 - number, 0.01) for number in range(120)]
        bench = Bench(FakeTempo(max_limit=50))
        bench.cycle()
        bench.tempo.spans = spans

        def take_time(start: int, end: int) -> None:
            bench.monotonic.now += 6

        bench.tempo.before_search = take_time
        complete, searches = bench.cycle(15)
        assert not complete
        assert len(searches) == 3
        assert searches[-1][1] == 2
        assert bench.telemetry.truncated_windows["poll"] == 1
        bench.tempo.before_search = lambda start, end: None
        assert bench.cycle(15)[0]
        assert bench.status().current_traces == 120

    def test_skipped_spans_are_counted(self) -> None:
        bench = Bench(FakeTempo([span(1, NOW)]))
        bench.cycle()
        bench.cycle(15)
        assert bench.telemetry.skipped == {("poll", "duplicate"): 1}


class TestPublishing:
    def test_snapshot_holds_evaluation_time_and_history_totals(self) -> None:
        bench = Bench(FakeTempo([span(1, NOW - 1, 0.2)]))

        def take_time(start: int, end: int) -> None:
            bench.monotonic.now += 2

        bench.tempo.before_search = take_time
        bench.cycle()
        (snapshot,) = bench.published
        assert (snapshot.evaluated_at, snapshot.poll_seconds, snapshot.history) == (NOW, 4.0, FACTS)
        assert bench.status().current_traces == 1
        assert bench.status().baseline == baseline()

    def test_changed_flags_and_suspect_hours_are_saved(self) -> None:
        bench = Bench(FakeTempo())
        for cycle in range(6):
            now = NOW + 15 * cycle
            bench.tempo.spans = [span(int(now) - back, now - back, 0.5) for back in range(300)]
            bench.cycle(15 if cycle else 0)
        assert [flags for flags, _ in bench.history.saved] == [
            {KEY: {FlagKind.SHIFT: Flag(pending_since=NOW)}}, {}, {}, {},
            {KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW)}}, {},
        ]  # fmt: skip
        assert [suspects for _, suspects in bench.history.saved] == [
            {},
            {},
            {},
            {},
            {KEY: (NOON,)},
            {KEY: (NOON,)},
        ]

    def test_firing_and_resolved_flags_are_logged_with_an_explanation(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = Bench(FakeTempo())
        for cycle in range(40):
            now = NOW + 15 * cycle
            seconds = 0.5 if cycle < 6 else 0.1
            bench.tempo.spans += [span(int(now) - back, now - back, seconds) for back in range(15)]
            bench.cycle(15 if cycle else 0)
        firing, resolved = (record for record in caplog.records if event_of(record).startswith("shift_"))
        assert (firing.levelname, event_of(firing)) == ("WARNING", "shift_firing")
        fields = firing.exporter_fields  # type: ignore[attr-defined]
        assert (fields["service_name"], fields["span_name"]) == KEY[:2]
        assert "requests took longer than" in fields["explanation"]
        assert (resolved.levelname, event_of(resolved)) == ("INFO", "shift_resolved")

    def test_firing_flags_are_looked_at_and_get_their_cause(self) -> None:
        bench = Bench(FakeTempo())
        for cycle in range(6):
            now = NOW + 15 * cycle
            bench.tempo.spans += [span(int(now) - back, now - back, 0.5) for back in range(15)]
            bench.cycle(15 if cycle else 0)
        since = bench.status().since
        assert since is not None
        (shift,) = bench.causes.shifts
        assert (shift.key, shift.since, shift.score) == (KEY, since, bench.status().score)
        assert shift.traces == bench.status().current_traces
        assert bench.status().cause is None
        for other in (since - 1, since):
            bench.causes.causes = {KEY: a_cause(replace(shift, since=other))}
            bench.cycle(15)
            cause = bench.status().cause
            assert (bench.status().incident is not None) == (other == since)
            assert bench.causes.shifts[0].in_incident == (other == since)
            # The cause of an earlier shift is not that of this one.
            assert (None if cause is None else cause.shift.since) == (since if other == since else None)

    def test_a_firing_flag_of_no_incident_is_marked_while_its_cause_is_being_looked_for(self) -> None:
        bench = Bench(FakeTempo())
        bench.causes.pending = frozenset({KEY})
        marks = []
        for cycle in range(6):
            now = NOW + 15 * cycle
            bench.tempo.spans += [span(int(now) - back, now - back, 0.5) for back in range(15)]
            bench.cycle(15 if cycle else 0)
            marks.append((bench.status().shift, bench.status().is_cause_pending))
        assert set(marks) == {(False, False), (True, True)}
        bench.causes.causes = {KEY: a_cause(bench.causes.shifts[0])}
        bench.cycle(15)
        assert (bench.status().incident is not None, bench.status().is_cause_pending) == (True, False)

    def test_incident_is_saved_after_the_snapshot_is_published(self) -> None:
        bench = Bench(FakeTempo())
        saved_before: list[int] = []
        bench.on_publish = lambda: saved_before.append(len(bench.store.incidents.newest(9)))
        for cycle in range(6):
            now = NOW + 15 * cycle
            bench.tempo.spans += [span(int(now) - back, now - back, 0.5) for back in range(15)]
            bench.cycle(15 if cycle else 0)
        bench.causes.causes = {KEY: a_cause(bench.causes.shifts[0])}
        bench.cycle(15)
        assert saved_before == [0] * 7
        (row,) = bench.store.incidents.newest(9)
        assert bench.status().incident == (row.id, "victim")

    def test_outage_publishes_the_last_verdict_while_its_window_counts(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench(FakeTempo([span(1, NOW)]))
        bench.cycle()
        bench.tempo.before_search = fail
        assert bench.cycle(15)[0] is False
        assert bench.published[-1].evaluated_at == NOW
        assert bench.published[-1].read_error == "http://tempo:3200 is not there"
        assert bench.status().current_traces == 1
        bench.cycle(285)
        assert bench.status().current_traces == 1
        bench.cycle(15)
        assert bench.published[-1].evaluated_at == NOW
        assert bench.status().current_traces is None
        assert bench.status().baseline is not None
        assert len(bench.history.saved) == 1
        assert events(caplog) == ["poll_failed"]
        bench.tempo.before_search = lambda start, end: None
        bench.cycle(15)
        assert bench.published[-1].read_error is None

    def test_recovery_is_logged_only_if_the_outage_was(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = Bench(FakeTempo([span(1, NOW)]))
        for failing in (False, True, True, False, False):
            bench.tempo.before_search = fail if failing else lambda start, end: None
            bench.cycle(15)
        outage = [event for event in events(caplog) if event in ("poll_failed", "poll_recovered")]
        assert outage == ["poll_failed", "poll_recovered"]
        assert caplog.records[-1].exporter_fields == {"after_seconds": 30}  # type: ignore[attr-defined]
        # The next outage comes too soon to be logged, so its end is not logged either.
        for failing in (True, False):
            bench.tempo.before_search = fail if failing else lambda start, end: None
            bench.cycle(15)
        assert len([event for event in events(caplog) if event in ("poll_failed", "poll_recovered")]) == 2
        # A later one is logged again.
        for failing in (True, False):
            bench.tempo.before_search = fail if failing else lambda start, end: None
            bench.cycle(600)
        assert [event for event in events(caplog) if event in ("poll_failed", "poll_recovered")] == outage * 2

    def test_baselines_are_published_if_tempo_has_never_answered(self) -> None:
        bench = Bench(FakeTempo())
        bench.tempo.before_search = fail
        bench.cycle()
        (snapshot,) = bench.published
        assert (snapshot.evaluated_at, snapshot.poll_seconds) == (None, None)
        assert bench.status().baseline == baseline()

    def test_stopped_cycle_publishes_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
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


class TestWithoutBaselines:
    def test_current_traffic_is_published_without_baselines(self) -> None:
        bench = Bench(FakeTempo([span(1, NOW - 1)]))
        bench.history.tables[int(NOW) // HOUR * HOUR] = EMPTY_TABLE
        assert bench.cycle()[0]
        assert (bench.published[-1].has_baselines, bench.published[-1].evaluated_at) == (False, NOW)
        assert (bench.status().current_traces, bench.status().is_baseline_known) == (1, False)
        bench.tempo.before_search = fail
        bench.cycle(15)
        assert (bench.published[-1].has_baselines, bench.status().is_baseline_known) == (False, False)


class TestRun:
    def starts(self, bench: Bench) -> list[float]:
        """Run the loop; returns when its cycles started, in seconds since the first."""
        times: list[float] = []
        bench.tempo.before_search = lambda start, end: times.append(bench.monotonic.now - 1000.0)
        bench.poller.run()
        return times

    def test_cycles_start_at_the_interval(self) -> None:
        bench = Bench(FakeTempo(), replace(POLL, max_window_seconds=300.0), sleeps=3)
        assert self.starts(bench) == [0, 15, 30, 45]
        assert len(bench.published) == 4

    def test_duration_of_a_cycle_does_not_move_the_ticks(self) -> None:
        bench = Bench(FakeTempo(), replace(POLL, max_window_seconds=300.0))

        def take_time(start: int, end: int) -> None:
            bench.monotonic.now += 4

        bench.tempo.before_search = take_time
        bench.poller.run()
        assert bench.wakeup.slept == [11, 11, 11]

    @pytest.mark.parametrize(("takes", "ticks", "skipped"), [(15.0, [0, 15, 30], []), (15.1, [0, 30, 60], [1]),
                                                             (40.0, [0, 45, 90], [2])])  # fmt: skip
    def test_ticks_during_a_cycle_are_skipped_not_queued(
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
        logged = [record for record in caplog.records if event_of(record) == "poll_skipped"]
        assert [record.exporter_fields["skipped"] for record in logged] == skipped  # type: ignore[attr-defined]

    def test_bug_is_logged_and_the_loop_continues(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench(FakeTempo(), replace(POLL, max_window_seconds=300.0))

        def fail_once(start: int, end: int) -> None:
            if bench.monotonic.now == 1000.0:
                raise ZeroDivisionError

        bench.tempo.before_search = fail_once
        bench.poller.run()
        assert events(caplog) == ["poll_crashed"]
        assert len(bench.published) == 2

    def test_wakeup_starts_a_cycle_at_once_and_restarts_the_interval(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench(FakeTempo([span(1, NOW - 1)]), replace(POLL, max_window_seconds=300.0), sleeps=3)
        hour = int(NOW) // HOUR * HOUR
        bench.history.tables[hour] = EMPTY_TABLE

        def change_table() -> None:
            if bench.history.tables.pop(hour) is EMPTY_TABLE:
                for clock in (bench.clock, bench.monotonic):
                    clock.now += 14
                bench.poller.wake()

        bench.on_publish = change_table
        assert self.starts(bench) == [0, 14, 29, 44]
        assert bench.wakeup.slept == [0, 15, 15, 15]
        assert [snapshot.has_baselines for snapshot in bench.published] == [False, True, True, True]
        assert [snapshot.series[0].level for snapshot in bench.published] == [None, 1, 1, 1]
        assert events(caplog) == []

    def test_wakeup_during_the_read_causes_no_further_cycle(self) -> None:
        bench = Bench(FakeTempo(), replace(POLL, max_window_seconds=300.0))
        bench.tempo.before_search = lambda start, end: bench.poller.wake()
        bench.poller.run()
        # What has changed by then is part of the snapshot of that cycle.
        assert bench.wakeup.slept == [15, 15, 15]

    def test_error_during_shutdown_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench(FakeTempo())

        def stop_and_fail(start: int, end: int) -> None:
            bench.stop.set()
            raise ZeroDivisionError

        bench.tempo.before_search = stop_and_fail
        bench.poller.run()
        assert events(caplog) == []
        assert bench.wakeup.slept == []


def test_spans_are_remembered_while_they_may_be_read_again() -> None:
    assert POLL.remembered_seconds == 360
    assert replace(POLL, lookback_seconds=400.0).remembered_seconds == 460


class TestNewTable:
    def test_callback_is_called_once_for_each_table(self) -> None:
        bench = Bench(FakeTempo([span(1, NOW - 10, 0.1)]))
        bench.cycle()
        bench.cycle(15)
        assert bench.new_tables == [1]
        bench.history.tables.clear()
        bench.cycle(15)
        assert bench.new_tables == [1, 3]

    def test_waiting_for_a_table_is_not_part_of_the_poll_duration(self) -> None:
        dense = [span(number, NOW - 300 + number / 100, 0.1) for number in range(29_000)]
        bench = Bench(FakeTempo(dense, max_limit=1000), replace(POLL, budget=Budget(2000, 50)))
        bench.history.on_build = lambda: setattr(bench.monotonic, "now", bench.monotonic.now + 40)
        bench.cycle()
        assert bench.published[-1].poll_seconds == 0


class TestBackfillStatus:
    """The published state of the ledger belongs to the same moment as the baselines."""

    def publish(self, bench: Bench, backfill: BackfillStatus | None, built_at: BackfillStatus | None) -> Snapshot:
        """Run a cycle with one state of the ledger now, and one at which the table was built."""
        bench.backfill = backfill
        start = int(NOW) // HOUR * HOUR
        bench.history.tables[start] = BaselineTable(start, bench.history.series, backfill=built_at)
        bench.cycle()
        return bench.published[-1]

    def test_is_none_if_backfill_is_disabled(self) -> None:
        assert self.publish(Bench(FakeTempo()), None, None).backfill is None

    def test_is_current_while_windows_are_pending(self) -> None:
        bench = Bench(FakeTempo())
        current = ledger_status(done=5, pending=3)
        assert self.publish(bench, current, ledger_status(done=2, pending=6)).backfill is current

    def test_is_complete_beside_a_table_that_covers_the_ledger(self) -> None:
        complete = replace(ledger_status(done=8), completed_at=NOW)
        assert self.publish(Bench(FakeTempo()), complete, ledger_status(done=8)).backfill is complete

    @pytest.mark.parametrize("is_tempo_away", [False, True])
    def test_is_not_complete_before_a_table_covers_the_ledger(self, is_tempo_away: bool) -> None:
        bench = Bench(FakeTempo())
        if is_tempo_away:
            bench.tempo.before_search = fail
        old = ledger_status(done=2, pending=6)
        complete = ledger_status(done=8)
        assert self.publish(bench, complete, old).backfill is old
        almost = ledger_status(done=7, pending=1)
        assert self.publish(bench, almost, old).backfill is almost
        # The state that was published last is newer than that of the table.
        assert self.publish(bench, complete, old).backfill is almost
        assert self.publish(bench, complete, complete).backfill is complete

    def test_of_the_hour_before_stays_until_a_table_covers_the_next_window(self) -> None:
        bench = Bench(FakeTempo())
        before, after = ledger_status(done=8), replace(ledger_status(done=8), wanted_since=NOON)
        assert self.publish(bench, before, before).backfill is before
        assert self.publish(bench, after, before).backfill is before
        assert self.publish(bench, after, after).backfill is after

    def test_is_that_of_the_table_if_a_published_one_is_not_covered(self) -> None:
        bench = Bench(FakeTempo())
        first, second, older = ledger_status(done=8), ledger_status(done=9), ledger_status(done=2, pending=6)
        assert self.publish(bench, first, first).backfill is first
        # The clock was set back to an hour whose table is older.
        assert self.publish(bench, second, older).backfill is older

    def test_is_read_before_the_table_and_the_totals(self) -> None:
        bench = Bench(FakeTempo())
        bench.cycle()
        assert bench.history.requests[-3:] == ["backfill", "table", "facts"]
