import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec
import pytest

from exporter.app import app as runner
from exporter.app.app import Exporter, PassResult, ReadingChangedError
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
from exporter.detection.flag import Flag
from exporter.detection.parameters import Parameters
from exporter.evaluation.poller import PollSettings
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import Snapshot
from exporter.ingest.backfill import BackfillSettings
from exporter.ingest.exact_reader import Budget
from exporter.ingest.series_filter import SeriesRules
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.calendar import HOUR_SECONDS, DayType, Slot
from exporter.model.ledger import LedgerProgress
from exporter.model.span import SeriesKey
from exporter.store import Store, StoredSeries
from exporter.tempo import ClientSettings
from tests.support.samples import DAY, HOUR, KEY, NOON, NS, Clock, around
from tests.support.wsgi import ask

NOW = NOON + 1800.0
SHAPE = TraceShape((Operation(*KEY),), (ROOT,))
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


@pytest.fixture
def build() -> Iterator[Callable[[Config], Exporter]]:
    """Makes exporters whose time stands still, and closes them."""
    exporters: list[Exporter] = []

    def make(config: Config) -> Exporter:
        exporters.append(Exporter(config, Store.in_memory(), SelfMetrics(), clock=Clock(NOW)))
        return exporters[-1]

    yield make
    for exporter in exporters:
        exporter.close()


def complete(exporter: Exporter) -> bool:
    return exporter.backfill is not None and exporter.backfill.status.progress.complete


class TestOnePass:
    def test_it_reads_all_that_is_wanted_and_judges(
        self, tempo: TempoServer, build: Callable[[Config], Exporter]
    ) -> None:
        exporter = build(config(tempo.url))
        result = exporter.one_pass()
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
            exporter.exposition()
        )
        assert result.snapshot.history.traces == 168 * 60

    def test_without_backfill_there_is_only_the_present(
        self, tempo: TempoServer, build: Callable[[Config], Exporter]
    ) -> None:
        result = build(config(tempo.url, polling={"backfill_enabled": False})).one_pass()
        assert result.complete
        assert result.progress is None
        assert result.snapshot is not None
        (status,) = result.snapshot.series
        assert (status.level, status.current_traces) == (FallbackLevel.UNAVAILABLE, 10)

    def test_time_zone_and_calendar_decide_the_hours(self, tempo: TempoServer) -> None:
        store = Store.in_memory()
        changes: dict[str, Mapping[str, object]] = {
            "calendar": {"weekend": ["tuesday"]},
            "polling": {"backfill_duration": "50h"},
        }
        local = config(tempo.url, **changes).model_copy(update={"timezone": "Asia/Kathmandu"})
        exporter = Exporter(local, store, SelfMetrics(), clock=Clock(NOW))
        snapshot = exporter.one_pass().snapshot
        # In Nepal it is a quarter past six, and hours begin a quarter past those of UTC.
        assert {entry.window.start % HOUR for entry in store.ledger(0, int(NOW))} == {900}
        exporter.close()
        assert snapshot is not None
        (status,) = snapshot.series
        assert status.baseline is not None
        assert status.baseline.slot == Slot(18, DayType.WEEKEND)

    def test_without_tempo_it_is_incomplete(self, build: Callable[[Config], Exporter]) -> None:
        with TempoServer(TraceStore([])) as gone:
            url = gone.url
        exporter = build(config(url, polling={"backfill_enabled": False}))
        result = exporter.one_pass()
        assert not result.polled
        assert not result.complete
        assert "tempo_anomaly_tempo_up 0.0\n" in exporter.exposition()

    @pytest.mark.parametrize(
        ("state", "complete"), [({}, True), ({"pending": 1}, False), ({"failed": 1}, False), ({"partial": 1}, False),
                                ({"empty": 9, "expired": 9}, True)]
    )  # fmt: skip
    def test_it_is_complete_when_nothing_that_could_be_there_is_missing(
        self, state: dict[str, int], complete: bool
    ) -> None:
        counts = {"pending": 0, "done": 3, "empty": 0, "partial": 0, "failed": 0, "expired": 0} | state
        progress = LedgerProgress(**counts, traces_read=1, traces_there=1.0)
        assert PassResult(Snapshot(NOW), progress, polled=True).complete is complete
        assert PassResult(Snapshot(NOW), progress, polled=False).complete is False


