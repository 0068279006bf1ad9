"""The share of traces without a root is measured with a sample, or stays unknown."""

import logging
from dataclasses import dataclass, field

import pytest

from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanTimes, TraceShape, TraceStore, make_trace
from exporter.ingest.rootless import RootlessTraces
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import Loop
from exporter.tempo import ClientSettings, TempoClient, TempoError
from exporter.tempo.client import RootSample
from tests.support.fakes import FrozenClock, Recorder
from tests.support.samples import NOON, NS, events
from tests.support.tempo_server import FakeTempo, fake_tempo, replying
from tests.support.tempo_server import Recorder as ClientRecorder

SETTLE = 900


@dataclass
class FakeClient:
    """Finds a number of traces per second, a quarter of them without a root; an hour later each time."""

    per_second: float
    fails: bool = False
    asked: list[int] = field(default_factory=list)
    clock: FrozenClock = field(default_factory=lambda: FrozenClock(NOON))

    def sample_roots(self, start: int, end: int, limit: int, *, loop: Loop) -> RootSample:
        assert (end, loop) == (self.clock.now - SETTLE, "backfill")
        self.asked.append(end - start)
        if self.fails:
            raise TempoError("down", reason="connection")
        found = min(limit, round(self.per_second * (end - start)))
        return RootSample(found, found // 4, found >= limit)


def measuring(client: object) -> tuple[RootlessTraces, Recorder]:
    telemetry = Recorder()
    clock = client.clock if isinstance(client, FakeClient) else FrozenClock(NOON)
    return (
        RootlessTraces(client, telemetry, get_logger("test"), clock=clock.time, settle_seconds=SETTLE),  # type: ignore[arg-type]
        telemetry,
    )


@pytest.mark.parametrize(
    ("per_second", "first", "later"),
    [(0.1, [3600], [3600]), (10, [3600, 600, 60], [60]), (400, [3600, 600, 60, 10], [10])],
)
def test_range_is_as_long_as_one_search_can_return(per_second: float, first: list[int], later: list[int]) -> None:
    client = FakeClient(per_second)
    rootless, telemetry = measuring(client)
    for expected in (first, later, later):
        client.asked.clear()
        rootless.measure()
        assert client.asked == expected
        client.clock.advance(3600)
    assert telemetry.rootless == [0.25] * 3


def test_range_grows_when_traffic_becomes_thin() -> None:
    client = FakeClient(400)
    rootless, _ = measuring(client)
    rootless.measure()
    client.per_second = 1
    for _ in range(3):
        client.clock.advance(3600)
        rootless.measure()
    assert client.asked[4:] == [10, 60, 600]


def test_without_a_meaningful_sample_the_share_stays_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient(0.001)
    rootless, telemetry = measuring(client)
    for per_second, fails in ((0.001, False), (1e6, False), (1.0, True)):
        client.per_second, client.fails = per_second, fails
        rootless.measure()
        client.clock.advance(3600)
    assert telemetry.rootless == []
    assert "traces_without_root" not in events(caplog)


def test_notable_share_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient(10)
    rootless, telemetry = measuring(client)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            rootless.measure()
            rootless.measure()
            client.clock.advance(3600)
    assert telemetry.rootless == [0.25] * 3
    assert events(caplog) == ["traces_without_root"]


def test_traces_are_sampled_from_tempo_without_the_scope() -> None:
    operation = Operation("shop", "GET /")
    shapes = [TraceShape((operation,), (parent,)) for parent in (ROOT, ORPHAN)]
    traces = [
        make_trace(number, shapes[number % 5 == 0], [SpanTimes(number, (NOON - 1000) * NS, NS)])
        for number in range(1, 101)
    ]
    with TempoServer(TraceStore(traces), clock=lambda: NOON) as server:
        settings = ClientSettings(url=server.url, scope="root", filter='resource.service.name="shop"')
        client = TempoClient(settings, ClientRecorder(), get_logger("test"))
        rootless, telemetry = measuring(client)
        rootless.measure()
        client.close()
    assert telemetry.rootless == [0.2]


@pytest.mark.parametrize("body", [b"{}", b'{"traces": [', b'{"traces": []}', b"[1]"])
def test_other_responses_leave_the_share_unknown(body: bytes) -> None:
    with fake_tempo() as tempo:
        assert isinstance(tempo, FakeTempo)
        tempo.answer(replying(body.decode()))
        client = TempoClient(ClientSettings(url=tempo.url), ClientRecorder(), get_logger("test"))
        rootless, telemetry = measuring(client)
        rootless.measure()
    assert telemetry.rootless == []
