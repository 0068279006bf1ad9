"""Requests whose parts lie in several blocks of Tempo are read completely, live and into the record."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from threading import Event

import pytest

from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace
from exporter.evaluation.live.cycle_reader import CycleReader
from exporter.evaluation.live.series import SeenSpans
from exporter.evaluation.settings import PollSettings
from exporter.ingest.exact_reader import Budget, ExactReader
from exporter.ingest.live_reader import LiveReader
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, TempoClient
from tests.support.fakes import FrozenClock
from tests.support.fakes import Recorder as PollRecorder
from tests.support.samples import NOON, NS
from tests.support.tempo_server import Recorder

IDLE_SECONDS = 8.0
INTERVAL, LOOKBACK = 15, 120
REPORT, PRICE, ORDER, STOCK = (
    SeriesKey("reports", "GET /report"),
    SeriesKey("reports", "GET /price"),
    SeriesKey("orders", "POST /order"),
    SeriesKey("orders", "GET /stock"),
)


def long_requests(children_of: str) -> list[Trace]:
    """Requests of 40 s with three short calls in their first second."""
    child = Operation(children_of, PRICE.span_name)
    shape = TraceShape((Operation(*REPORT[:2]), child, child, child), (ROOT, 0, 0, 0))
    return [a_trace(number, shape, (0, 40), (0.1, 0.2), (0.4, 0.2), (0.7, 0.2)) for number in range(1, 151)]


def late_roots() -> list[Trace]:
    """Requests whose root span arrives 45 s after that of a call."""
    shape = TraceShape((Operation(*ORDER[:2], late_seconds=45), Operation(*STOCK[:2])), (ROOT, 0))
    return [a_trace(number, shape, (0, 0.5), (0.1, 0.3)) for number in range(1, 101)]


def a_trace(number: int, shape: TraceShape, *times: tuple[float, float]) -> Trace:
    start = NOON + number
    spans = [
        SpanTimes(number * 100 + position, round((start + offset) * NS), round(seconds * NS))
        for position, (offset, seconds) in enumerate(times)
    ]
    return make_trace(number, shape, spans)


def read_live(client: TempoClient, clock: FrozenClock, until: float) -> list[Span]:
    """Poll as the exporter does; returns each span once."""
    settings = PollSettings(INTERVAL, LOOKBACK, 300, 3600, 20_000, Budget(20_000, 50), 86_400)
    reader = CycleReader(
        LiveReader(client, Recorder(), settings.budget, poll_seconds=LOOKBACK, hold_seconds=300),
        settings,
        PollRecorder(),
        monotonic=clock.time,
        stop=Event(),
        log=get_logger("test"),
    )
    seen, found = SeenSpans(), []
    while clock.now < until:
        reading = reader.read(clock.now, dict)
        new = [span for span in reading.spans if seen.is_new(span)]
        reader.finish(reading, Counter(span.end_ns // NS for span in new), {})
        found += new
        clock.advance(INTERVAL)
    return found


def read_record(client: TempoClient, clock: FrozenClock, until: float) -> list[Span]:
    clock.now = until
    found: list[Span] = []
    ExactReader(client, Recorder(), "backfill").read(NOON, NOON + 300, found.extend)
    return found


@pytest.mark.parametrize("read", [read_live, read_record])
@pytest.mark.parametrize(
    "traces", [long_requests(PRICE.service_name), long_requests("prices"), late_roots()], ids=["one", "two", "late"]
)
def test_no_part_of_a_request_is_missing(
    traces: Sequence[Trace], read: Callable[[TempoClient, FrozenClock, float], Iterable[Span]]
) -> None:
    clock = FrozenClock(NOON + 30.0)
    options = ApiOptions(idle_seconds=IDLE_SECONDS)
    with TempoServer(TraceStore(traces), options, clock=clock.time) as server:
        client = TempoClient(ClientSettings(url=server.url, requests_per_second=10_000), Recorder(), get_logger("test"))
        found = sorted((span.trace_id, span.span_id) for span in read(client, clock, NOON + 400.0))
        client.close()
    assert found == sorted((f"{t.trace_id:032x}", f"{span.span_id:016x}") for t in traces for span in t.spans)
