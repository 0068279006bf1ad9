"""``scope: entry``: services behind a gateway have their own series."""

import random
import time

from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace
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
        Operation(*GATEWAY, kind="server"),
        Operation(GATEWAY.service_name, ORDERS.span_name, kind="client"),
        Operation(*ORDERS, kind="server"),
        Operation(ORDERS.service_name, "SELECT orders", kind="client"),
        Operation(*MAILER, kind="consumer"),
        Operation(MAILER.service_name, "render", kind="internal"),
    ),
    (ROOT, 0, 1, 2, 2, 4),
)
ENTRIES = {0: GATEWAY, 2: ORDERS, 4: MAILER}
SPAN_LIMIT = 100
FAN_OUT = TraceShape(
    (Operation(*GATEWAY, kind="server"), *[Operation(*MAILER, kind="consumer")] * (SPAN_LIMIT + 4)),
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
        running = exporter(settings(server.url, tempo={"scope": "entry"}, polling={"backfill_duration": "48h"}))
        page = await_baselines(running, expected_at)
    assert page.series() == {GATEWAY, ORDERS, MAILER}
    # A span belongs to the window of its own start, not of its trace's.
    assert page["history_traces"] == len(entries)


def test_spans_beyond_tempos_limit_are_counted(exporter: StartExporter) -> None:
    start = int(time.time()) // HOUR * HOUR - 2 * HOUR - HOUR // 2
    spans = [SpanTimes(number, start * NS + number, NS // 10) for number in range(1, SPAN_LIMIT + 6)]
    with TempoServer(TraceStore([make_trace(1, FAN_OUT, spans)])) as server:
        running = exporter(settings(server.url, tempo={"scope": "entry"}, polling={"backfill_duration": "6h"}))
        page = running.wait_until_filled()
    assert page["history_traces"] == SPAN_LIMIT
    assert page.get("traces_skipped_total", loop="backfill", reason="span_limit") == 5
