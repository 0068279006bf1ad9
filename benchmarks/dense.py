"""Cost of sampling a window too dense to be read whole, and the accuracy of the sample."""

import multiprocessing
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import orjson
import requests

from benchmarks.context import Context
from benchmarks.dense_traffic import HOUR, DenseTraffic
from benchmarks.report import Budget as Limit
from benchmarks.report import Figure, Reference, amount
from exporter.app.settings import client_settings
from exporter.config import Config
from exporter.demo.search import CompiledQuery
from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape, make_trace
from exporter.ingest.exact_reader import Budget
from exporter.ingest.series_filter import SeriesFilter, SeriesRules
from exporter.ingest.tempo_counts import TempoCounts
from exporter.ingest.window_reader import BatchResult, WindowReader
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.ledger import Batch, Window
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import Loop
from exporter.tempo import SearchResult, TempoClient
from exporter.tempo.counts import SpanCounts
from exporter.tempo.query import ANY_DURATION, DurationRange

_START: Final = 1_795_075_200
_WINDOW: Final = Window(_START, _START + HOUR)
_BUDGET: Final = Budget(50_000, 100)
_MIN_TRACES: Final = 200
_WINDOWS: Final = 7 * 24
_HUNDRED_MILLION_A_WEEK: Final = 100_000_000 // _WINDOWS


