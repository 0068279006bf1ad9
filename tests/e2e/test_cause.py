"""The cause of an incident, from the traffic of the demo over HTTP to the metrics, with a simulated clock."""

import math
import shutil
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from exporter.app.app import App, build_app
from exporter.cause.verdict import CauseKind
from exporter.config import Config
from exporter.demo.endpoints import Call, Endpoint, SyntheticTraces
from exporter.demo.faults import SLOW_INSTANCE, FaultKind
from exporter.demo.latency import HOUR_SECONDS
from exporter.demo.routes import ApiOptions
from exporter.demo.scenario import FAULT_SERVICE, INCIDENT_SERVICE, INCIDENT_SPAN, calendar_weekend, demo_scenario
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import Operation, TraceSource
from exporter.demo.traffic import SeriesProfile
from exporter.evaluation.causes.shift_cause import ShiftCause
from exporter.evaluation.snapshot import SeriesStatus
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.span import SeriesKey
from exporter.store import Store
from tests.support.traffic import JoinedTraces

ANCHOR: Final = datetime(2026, 3, 4, 10, 20, tzinfo=UTC).timestamp()
TICK_SECONDS: Final = 15.0
KEY: Final = SeriesKey(INCIDENT_SERVICE, INCIDENT_SPAN)
PAGE: Final = SeriesKey("web", "GET /page")
WITHIN_SECONDS: Final = 240


def status_of(app: App, key: SeriesKey) -> SeriesStatus | None:
    snapshot = app.publishing.snapshot()
    assert snapshot is not None
    return next((each for each in snapshot.series if each.key == key), None)


def demo_with(fault: FaultKind) -> TraceSource:
    return demo_scenario(ANCHOR, incident_after_seconds=0.0, fault=fault)


def app_at(time: list[float], database: Path, traces: TraceSource, stack: ExitStack) -> App:
    tempo = stack.enter_context(
        TempoServer(traces, ApiOptions(visible_after_seconds=9.0, idle_seconds=10.0), clock=lambda: time[0])
    )
    config = Config.model_validate(
        {
            "tempo": {"url": tempo.url, "requests_per_second": 2000, "scope": "root"},
            "calendar": {"weekend": list(calendar_weekend(ANCHOR))},
            "polling": {"backfill_duration": "72h"},
        }
    )
    app = build_app(config, Store.open(database), SelfMetrics(), clock=lambda: time[0])
    stack.callback(app.close)
    return app


def read_history(database: Path, traces: TraceSource) -> None:
    with ExitStack() as stack:
        app_at([ANCHOR], database, traces, stack).one_pass()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traffic before the incident, which is the same for all faults, read and evaluated."""
    database = tmp_path_factory.mktemp("history") / "history.db"
    read_history(database, demo_with("slow_call"))
    return database


def cause_of_incident(database: Path, traces: TraceSource, key: SeriesKey, stack: ExitStack) -> tuple[App, ShiftCause]:
    """Let the incident begin, wait for the flag, and look for its cause as the exporter's thread does."""
    time = [ANCHOR]
    app = app_at(time, database, traces, stack)
    app.evaluation.manager.open_table(time[0])
    causes = app.evaluation.causes
    assert causes is not None
    while True:
        time[0] += TICK_SECONDS
        assert time[0] < ANCHOR + WITHIN_SECONDS, "the flag did not fire"
        app.evaluation.poller.cycle()
        status = status_of(app, key)
        if status is not None and status.shift:
            break
    while causes.look_at_next() <= 0:
        pass
    app.evaluation.poller.cycle()
    status = status_of(app, key)
    assert status is not None
    assert status.cause is not None
    return app, status.cause


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fault", "kind", "span"),
    [
        ("slow_call", CauseKind.SLOWER_CALLS, "INSERT entries"),
        ("slow_instance", CauseKind.SLOWER_CALLS, "ledger.v1.Ledger/Book"),
        ("more_calls", CauseKind.MORE_CALLS, "INSERT entries"),
        ("slow_network", CauseKind.PATH, "ledger.v1.Ledger/Book"),
        ("retries", CauseKind.MORE_CALLS, "ledger.v1.Ledger/Book"),
    ],
)
def test_each_cause_is_named_and_published(
    history: Path, tmp_path: Path, fault: FaultKind, kind: CauseKind, span: str
) -> None:
    database = tmp_path / "history.db"
    shutil.copy(history, database)
    with ExitStack() as stack:
        app, cause = cause_of_incident(database, demo_with(fault), KEY, stack)
        verdict = cause.verdict
        assert (verdict.kind, verdict.service_name) == (kind, FAULT_SERVICE), cause.text
        assert verdict.parts[0].change.component.span_name == span
        assert cause.requests <= 8
        if fault == "slow_instance":
            assert f"ledger-7c9f-{SLOW_INSTANCE}" in cause.text
        page = app.exposition()
    labels = f'cause="{kind.value}",cause_service_name="{FAULT_SERVICE}",cause_span_name="{span}",'
    labels += f'service_name="{INCIDENT_SERVICE}",span_name="{INCIDENT_SPAN}"'
    assert f"tempo_anomaly_shift_cause_ratio{{{labels}}} " in page
    assert page.count("tempo_anomaly_shift_cause_ratio{") <= 3
    assert 'tempo_anomaly_cause_attempts_total{outcome="known"} 1.0' in page
    assert "tempo_anomaly_search_by_id_available 1.0" in page
    (requests,) = [line for line in page.splitlines() if 'tempo_requests_total{loop="cause"}' in line]
    assert float(requests.split()[-1]) == cause.requests


