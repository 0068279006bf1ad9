"""Failed requests: read with the searches that are made anyway, and stored exactly, once, and by the rule of today."""

import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace
from exporter.model.calendar import HourClock
from exporter.model.hours import hours_of
from exporter.model.span import SeriesKey
from exporter.store import Store
from tests.e2e.conftest import StartExporter
from tests.support.ledgers import UTC_CALENDAR
from tests.support.processes import settings
from tests.support.traffic import HOUR, MINUTE, NS

MARK = 300
SHOP = Operation("shop", "GET /cart", attributes=(("http.route", "/cart"),))
STOCK = Operation("stock", "stock.v1.Stock/Get", attributes=(("rpc.system", "grpc"),))
MOVED = replace(SHOP, attributes=(*SHOP.attributes, ("http.response.status_code", 404)))
SERIES = {each.name: SeriesKey(each.service, each.name) for each in (SHOP, STOCK)}
SHAPES = tuple(
    TraceShape((front, Operation("shop", STOCK.name, "client"), back), (ROOT, 0, 1))
    for front in (SHOP, SHOP.failed(), MOVED)
    for back in (STOCK, STOCK.failed())
)
WEIGHTS = (80, 3, 5, 2, 5, 5)
Failures = Mapping[SeriesKey, Counter[int]]


def requests(
    rng: random.Random, starts: Iterable[float], durations: Sequence[float] = (0.1, 0.3, 400.0)
) -> list[Trace]:
    """One trace for each start; some outlast the mark, the hour, or both."""
    traces = []
    for start in starts:
        (shape,) = rng.choices(SHAPES, WEIGHTS)
        seconds = rng.choice(durations)
        times = [(0.0, seconds), (0.1 * seconds, 0.8 * seconds), (0.2 * seconds, 0.5 * seconds)]
        spans = [SpanTimes(rng.getrandbits(64), int((start + at) * NS), int(lasts * NS)) for at, lasts in times]
        traces.append(make_trace(rng.getrandbits(128), shape, spans))
    return traces


def expected(traces: Iterable[Trace], codes: tuple[object, ...] = ()) -> Failures:
    """Failed entry spans by mark: by status, and those with one of these HTTP codes."""
    found: dict[SeriesKey, Counter[int]] = {key: Counter() for key in SERIES.values()}
    for trace in traces:
        for span, operation in zip(trace.spans, trace.shape.operations, strict=True):
            is_failed = (
                operation.status == "error" or operation.span_attributes.get("http.response.status_code") in codes
            )
            if operation.kind == "server" and is_failed:
                found[SERIES[operation.name]][-(-(span.start_ns + span.duration_ns) // (MARK * NS)) * MARK] += 1
    return found


def stored(path: Path, rule: str) -> tuple[dict[SeriesKey, Counter[int]], set[SeriesKey]]:
    """The stored failures by mark, and the series of which some are unknown."""
    clock = HourClock(UTC_CALENDAR)
    found, unknown = {}, set()
    with closing(Store.open_readonly(path)) as store:
        store.declare_failure_rule(rule)
        for series in store.history(store.series(), 0, 2**40):
            found[series.key] = Counter[int]()
            for hour in hours_of(series.windows, clock):
                failures = hour.failures()
                if failures is None:
                    unknown.add(series.key)
                else:
                    found[series.key].update(failures)
    return found, unknown


def test_failures_of_a_week_are_stored_exactly(exporter: StartExporter, tmp_path: Path) -> None:
    rng = random.Random(5)
    now = time.time()
    this_hour = int(now) // HOUR * HOUR
    history = requests(rng, (this_hour - HOUR - rng.random() * 165 * HOUR for _ in range(4000)))
    current = requests(rng, (now - 5 - rng.random() * MINUTE for _ in range(60)), durations=(0.1,))
    database = tmp_path / "week.db"
    with TempoServer(TraceStore([*history, *current])) as server:
        running = exporter(settings(server.url, polling={"backfill_duration": "168h"}, storage={"path": str(database)}))
        running.wait_until_filled()
        page = running.wait_for(lambda page: all(page.get("current_traces", key) == 60 for key in SERIES.values()))
        running.stop()
    for key, by_mark in expected(current).items():
        assert page.get("current_error_ratio", key) == by_mark.total() / 60
    found, unknown = stored(database, "status = error")
    assert not unknown
    assert found == expected(history)
    assert min(counts.total() for counts in found.values()) > 100


def test_failures_by_another_rule_are_unknown(exporter: StartExporter, tmp_path: Path) -> None:
    rng = random.Random(6)
    this_hour = int(time.time()) // HOUR * HOUR
    traces = requests(rng, (this_hour - HOUR - rng.random() * 9 * HOUR for _ in range(400)))
    rule = "status = error || span.http.response.status_code >= 400"
    database = tmp_path / "rule.db"
    configuration = settings("", polling={"backfill_duration": "12h"}, storage={"path": str(database)})
    configuration["detection"] = {"errors": {"when": rule}}
    with TempoServer(TraceStore(traces)) as server:
        configuration["tempo"]["url"] = server.url
        running = exporter(configuration)
        running.wait_until_filled()
        running.stop()
        by_rule = expected(traces, codes=(404,))
        assert by_rule != expected(traces)
        assert stored(database, rule) == (by_rule, set())
        configuration["detection"] = {"errors": {"when": "status = error"}}
        running = exporter(configuration)
        running.wait_until_filled()
        running.stop()
    found, unknown = stored(database, "status = error")
    assert unknown == by_rule.keys()
    assert not any(found.values())
    assert stored(database, rule) == (by_rule, set())