def measure(context: Context) -> Iterator[Figure]:
    """Yield the figures of windows of 1, 10 and 100 × the budget, and of an hour of 100 million traces a week."""
    quick = context.repeats < 100
    budget = Budget(2000, 100) if quick else _BUDGET
    min_traces = 20 if quick else _MIN_TRACES
    first: _ReadCost | None = None
    yield from _against_fetching(2 * budget.traces if quick else _HUNDRED_MILLION_A_WEEK, budget)
    for times in (1, 4) if quick else (1, 10, 100):
        traffic = DenseTraffic(round(0.9 * times * budget.traces), busiest=min(100_000, budget.traces * times // 25))
        read = _read(traffic, budget)
        first = first or read
        what = f"a window of {times} × the budget of {budget.traces:,} traces"
        there = sum(endpoint.per_hour for endpoint in traffic.endpoints)
        at_one = None if read is first else Reference("at 1 ×", first.cpu_seconds)
        yield Figure(
            f"{what}: CPU", read.cpu_seconds, "seconds", at_one, None if at_one is None else Limit(1.5, "ratio"),
            f"{read.kept:,} of {there:,} traces read",
        )  # fmt: skip
        at_one = None if read is first else Reference("at 1 ×", first.bytes)
        yield Figure(f"{what}: bytes", read.bytes, "bytes", at_one, None if at_one is None else Limit(1.5, "ratio"))
        yield Figure(f"{what}: requests", read.requests, "count", None, Limit(budget.requests))
        for q, limit in ((0.5, 0.03), (0.95, 0.08)):
            errors = _errors(traffic, read.result, q, min_traces)
            yield Figure(
                f"{what}: p{q * 100:.0f} off by",
                median(errors),
                "percent",
                budget=None if quick else Limit(limit),
                detail=f"median of {len(errors)} endpoints with {min_traces} traces read, at most {max(errors):.0%}",
            )


def _against_fetching(per_hour: int, budget: Budget) -> Iterator[Figure]:
    """Compare reading a window with only fetching the same responses."""
    read = _read(DenseTraffic(per_hour, busiest=per_hour // 25), budget, refetched=True)
    yield Figure(
        f"a window of a week of {per_hour * _WINDOWS / 1e6:,.3g} million traces: wall time",
        read.wall_seconds,
        "seconds",
        Reference("the same requests fetched and discarded", read.refetched_seconds),
        detail=f"{read.kept:,} traces read, {read.requests} requests, {amount(read.bytes, 'bytes')}",
    )


@dataclass
class _ReadCost:
    """Cost of reading a window, and of fetching the same responses again."""

    result: BatchResult
    wall_seconds: float
    cpu_seconds: float
    bytes: int
    requests: int
    refetched_seconds: float

    @property
    def kept(self) -> int:
        return sum(content.traces for content in self.result.contents)


@dataclass
class _CountingTempo:
    """A Tempo client that counts requests and bytes."""

    client: TempoClient
    bytes: int = 0
    requests: int = 0
    max_limit: int = field(init=False)
    max_range_seconds: int | None = None
    max_count_range_seconds: int | None = None

    def __post_init__(self) -> None:
        self.max_limit = self.client.max_limit

    @property
    def highest_limit(self) -> int:
        return self.client.highest_limit

    def search(
        self,
        start: int,
        end: int,
        *,
        loop: Loop,
        limit: int | None = None,
        series: Sequence[SeriesKey] = (),
        durations: DurationRange = ANY_DURATION,
        may_split: bool = False,
    ) -> SearchResult:
        answer = self.client.search(
            start, end, loop=loop, limit=limit, series=series, durations=durations, may_split=may_split
        )
        self.requests += 1
        self.bytes += answer.bytes
        return answer

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        return self.client.exists(start, end, loop=loop)

    def count(self, start: int, end: int, step_seconds: int, *, loop: Loop, by_series: bool = False) -> SpanCounts:
        self.requests += 1
        return self.client.count(start, end, step_seconds, loop=loop, by_series=by_series)


def _read(traffic: DenseTraffic, budget: Budget, *, refetched: bool = False) -> _ReadCost:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(traffic, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        url: str = ours.recv()
        config = Config.model_validate({"tempo": {"url": url, "requests_per_second": 1000, "timeout": "60s"}})
        metrics = SelfMetrics()
        tempo = _CountingTempo(TempoClient(client_settings(config), metrics, get_logger("benchmark")))
        counts = TempoCounts(tempo, metrics, time.monotonic, get_logger("benchmark"))
        reader = WindowReader(tempo, counts, SeriesFilter(SeriesRules()), metrics, budget)
        wall, cpu = time.monotonic(), time.process_time()
        counts.learn([_WINDOW], [])
        count = counts.of(_WINDOW)
        (result,) = reader.read(Batch((_WINDOW,), None if count is None else float(count)), threading.Event().is_set)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        again = _refetch(url, ours) if refetched else 0.0
        return _ReadCost(result, wall, cpu, tempo.bytes, tempo.requests, again)
    finally:
        ours.close()
        process.join()


def _refetch(url: str, source: Connection) -> float:
    """Fetch all previous responses again, one after the other; returns the seconds."""
    source.send("targets")
    targets: list[str] = source.recv()
    began = time.monotonic()
    with requests.Session() as session:
        for target in targets:
            session.get(url + target, timeout=60).raise_for_status()
    return time.monotonic() - began


def _errors(traffic: DenseTraffic, result: BatchResult, q: float, min_traces: int) -> list[float]:
    """Return the relative errors of a quantile, for each endpoint with enough traces."""
    found = result.contents[0].series
    if not found.keys() <= {endpoint.key for endpoint in traffic.endpoints}:
        raise RuntimeError("the reader returned unknown endpoints")
    return [
        abs(found[endpoint.key].digest.quantile_seconds(q) / endpoint.quantile_seconds(q, _START) - 1)
        for endpoint in traffic.endpoints
        if endpoint.key in found and found[endpoint.key].digest.count >= min_traces
    ]


# Child process: the source


class _DenseTempo:
    """Tempo's responses about dense traffic, generated for each request."""

    def __init__(self, traffic: DenseTraffic) -> None:
        self._traffic = traffic
        self._shapes = {
            endpoint.key: TraceShape((Operation(*endpoint.key[:2]),), (ROOT,)) for endpoint in traffic.endpoints
        }

    def search(self, params: Mapping[str, str]) -> bytes:
        """Return the first traces of a range, up to the limit."""
        plan = CompiledQuery(params["q"])
        start, end, limit = (int(params[name]) for name in ("start", "end", "limit"))
        keys = [key for key, shape in self._shapes.items() if plan.matches(self._example(shape))]
        per_second = sum(each.per_hour for each in self._traffic.endpoints if each.key in set(keys)) / HOUR
        last = min(end, start + int(2 * limit / per_second) + 1) if per_second else end
        spans = self._traffic.spans(start, last, keys)[:limit] if keys else []
        rendered = b",".join(plan.render(self._trace(span), 3) for span in spans)
        return b'{"traces":[%b],"metrics":{"completedJobs":1,"totalJobs":1}}' % rendered

    def count(self, params: Mapping[str, str]) -> bytes:
        """Return the number of traces, by endpoint if requested, in the last step."""
        by = "by (" in params["q"]
        counts = {endpoint.key: endpoint.per_hour for endpoint in self._traffic.endpoints}
        series = counts.items() if by else [(None, sum(counts.values()))]
        return orjson.dumps(
            {
                "series": [
                    {
                        "labels": []
                        if key is None
                        else [
                            {"key": "resource.service.name", "value": {"stringValue": key.service_name}},
                            {"key": "name", "value": {"stringValue": key.span_name}},
                        ],
                        "samples": [{"timestampMs": str(int(params["end"]) * 1000), "value": count}],
                    }
                    for key, count in series
                ],
                "metrics": {},
            }
        )

    def _example(self, shape: TraceShape) -> Trace:
        return make_trace(1, shape, [SpanTimes(1, 1, 1)])

    def _trace(self, span: Span) -> Trace:
        times = SpanTimes(int(span.span_id, 16), span.start_ns, span.duration_ns)
        return make_trace(int(span.trace_id, 16), self._shapes[span.key], [times])


def _serve(traffic: DenseTraffic, connection: Connection) -> None:
    tempo = _DenseTempo(traffic)
    targets: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            targets.append(self.path)
            target = urlsplit(self.path)
            params = dict(parse_qsl(target.query))
            body = tempo.search(params) if target.path == "/api/search" else tempo.count(params)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Do not log requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection.send(f"http://127.0.0.1:{server.server_port}")
    try:
        while connection.recv() == "targets":
            connection.send(list(targets))
    except EOFError:
        server.shutdown()