def call(service: str, name: str, start_share: float, max_share: float, *calls: Call) -> Call:
    """Return a call of the page's service to another one."""
    outgoing = Operation(PAGE.service_name, name, "client")
    return Call(outgoing, start_share, max_share, (Call(Operation(service, name), 0.05, 0.9, calls),))


CACHED: Final = (call("cache", "cache.Get", 0.1, 0.6),)
REPORT: Final = (
    call("users", "users.Get", 0.02, 0.1),
    call("reports", "reports.Render", 0.15, 0.8, Call(Operation("reports", "SELECT rows", "client"), 0.1, 0.8)),
)
CACHED_SECONDS: Final = 0.06
REPORT_SECONDS: Final = 0.6
PER_MINUTE_BEFORE: Final = 4.0
PER_MINUTE_NOW: Final = 20.0


def two_kinds(share_before: float, share_now: float, *, slower_now: float = 1.0) -> TraceSource:
    """Return requests of a page that are answered from a cache or by a report, which takes ten times as long.

    Args:
        share_before: share of the reports in three days of history.
        share_now: their share since the anchor.
        slower_now: what multiplies the time that reports take since then.
    """
    sources = []
    for calls, seconds, before, now, factor in (
        (CACHED, CACHED_SECONDS, 1 - share_before, 1 - share_now, 1.0),
        (REPORT, REPORT_SECONDS, share_before, share_now, slower_now),
    ):
        past = SeriesProfile(
            rate_per_minute=PER_MINUTE_BEFORE * before,
            base_seconds=seconds,
            weekend=frozenset(),
            gaps=((ANCHOR, math.inf),),
        )
        present = SeriesProfile(
            rate_per_minute=PER_MINUTE_NOW * now, base_seconds=seconds * factor, weekend=frozenset(), begins_at=ANCHOR
        )
        for name, profile in (("before", past), ("now", present)):
            endpoint = Endpoint(Operation(PAGE.service_name, PAGE.span_name), profile, calls)
            seed = f"{calls[0].operation.name} {name}"
            sources.append(SyntheticTraces([endpoint], seed, begin=ANCHOR - 73 * HOUR_SECONDS))
    return JoinedTraces(sources)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("share_before", "share_now"), [(0.3, 0.75), (0.1, 0.6), (0.05, 0.6), (0.02, 0.6), (0.01, 0.6)]
)
def test_another_mix_of_requests_is_not_blamed_on_a_service(
    tmp_path: Path, share_before: float, share_now: float
) -> None:
    traces = two_kinds(share_before, share_now)
    read_history(tmp_path / "history.db", traces)
    with ExitStack() as stack:
        app, cause = cause_of_incident(tmp_path / "history.db", traces, PAGE, stack)
        assert cause.verdict.service_name is None, cause.text
        assert cause.verdict.kind is CauseKind.MIX, cause.text
        assert "requests of the same kind take as long as before" in cause.text
        if share_before <= 0.05:
            assert 'those that call reports "reports.Render" are ' in cause.text
        assert cause.requests <= 12
        page = app.exposition()
    names = f'service_name="{PAGE.service_name}",span_name="{PAGE.span_name}"'
    assert f'tempo_anomaly_shift_cause_ratio{{cause="mix",cause_service_name="",cause_span_name="",{names}}} ' in page
    assert page.count("tempo_anomaly_shift_cause_ratio{") == 1


@pytest.mark.timeout(600)
def test_slower_requests_of_one_kind_are_blamed_on_their_service_in_the_same_mix(tmp_path: Path) -> None:
    traces = two_kinds(0.3, 0.3, slower_now=6.0)
    read_history(tmp_path / "history.db", traces)
    with ExitStack() as stack:
        _, cause = cause_of_incident(tmp_path / "history.db", traces, PAGE, stack)
        assert (cause.verdict.kind, cause.verdict.service_name) == (CauseKind.SLOWER_CALLS, "reports"), cause.text
