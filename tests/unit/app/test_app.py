"""The composition root, a single pass, and a running app."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from exporter.app.app import App, PassResult, ReadingChangedError, build_app
from exporter.app.settings import (
    backfill_settings,
    client_settings,
    evaluation_settings,
    poll_settings,
    reading_description,
    series_rules,
)
from exporter.baseline.levels import FallbackLevel, FallbackRules
from exporter.baseline.outlier import OutlierRule
from exporter.config import Config
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace
from exporter.detection.flag import Flag, FlagKind, encode_flags
from exporter.detection.parameters import Parameters
from exporter.evaluation.settings import EvaluationSettings, PollSettings
from exporter.evaluation.snapshot import Snapshot
from exporter.ingest.backfill import BackfillSettings
from exporter.ingest.exact_reader import Budget
from exporter.ingest.series_filter import SeriesRules
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.accumulator import WindowContent, WindowDigest
from exporter.model.calendar import HOUR_SECONDS, DayType, Slot
from exporter.model.failure_rule import STATUS_IS_ERROR, FailureRule
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import encode_failures
from exporter.model.ledger import LedgerEntry, LedgerProgress, Window, WindowState
from exporter.model.span import SeriesKey
from exporter.store import Store, StoredSeries
from exporter.tempo import ClientSettings
from tests.support.samples import DAY, HOUR, KEY, NOON, NS, Clock, around, event_of, events
from tests.support.wsgi import ask

NOW = NOON + 1800.0
SHAPE = TraceShape((Operation(*KEY[:2]),), (ROOT,))
DEADLINE_SECONDS = 30


def trace(number: int, start: float, seconds: float) -> Trace:
    return make_trace(number, SHAPE, [SpanTimes(number, round(start * NS), round(seconds * NS))])


def traffic() -> list[Trace]:
    """A week with sixty traces an hour, and the last minutes."""
    traces: list[Trace] = []
    for start in range(NOON - 7 * DAY, NOON + HOUR, HOUR):
        for position, seconds in enumerate(around(0.1, 60)):
            begin = start + 60 * position
            if begin + seconds < NOW:
                traces.append(trace(len(traces) + 1, begin, seconds))
    return traces


@pytest.fixture(scope="module")
def tempo() -> Iterator[TempoServer]:
    with TempoServer(TraceStore(traffic()), clock=Clock(NOW)) as server:
        yield server


def config(url: str, **sections: Mapping[str, object]) -> Config:
    values: dict[str, object] = {"tempo": {"url": url, "requests_per_second": 10_000}}
    return Config.model_validate(values | sections)


Build = Callable[[Config], App]


@pytest.fixture
def build() -> Iterator[Build]:
    """Builds apps whose clock stands still, and closes them."""
    apps: list[App] = []

    def build_and_keep(config: Config) -> App:
        apps.append(build_app(config, Store.in_memory(), SelfMetrics(), clock=Clock(NOW)))
        return apps[-1]

    yield build_and_keep
    for app in apps:
        app.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestOnePass:
    def test_reads_the_whole_history_and_evaluates(self, tempo: TempoServer, build: Build) -> None:
        app = build(config(tempo.url))
        result = app.one_pass()
        assert result.complete
        assert result.progress is not None
        assert (result.progress.windows, result.progress.done, result.progress.pending) == (168, 168, 0)
        assert result.snapshot is not None
        (status,) = result.snapshot.series
        assert (status.key, status.level, status.shift) == (KEY, FallbackLevel.EXACT, False)
        assert status.baseline is not None
        assert status.baseline.p50_seconds == pytest.approx(0.1, rel=0.02)
        assert status.current_traces == 10
        assert 'tempo_anomaly_baseline_fallback_level{service_name="checkout",span_name="GET /cart"} 1.0\n' in (
            app.exposition()
        )
        assert result.snapshot.history.traces == 168 * 60

    def test_without_backfill_only_current_traffic_is_read(self, tempo: TempoServer, build: Build) -> None:
        result = build(config(tempo.url, polling={"backfill_enabled": False})).one_pass()
        assert result.complete
        assert result.progress is None
        assert result.snapshot is not None
        (status,) = result.snapshot.series
        assert (status.level, status.current_traces) == (FallbackLevel.UNAVAILABLE, 10)

    def test_time_zone_and_calendar_determine_the_hours(self, tempo: TempoServer) -> None:
        store = Store.in_memory()
        changes: dict[str, Mapping[str, object]] = {
            "calendar": {"weekend": ["tuesday"]},
            "polling": {"backfill_duration": "50h"},
        }
        local = config(tempo.url, **changes).model_copy(update={"timezone": "Asia/Kathmandu"})
        app = build_app(local, store, SelfMetrics(), clock=Clock(NOW))
        snapshot = app.one_pass().snapshot
        # In Nepal it is a quarter past six, and hours begin a quarter past those of UTC.
        assert {entry.window.start % HOUR for entry in store.ledger(0, int(NOW))} == {900}
        app.close()
        assert snapshot is not None
        (status,) = snapshot.series
        assert status.baseline is not None
        assert status.baseline.slot == Slot(18, DayType.WEEKEND)

    def test_is_incomplete_without_tempo(self, build: Build) -> None:
        with TempoServer(TraceStore([])) as gone:
            url = gone.url
        app = build(config(url, polling={"backfill_enabled": False}))
        result = app.one_pass()
        assert not result.polled
        assert not result.complete
        assert "tempo_anomaly_tempo_up 0.0\n" in app.exposition()

    @pytest.mark.parametrize(
        ("state", "complete"), [({}, True), ({"pending": 1}, False), ({"failed": 1}, False), ({"partial": 1}, False),
                                ({"empty": 9, "expired": 9}, True), ({"done": 0, "empty": 9}, False)]
    )  # fmt: skip
    def test_is_complete_when_everything_that_tempo_has_was_read(self, state: dict[str, int], complete: bool) -> None:
        counts = {"pending": 0, "done": 3, "empty": 0, "partial": 0, "failed": 0, "expired": 0} | state
        progress = LedgerProgress(**counts, traces_read=1, traces_there=1.0)
        assert PassResult(Snapshot(NOW), progress, polled=True).complete is complete
        assert PassResult(Snapshot(NOW), progress, polled=False).complete is False


class TestRunning:
    def test_reads_evaluates_serves_and_stops(
        self, tempo: TempoServer, build: Build, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = build(config(tempo.url))
        assert ask(app.site, "/-/ready").status == "503 Service Unavailable"
        assert ask(app.site, "/-/healthy").status == "200 OK"
        app.start()
        wait_until(lambda: app.progress is not None and app.progress.complete)
        wait_until(lambda: ask(app.site, "/-/ready").status == "200 OK")
        assert b"checkout" in ask(app.site, "/").body
        app.close()
        assert events(caplog, logging.WARNING) == [], "a thread did not stop in time"

    def test_serves_current_traffic_before_the_baseline_table_is_built(
        self, tempo: TempoServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = Store.in_memory()
        # Without the cycle that a new table triggers, the next poll would be an hour away.
        settings = config(tempo.url, polling={"tempo_interval": "1h"})
        build_app(settings, store, SelfMetrics(), clock=Clock(NOW)).one_pass()
        store.save_baseline_table(NOON, b"")
        store.save_flags({KEY: encode_flags({FlagKind.SHIFT: Flag(firing=True, since=NOW - 60)})}, {})
        read_history, released = store.history, threading.Event()

        def read_history_later(*args: object, **options: object) -> Iterator[StoredSeries]:
            assert released.wait(DEADLINE_SECONDS)
            return read_history(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "history", read_history_later)
        app = build_app(settings, store, SelfMetrics(), clock=Clock(NOW), baseline_patience_seconds=0.0)

        def samples() -> dict[str, str]:
            page = ask(app.site, "/metrics").body.decode()
            found = re.findall(r'^tempo_anomaly_(\w+)(?:\{(?:kind="(\w+)",)?\w.*\})? (\S+)$', page, re.MULTILINE)
            return {f"{name} {kind}".strip(): value for name, kind, value in found}

        app.start()
        wait_until(lambda: ask(app.site, "/-/ready").status == "200 OK")
        before = samples()
        released.set()
        wait_until(lambda: "baseline_p50_seconds" in samples())
        app.close()
        after = samples()
        assert (before["current_traces"], before["series"], before["anomalous shift"]) == ("10.0", "1.0", "1.0")
        assert before["history_windows"] == after["history_windows"] == "168.0"
        assert {name for name in after if name not in before} >= {
            "baseline_p50_seconds", "baseline_fallback_level", "outlier_threshold_seconds", "score",
            "anomalous outlier", "series_learning",
        }  # fmt: skip

    @pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy"])
    def test_answers_before_anything_was_read(self, path: str, build: Build) -> None:
        assert ask(build(config("http://localhost:1")).site, path).status == "200 OK"

    def test_firing_flags_continue_on_an_empty_database(self, tmp_path: Path) -> None:
        firing = Flag(firing=True, since=NOW - 60)
        store = Store.open(tmp_path / "history.db")
        app = build_app(
            config("http://localhost:1"), store, SelfMetrics(), clock=Clock(NOW), flags={KEY: {FlagKind.SHIFT: firing}}
        )
        assert app.flags() == {KEY: {FlagKind.SHIFT: firing}}
        assert store.flags() == {}, "building writes nothing"
        app.save_flags()
        app.close()
        with closing(Store.open(tmp_path / "history.db")) as reopened:
            assert list(reopened.flags()) == [KEY], "the flag would not survive a restart"


class TestReading:
    """A history belongs to the scope, tenant and filter that it was read with."""

    RIGHT = 'name="GET /cart"'
    WRONG = 'name="GET /card"'

    @staticmethod
    def filtered(url: str, filter_: str) -> Config:
        return config(url, tempo={"url": url, "filter": filter_, "requests_per_second": 10_000})

    def test_building_writes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "history.db"
        Store.open(path).close()
        before = path.read_bytes()
        build_app(config("http://localhost:1"), Store.open(path), SelfMetrics()).close()
        assert path.read_bytes() == before

    def test_a_wrong_filter_can_be_corrected_while_no_window_is_stored(self, tempo: TempoServer) -> None:
        store = Store.in_memory()
        build_app(self.filtered(tempo.url, self.WRONG), store, SelfMetrics(), clock=Clock(NOW))
        app = build_app(self.filtered(tempo.url, self.RIGHT), store, SelfMetrics(), clock=Clock(NOW))
        result = app.one_pass()
        assert (result.complete, store.totals().traces) == (True, 168 * 60)
        app.close()

    def test_a_wrong_filter_can_be_corrected_after_it_has_matched_nothing(self, tempo: TempoServer) -> None:
        store = Store.in_memory()
        wrong = build_app(self.filtered(tempo.url, self.WRONG), store, SelfMetrics(), clock=Clock(NOW))
        progress = wrong.one_pass().progress
        assert progress is not None
        assert (progress.empty, progress.done) == (168, 0)
        app = build_app(self.filtered(tempo.url, self.RIGHT), store, SelfMetrics(), clock=Clock(NOW))
        result = app.one_pass()
        assert result.progress is not None
        assert (result.complete, result.progress.done, store.totals().traces) == (True, 168, 168 * 60)
        app.close()

    def test_another_filter_is_refused_once_traces_are_stored(self, tempo: TempoServer) -> None:
        store = Store.in_memory()
        right = self.filtered(tempo.url, self.RIGHT)
        build_app(right, store, SelfMetrics(), clock=Clock(NOW)).one_pass()
        with pytest.raises(ReadingChangedError) as refused:
            build_app(self.filtered(tempo.url, self.WRONG), store, SelfMetrics(), clock=Clock(NOW))
        assert str(refused.value) == (
            "the database holds a history that was read with tempo.scope=entry tempo.tenant='' "
            "tempo.filter='name=\"GET /cart\"', but the configuration has tempo.scope=entry tempo.tenant='' "
            "tempo.filter='name=\"GET /card\"'. One history cannot hold both: set storage.path to a new file, or "
            "restore the previous setting."
        )
        build_app(right, store, SelfMetrics(), clock=Clock(NOW)).close()

    def test_history_of_the_old_default_scope_is_refused_with_what_to_set(self, tempo: TempoServer) -> None:
        def scoped(**scope: str) -> Config:
            return config(tempo.url, tempo={"url": tempo.url, "requests_per_second": 10_000, **scope})

        store = Store.in_memory()
        metrics = SelfMetrics()
        build_app(scoped(scope="root"), store, metrics, clock=Clock(NOW)).one_pass()
        assert metrics.registry.get_sample_value("tempo_anomaly_rootless_traces_ratio") == 0
        with pytest.raises(ReadingChangedError) as refused:
            build_app(scoped(), store, SelfMetrics(), clock=Clock(NOW))
        assert str(refused.value) == (
            "the database holds a history that was read with tempo.scope=root tempo.tenant='' tempo.filter='', but the "
            "configuration has tempo.scope=entry tempo.tenant='' tempo.filter=''. One history cannot hold both: set "
            "tempo.scope: root to keep this history (the default changed from root to entry), or set storage.path to a "
            "new file to start one with tempo.scope: entry, which is read from Tempo in minutes."
        )
        build_app(scoped(scope="root"), store, SelfMetrics(), clock=Clock(NOW)).close()


class TestIdentity:
    """Attributes decide the series: two environments under one service name, and a route under the name of a method."""

    ROUTE = (("http.route", "/cart"), ("http.request.method", "GET"))
    SECONDS: ClassVar = {"prod": 0.1, "staging": 0.4}
    SERIES: ClassVar[Mapping[str, object]] = {
        "labels": [["resource.deployment.environment.name", "resource.deployment.environment"]],
        "span_name": ["span.http.route", "name"],
    }

    @pytest.fixture(scope="class")
    @classmethod
    def environments(cls) -> Iterator[TempoServer]:
        traces = []
        for number, (environment, seconds) in enumerate(cls.SECONDS.items()):
            old_or_new = "deployment.environment" + (".name" if number else "")
            operation = Operation("shop", "GET", "server", ((old_or_new, environment),), cls.ROUTE)
            for position, start in enumerate(range(NOON - 7 * DAY, int(NOW) - 60, 60)):
                times = [SpanTimes(position + 1, start * NS, round(seconds * NS * (1 + position % 7 / 50)))]
                traces.append(make_trace(2 * position + number + 1, TraceShape((operation,), (ROOT,)), times))
        with TempoServer(TraceStore(traces), clock=Clock(NOW)) as server:
            yield server

    def key(self, environment: str) -> SeriesKey:
        return SeriesKey("shop", "GET /cart", (("deployment_environment_name", environment),))

    def test_each_environment_has_a_baseline_of_its_own(self, environments: TempoServer, build: Build) -> None:
        app = build(config(environments.url, series=self.SERIES))
        result = app.one_pass()
        assert result.complete
        assert result.snapshot is not None
        found = {status.key: status for status in result.snapshot.series}
        assert set(found) == {self.key(environment) for environment in self.SECONDS}
        for environment, seconds in self.SECONDS.items():
            status = found[self.key(environment)]
            assert status.baseline is not None
            assert status.baseline.p50_seconds == pytest.approx(seconds * 1.06, rel=0.03)
            assert status.current_p50_seconds == pytest.approx(seconds * 1.06, rel=0.03)
        assert (
            'tempo_anomaly_baseline_fallback_level{deployment_environment_name="staging",service_name="shop",'
            'span_name="GET /cart"} 1.0\n'
        ) in app.exposition()

    def test_a_rare_environment_is_read_whole_where_another_is_dense(self) -> None:
        counts = {"prod": 3000, "staging": 12, "": 12}
        traces: list[Trace] = []
        for environment, count in counts.items():
            resource = (("deployment.environment.name", environment),) if environment else ()
            shape = TraceShape((Operation("shop", "GET", "server", resource),), (ROOT,))
            for number in range(2 * count):
                start_ns = round((NOON - 3 * HOUR + (number + 0.5) * HOUR / count) * NS)
                traces.append(make_trace(len(traces) + 1, shape, [SpanTimes(number + 1, start_ns, NS // 10)]))
        store = Store.in_memory()
        with TempoServer(TraceStore(traces), clock=Clock(NOW)) as tempo:
            settings = config(
                tempo.url,
                series={"labels": [["resource.deployment.environment.name", "resource.deployment.environment"]]},
                tempo={"url": tempo.url, "requests_per_second": 10_000, "limit": 500},
                polling={"max_traces_per_window": 1000, "backfill_duration": "4h", "backfill_batch": "1h"},
            )
            app = build_app(settings, store, SelfMetrics(), clock=Clock(NOW))
            app.one_pass()
            by_name = [each["q"] for each in tempo.searches() if "staging" in each["q"]]
            counted = store.traffic(store.series(), 0, NOON)
            found = {each.key.labels: sum(traces for _, traces in each.windows) for each in counted}
            app.close()
        assert by_name
        assert found[(("deployment_environment_name", "staging"),)] == 2 * counts["staging"]
        # TraceQL cannot ask for spans without an attribute, so these are in the sample like the dense ones.
        assert found.get((), 0) <= 2 * counts[""]
        assert 500 < found[(("deployment_environment_name", "prod"),)] < 2 * counts["prod"]

    def test_another_identity_is_logged_once_and_the_history_stays(
        self, environments: TempoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        polling = {"backfill_duration": "24h"}

        def passed(series: Mapping[str, object]) -> list[SeriesKey]:
            store = Store.open(tmp_path / "history.db")
            app = build_app(
                config(environments.url, series=series, polling=polling), store, SelfMetrics(), clock=Clock(NOW)
            )
            app.one_pass()
            app.close()
            with closing(Store.open_readonly(tmp_path / "history.db")) as stored:
                return stored.series()

        bare = SeriesKey("shop", "GET")
        assert passed({}) == [bare]
        assert "series_identity_changed" not in events(caplog)
        # The windows are read already. Current traffic has the new names.
        assert passed(self.SERIES) == [bare]
        (record,) = (each for each in caplog.records if event_of(each) == "series_identity_changed")
        fields = record.exporter_fields  # type: ignore[attr-defined]
        assert fields == {
            "before": "series.labels=[] series.span_name=[name]",
            "now": "series.labels=[[resource.deployment.environment.name, resource.deployment.environment]] "
            "series.span_name=[span.http.route, name]",
        }


class TestFailures:
    def test_another_rule_is_logged_and_its_failures_are_unknown(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "history.db"

        def started(**errors: object) -> list[bytes | None]:
            store = Store.open(path)
            build_app(config("http://127.0.0.1:9", detection={"errors": errors}), store, SelfMetrics())
            found = [window.failures for each in store.history(store.series(), 0, NOON) for window in each.windows]
            store.close()
            return found

        key = SeriesKey("shop", "GET /")
        with closing(Store.open(path)) as store:
            store.declare_failure_rule("status = error")
            window = Window(NOON - 2 * HOUR, NOON - HOUR)
            content = WindowContent(window, {key: WindowDigest(Digest({5: 3}), {1: Digest({5: 3})}, {1: 2})}, {})
            store.commit([LedgerEntry(window, WindowState.DONE, NOON, 3, 3, 1.0)], [content])
        assert started() == started(when="status  = error") == [encode_failures({1: 2})]
        started(enabled=False)
        assert "failure_rule_changed" not in events(caplog)
        assert started(when="status != ok") == [None]
        (record,) = (each for each in caplog.records if event_of(each) == "failure_rule_changed")
        assert record.exporter_fields == {"before": "status = error", "now": "status != ok"}  # type: ignore[attr-defined]
        assert started() == [encode_failures({1: 2})]

    def test_failures_are_read_by_the_configured_rule(self) -> None:
        assert client_settings(Config()).failures == STATUS_IS_ERROR
        rule = "span.http.status_code >= 500"
        configured = Config.model_validate({"detection": {"errors": {"when": rule}}})
        assert client_settings(configured).failures == FailureRule(rule)
        assert client_settings(Config.model_validate({"detection": {"errors": {"enabled": False}}})).failures is None


class TestSettings:
    """Every key of the configuration has a distinct value, so that no key can be mistaken for another."""

    def test_client_settings_have_the_configured_values(self) -> None:
        config = Config.model_validate(
            {
                "tempo": {
                    "url": "https://tempo.example/prefix/",
                    "auth_token": "token",
                    "auth_token_file": "/token",
                    "basic_auth": {"username": "user", "password": "secret", "password_file": "/password"},
                    "tenant": "team",
                    "headers": {"X-Key": "value"},
                    "tls": {"ca_file": "/ca", "cert_file": "/cert", "key_file": "/key", "insecure_skip_verify": True},
                    "timeout": "1500ms",
                    "scope": "entry",
                    "filter": 'name="x"',
                    "limit": 17,
                    "max_concurrency": 3,
                    "requests_per_second": 2.5,
                },
                "stats": {"max_duration": "90m"},
                "polling": {"backfill_duration": "40d"},
            }
        )
        expected = {
            "url": "https://tempo.example/prefix",
            "auth_token": "token",
            "auth_token_file": "/token",
            "username": "user",
            "password": "secret",
            "password_file": "/password",
            "tenant": "team",
            "headers": {"X-Key": "value"},
            "ca_file": "/ca",
            "cert_file": "/cert",
            "key_file": "/key",
            "insecure_skip_verify": True,
            "timeout_seconds": 1.5,
            "scope": "entry",
            "filter": 'name="x"',
            "limit": 17,
            "max_concurrency": 3,
            "requests_per_second": 2.5,
            "max_age_seconds": 40 * 86_400.0,
            "max_duration_seconds": 5400.0,
        }
        assert client_settings(config) == ClientSettings(**expected)  # type: ignore[arg-type]
        patient = Config.model_validate({"stats": {"max_duration": "60d"}})
        assert client_settings(patient).max_age_seconds == 60 * 86_400.0
        assert reading_description(config) == "tempo.scope=entry tempo.tenant='team' tempo.filter='name=\"x\"'"

    def test_reader_settings_have_the_configured_values(self) -> None:
        config = Config.model_validate(
            {
                "tempo": {"limit": 17, "max_concurrency": 3},
                "polling": {
                    "tempo_interval": "7s",
                    "tempo_lookback": "70s",
                    "backfill_duration": "50h",
                    "backfill_batch": "30m",
                    "settle": "11m",
                    "late": "7h",
                },
                "storage": {"retention": "20d"},
                "detection": {"window": "4m", "max_window": "40m"},
            }
        )
        expected = BackfillSettings(50 * 3600, 1800, 660, 20 * DAY, 3, Budget(50_000, 100), 7 * 3600, 70)
        assert backfill_settings(config) == expected
        assert poll_settings(config) == PollSettings(7, 70, 240, 2400, 50_000, Budget(20_000, 50), DAY)

    def test_evaluation_settings_have_the_configured_values(self) -> None:
        config = Config.model_validate(
            {
                "stats": {"factor": 3.5, "k": 12, "min_samples": 51, "mad_epsilon": "2ms"},
                "fallback": {
                    "nearby_hours_range": 3,
                    "nearby_min_samples": 52,
                    "daytype_global_min_samples": 53,
                    "full_global_min_samples": 54,
                },
                "detection": {
                    "window": "4m",
                    "min_traces": 11,
                    "max_window": "40m",
                    "ratio": 1.5,
                    "min_delta": "6ms",
                    "swing": 2.6,
                    "alpha": 0.002,
                    "hold": "61s",
                    "clear_hold": "121s",
                    "lookback": "10d",
                    "accept_after": "25h",
                },
                "series": {"stale_after": "23h"},
            }
        )
        assert evaluation_settings(config) == EvaluationSettings(
            FallbackRules(
                min_samples=51,
                nearby_hours_range=3,
                nearby_min_samples=52,
                daytype_min_samples=53,
                global_min_samples=54,
                lookback_seconds=10 * DAY,
            ),
            OutlierRule(factor=3.5, k=12, mad_epsilon_seconds=0.002),
            Parameters(
                window_seconds=240,
                min_traces=11,
                max_window_seconds=2400,
                ratio=1.5,
                min_delta_seconds=0.006,
                swing=2.6,
                alpha=0.002,
                hold_seconds=61,
                clear_hold_seconds=121,
                accept_after_seconds=25 * HOUR_SECONDS,
            ),
            stale_after_seconds=23 * HOUR,
        )

    @pytest.mark.parametrize(
        ("key", "levels"),
        [
            ("enabled", [1]),
            ("nearby_hours_enabled", [1, 3, 4]),
            ("daytype_global_enabled", [1, 2, 4]),
            ("full_global_enabled", [1, 2, 3]),
        ],
    )
    def test_each_fallback_level_can_be_disabled(self, key: str, levels: list[int]) -> None:
        rules = evaluation_settings(Config.model_validate({"fallback": {key: False}})).fallback
        assert [int(level) for level, _ in rules.levels()] == levels

    def test_series_rules_have_the_configured_values(self) -> None:
        config = Config.model_validate(
            {
                "series": {
                    "max": 7,
                    "include": ["^shop/"],
                    "exclude": ["health"],
                    "rename": [{"match": "[0-9]+", "replace": "{n}"}],
                }
            }
        )
        rules = series_rules(config)
        assert isinstance(rules, SeriesRules)
        assert rules.max_series == 7
        assert rules.renamed(SeriesKey("shop", "GET /cart/12")) == SeriesKey("shop", "GET /cart/{n}")
        assert [rules.accepts(SeriesKey(*key)) for key in (("shop", "a"), ("auth", "a"), ("shop", "health"))] == [
            True, False, False,
        ]  # fmt: skip

    def test_the_defaults_are_those_of_the_components(self) -> None:
        settings = evaluation_settings(Config())
        assert (settings.fallback, settings.outlier, settings.shift) == (FallbackRules(), OutlierRule(), Parameters())
        assert client_settings(Config()) == ClientSettings()
        assert series_rules(Config()) == SeriesRules(include=[], exclude=[], rename=[])