class TestRunning:
    def test_it_reads_judges_serves_and_ends(
        self, tempo: TempoServer, build: Callable[[Config], Exporter], caplog: pytest.LogCaptureFixture
    ) -> None:
        exporter = build(config(tempo.url))
        assert ask(exporter.site, "/-/ready").status == "503 Service Unavailable"
        assert ask(exporter.site, "/-/healthy").status == "200 OK"
        exporter.start()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while ask(exporter.site, "/-/ready").status != "200 OK" or not complete(exporter):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert b"checkout" in ask(exporter.site, "/").body
        exporter.close()
        # It would be worth a warning if a part had not ended.
        assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []

    def test_it_serves_what_it_reads_before_it_has_worked_out_what_is_usual_and_that_as_soon_as_it_has(
        self, tempo: TempoServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner, "_BOOK_PATIENCE_SECONDS", 0.0)
        store = Store.in_memory()
        # The next poll but for that is an hour away.
        settings = config(tempo.url, polling={"tempo_interval": "1h"})
        Exporter(settings, store, SelfMetrics(), clock=Clock(NOW)).one_pass()
        store.save_book(NOON, b"")
        store.remember({KEY: msgspec.json.encode(Flag(firing=True, since=NOW - 60)).decode()}, {})
        history, held_back = store.history, threading.Event()

        def history_later(*args: object, **options: object) -> Iterator[StoredSeries]:
            assert held_back.wait(DEADLINE_SECONDS)
            return history(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "history", history_later)
        exporter = Exporter(settings, store, SelfMetrics(), clock=Clock(NOW))

        def samples() -> dict[str, str]:
            page = ask(exporter.site, "/metrics").body.decode()
            found = re.findall(r'^tempo_anomaly_(\w+)(?:\{(?:kind="(\w+)",)?\w.*\})? (\S+)$', page, re.MULTILINE)
            return {f"{name} {kind}".strip(): value for name, kind, value in found}

        def wait_until(ready: Callable[[], bool]) -> None:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not ready():
                assert time.monotonic() < deadline
                time.sleep(0.01)

        exporter.start()
        wait_until(lambda: ask(exporter.site, "/-/ready").status == "200 OK")
        first = samples()
        held_back.set()
        wait_until(lambda: "baseline_p50_seconds" in samples())
        exporter.close()
        then = samples()
        assert (first["current_traces"], first["series"], first["anomalous shift"]) == ("10.0", "1.0", "1.0")
        assert first["history_windows"] == then["history_windows"] == "168.0"
        assert {name for name in then if name not in first} >= {
            "baseline_p50_seconds", "baseline_fallback_level", "outlier_threshold_seconds", "score",
            "anomalous outlier", "series_learning",
        }  # fmt: skip

    @pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy"])
    def test_the_site_answers_before_anything_is_known(self, path: str, build: Callable[[Config], Exporter]) -> None:
        assert ask(build(config("http://localhost:1")).site, path).status == "200 OK"

    def test_a_history_that_was_read_with_something_else_is_refused(self) -> None:
        store = Store.in_memory()
        before = Config.model_validate({"tempo": {"scope": "entry", "tenant": "a b", "filter": 'name="x"'}})
        Exporter(before, store, SelfMetrics())
        with pytest.raises(ReadingChangedError) as refused:
            Exporter(Config(), store, SelfMetrics())
        assert str(refused.value) == (
            "the database holds a history that was read with tempo.scope=entry tempo.tenant='a b' "
            "tempo.filter='name=\"x\"', and the configuration says tempo.scope=root tempo.tenant='' tempo.filter=''. "
            "One history cannot hold both: set storage.path to a new file, or take the change back."
        )
        Exporter(before, store, SelfMetrics())
        store.close()


class TestWiring:
    """Every key of the configuration at a value of its own, so that none can stand for another."""

    def test_what_the_client_needs(self) -> None:
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
                }
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
        }
        assert client_settings(config) == ClientSettings(**expected)  # type: ignore[arg-type]
        assert reading_description(config) == "tempo.scope=entry tempo.tenant='team' tempo.filter='name=\"x\"'"

    def test_what_the_readers_need(self) -> None:
        config = Config.model_validate(
            {
                "tempo": {"limit": 17, "max_concurrency": 3},
                "polling": {
                    "tempo_interval": "7s",
                    "tempo_lookback": "70s",
                    "backfill_duration": "50h",
                    "backfill_batch": "30m",
                    "settle": "11m",
                },
                "storage": {"retention": "20d"},
                "detection": {"window": "4m", "max_window": "40m"},
            }
        )
        assert backfill_settings(config) == BackfillSettings(50 * 3600, 1800, 660, 20 * DAY, 3, Budget(50_000, 100))
        assert poll_settings(config) == PollSettings(7, 70, 240, 2400, 170, Budget(20_000, 50))

    def test_what_a_verdict_depends_on(self) -> None:
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
    def test_each_fallback_can_be_switched_off(self, key: str, levels: list[int]) -> None:
        rules = evaluation_settings(Config.model_validate({"fallback": {key: False}})).fallback
        assert [int(level) for level, _ in rules.levels()] == levels

    def test_which_series_are_watched(self) -> None:
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

    def test_the_defaults_are_those_of_the_parts(self) -> None:
        judge = evaluation_settings(Config())
        assert (judge.fallback, judge.outlier, judge.shift) == (FallbackRules(), OutlierRule(), Parameters())
        assert client_settings(Config()) == ClientSettings()
        assert series_rules(Config()) == SeriesRules(include=[], exclude=[], rename=[])
