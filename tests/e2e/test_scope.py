"""``scope: entry``: services have their own series, regardless of gateways in front of them and of roots."""

import random
import time

import pytest

from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace
from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter
from tests.support.expected_baselines import UTC_WEEK, Baseline, await_baselines, baseline_at
from tests.support.processes import settings
from tests.support.traffic import HOUR, NS, Request

GATEWAY = SeriesKey("gateway", "GET /order")
ORDERS = SeriesKey("orders", "orders.v1.Orders/Get")
MAILER = SeriesKey("mailer", "order.seen process")
SHAPE = TraceShape(
    (
        Operation(*GATEWAY[:2], kind="server"),
        Operation(GATEWAY.service_name, ORDERS.span_name, kind="client"),
        Operation(*ORDERS[:2], kind="server"),
        Operation(ORDERS.service_name, "SELECT orders", kind="client"),
        Operation(*MAILER[:2], kind="consumer"),
        Operation(MAILER.service_name, "render", kind="internal"),
    ),
    (ROOT, 0, 1, 2, 2, 4),
)
ENTRIES = {0: GATEWAY, 2: ORDERS, 4: MAILER}
SPAN_LIMIT = 100
FAN_OUT = TraceShape(
    (Operation(*GATEWAY[:2], kind="server"), *[Operation(*MAILER[:2], kind="consumer")] * (SPAN_LIMIT + 4)),
    (ROOT, *[0] * (SPAN_LIMIT + 4)),
)


def an_order(rng: random.Random, start: float) -> Trace:
    """Return a trace through gateway and orders, with a mailer span ten minutes later."""
    seconds = 0.4 * rng.uniform(0.7, 1.0)
    times = (
        (0.0, seconds), (0.2 * seconds, 0.6 * seconds), (0.25 * seconds, 0.5 * seconds),
        (0.3 * seconds, 0.1 * seconds), (600.0, 3 * seconds), (600.1, seconds),
    )  # fmt: skip
    spans = [SpanTimes(rng.getrandbits(64), int((start + offset) * NS), int(lasts * NS)) for offset, lasts in times]
    return make_trace(rng.getrandbits(128), SHAPE, spans)


def entries_of(trace: Trace) -> list[Request]:
    """Return the entry spans of a trace."""
    return [
        Request(series, trace.spans[position].start_ns, trace.spans[position].duration_ns, f"{trace.trace_id:032x}")
        for position, series in ENTRIES.items()
    ]


def test_services_behind_a_gateway_have_exact_baselines(exporter: StartExporter) -> None:
    rng = random.Random(3)
    this_hour = int(time.time()) // HOUR * HOUR
    traces = [
        an_order(rng, hour + rng.random() * HOUR)
        for hour in range(this_hour - 46 * HOUR, this_hour - 2 * HOUR, HOUR)
        for _ in range(20)
    ]
    entries = [entry for trace in traces for entry in entries_of(trace)]

    def expected_at(at: float) -> dict[SeriesKey, Baseline]:
        return {
            series: baseline_at(at, (entry for entry in entries if entry.series == series), UTC_WEEK)
            for series in ENTRIES.values()
        }

    with TempoServer(TraceStore(traces)) as server:
        running = exporter(settings(server.url, polling={"backfill_duration": "48h"}))
        page = await_baselines(running, expected_at)
    assert page.series() == {GATEWAY, ORDERS, MAILER}
    # A span belongs to the window of its own start, not of its trace's.
    assert page["history_traces"] == len(entries)


def test_trace_with_more_spans_than_a_span_set_holds_is_read_completely(exporter: StartExporter) -> None:
    start = int(time.time()) // HOUR * HOUR - 2 * HOUR - HOUR // 2
    spans = [SpanTimes(number, start * NS + number, NS // 10) for number in range(1, SPAN_LIMIT + 6)]
    with TempoServer(TraceStore([make_trace(1, FAN_OUT, spans)])) as server:
        running = exporter(settings(server.url, polling={"backfill_duration": "6h"}))
        page = running.wait_until_filled()
    assert page["history_traces"] == len(spans)
    assert page.get("traces_skipped_total", loop="backfill", reason="span_limit") == 0


def rootless_traces(now: float) -> list[Trace]:
    """Three days of traces whose parents never arrive; the orders have become slow ten minutes ago."""
    shape = TraceShape((Operation(*ORDERS[:2], kind="server"), Operation(*MAILER[:2], kind="consumer")), (ORPHAN, 0))
    rng = random.Random(5)
    this_hour = int(now) // HOUR * HOUR
    begins = [hour + HOUR * rng.random() for hour in range(this_hour - 72 * HOUR, this_hour - HOUR, HOUR)] * 30
    recent = [now + 600 * rng.uniform(-1, 1) for _ in range(400)]
    traces = []
    for begin, slower in [(begin + 30 * rng.random(), 1) for begin in begins] + [(begin, 5) for begin in recent]:
        orders, mailer = (round(0.2 * NS * rng.uniform(0.7, 1.0)) for _ in range(2))
        start_ns = round(begin * NS)
        spans = [
            SpanTimes(rng.getrandbits(64), start_ns, orders * slower),
            SpanTimes(rng.getrandbits(64), start_ns + 1, mailer),
        ]
        traces.append(make_trace(rng.getrandbits(128), shape, spans))
    return traces


def test_services_of_traces_without_a_root_have_baselines_and_flags(exporter: StartExporter) -> None:
    with TempoServer(TraceStore(rootless_traces(time.time())), ApiOptions(idle_seconds=10)) as server:
        running = exporter(settings(server.url, polling={"backfill_duration": "72h"}, detection={"hold": "1s"}))
        page = running.wait_for(lambda page: page.get("anomalous", ORDERS, kind="shift") == 1)
        assert page.series() == {ORDERS, MAILER}
        assert page.get("anomalous", MAILER, kind="shift") == 0
        assert page.get("baseline_p95_seconds", ORDERS) == pytest.approx(0.2, rel=0.06)
        assert "rootless_traces_ratio" not in {name.removeprefix("tempo_anomaly_") for name in page.families}
        running.stop()


def test_share_of_traces_without_a_root_is_known_with_scope_root(exporter: StartExporter) -> None:
    now = time.time()
    rng = random.Random(5)
    with_root = [an_order(rng, now - HOUR + 30 * minute) for minute in range(75)]
    without = [
        make_trace(
            rng.getrandbits(128),
            TraceShape((Operation(*ORDERS[:2], kind="server"),), (ORPHAN,)),
            [SpanTimes(rng.getrandbits(64), int((now - HOUR + 60 * minute) * NS), NS)],
        )
        for minute in range(25)
    ]
    with TempoServer(TraceStore([*with_root, *without])) as server:
        running = exporter(settings(server.url, tempo={"scope": "root"}, polling={"backfill_duration": "6h"}))
        page = running.wait_for(lambda page: page.get("rootless_traces_ratio") is not None)
    assert page["rootless_traces_ratio"] == pytest.approx(0.25, abs=0.02)
