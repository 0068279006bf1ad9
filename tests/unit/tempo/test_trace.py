"""Decoding of trace lookups, and the lookup itself."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanTimes, TraceShape, TraceStore, make_trace
from exporter.model.critical_path import TraceSpan
from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, TempoClient, TempoError
from exporter.tempo.trace import decode_trace
from tests.support.tempo_server import FakeTempo, Recorder, fake_tempo, recordings, replying

NS = 1_000_000_000
RECORDED = TraceSpan(
    span_id="3188bef87a81c9b8",
    parent_id="",
    service_name="checkout",
    name="GET /cart",
    kind="server",
    start_ns=1795077100000000000,
    duration_ns=49999872,
)


@pytest.fixture
def tempo() -> Iterator[FakeTempo]:
    with fake_tempo() as server:
        yield server


def client_for(url: str) -> TempoClient:
    settings = ClientSettings(url=url, requests_per_second=10_000)
    return TempoClient(settings, Recorder(), get_logger("tempo"), pause=lambda _: False)


def batch(*spans: dict[str, Any], service: object = "shop") -> dict[str, Any]:
    attributes = [{"key": "service.name", "value": {"stringValue": service}}]
    return {"resource": {"attributes": attributes}, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}


def body(*batches: dict[str, Any]) -> bytes:
    return json.dumps({"trace": {"resourceSpans": list(batches)}}).encode()


def raw(number: int = 1, **fields: Any) -> dict[str, Any]:
    span_id = base64.b64encode(number.to_bytes(8, "big")).decode()
    return {"spanId": span_id, "name": "GET /", "startTimeUnixNano": "1000", "endTimeUnixNano": "3000", **fields}


@pytest.mark.parametrize("name", ["trace-by-id-v2-short-id", "trace-by-id-v1"])
def test_decode_trace_of_recorded_responses(tempo: FakeTempo, name: str) -> None:
    matching = [recording for recording in recordings() if recording.name == name]
    assert len(matching) == 2
    for recording in matching:
        assert decode_trace(json.dumps(recording.body).encode()) == [RECORDED]


def test_unknown_trace_is_empty(tempo: FakeTempo) -> None:
    for recording in recordings():
        if recording.name == "trace-not-found":
            assert decode_trace(json.dumps(recording.body).encode()) == []
    tempo.answer(replying(b'{"trace":{},"metrics":{}}'))
    assert client_for(tempo.url).fetch_trace("ab" * 16, loop="api") == []
    assert [request.path for request in tempo.requests] == [f"/api/v2/traces/{'ab' * 16}"]


def test_fetch_trace_falls_back_to_the_v1_lookup(tempo: FakeTempo) -> None:
    v1_response = json.dumps({"batches": [batch(raw())]}).encode()
    tempo.answer(replying(b"404 page not found", status=404), replying(v1_response))
    (span,) = client_for(tempo.url).fetch_trace("1", loop="api")
    assert (span.service_name, span.duration_ns) == ("shop", 2000)
    assert [request.path for request in tempo.requests] == ["/api/v2/traces/1", "/api/traces/1"]
    tempo.answer(replying(b"404 page not found", status=404))
    assert client_for(tempo.url).fetch_trace("1", loop="api") == []


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"[]",
        b"{}",
        b'{"trace":[]}',
        b'{"traces":[]}',
        b'{"trace":{"resourceSpans":[{',
        b'{"trace":' + b"[" * 10**5,
    ],
    ids=lambda response: response[:24].decode(),
)
def test_invalid_response_raises_malformed_error(tempo: FakeTempo, response: bytes) -> None:
    tempo.answer(replying(response))
    with pytest.raises(TempoError, match="not a Tempo response") as failed:
        client_for(tempo.url).fetch_trace("1", loop="api")
    assert failed.value.reason == "malformed"


def test_fetch_trace_from_the_embedded_tempo() -> None:
    shape = TraceShape(
        (
            Operation("shop", "GET /cart", "server"),
            Operation("stock", "", "client"),
            Operation("db", "SELECT", "unspecified"),
        ),
        (ROOT, 0, ORPHAN),
    )
    times = [SpanTimes(7, 1000 * NS, NS), SpanTimes(8, 1000 * NS + 5, 0), SpanTimes(9, 1001 * NS, 7)]
    trace = make_trace(0xC0FFEE, shape, times)
    with TempoServer(TraceStore([trace]), ApiOptions()) as server:
        spans = client_for(server.url).fetch_trace(f"{0xC0FFEE:032x}", loop="api")
    assert spans == [
        TraceSpan(f"{7:016x}", "", "shop", "GET /cart", "server", 1000 * NS, NS),
        TraceSpan(f"{8:016x}", f"{7:016x}", "stock", "", "client", 1000 * NS + 5, 0),
        TraceSpan(f"{9:016x}", f"{9 ^ 1:016x}", "db", "SELECT", "unspecified", 1001 * NS, 7),
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kind": "SPAN_KIND_CONSUMER"}, {"kind": "consumer"}),
        ({"kind": 3}, {"kind": "client"}),
        ({"kind": 99}, {"kind": "unspecified"}),
        ({"kind": "SPAN_KIND_<script>"}, {"kind": "unspecified"}),
        ({"status": {"code": "STATUS_CODE_ERROR"}}, {"error": True}),
        ({"status": {"code": 2}}, {"error": True}),
        ({"status": {"code": "STATUS_CODE_OK"}}, {"error": False}),
        ({"parentSpanId": "AAAAAAAAAAA="}, {"parent_id": ""}),
        ({"parentSpanId": "00000000000000AB"}, {"parent_id": "00000000000000ab"}),
        ({"name": "x\x00y" + "z" * 5000}, {"name": "x\ufffdy" + "z" * 5000}),
        ({"name": None}, {"name": ""}),
        ({"startTimeUnixNano": 1000}, {"start_ns": 1000}),
    ],
)
def test_decode_trace_by_field(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    (span,) = decode_trace(body(batch(raw(**fields))))
    assert {name: getattr(span, name) for name in expected} == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"spanId": ""},
        {"startTimeUnixNano": "-5"},
        {"startTimeUnixNano": "soon"},
        {"startTimeUnixNano": "4000"},
        {"endTimeUnixNano": "9" * 30},
        {"endTimeUnixNano": "٣٠٠٠"},
    ],
)
def test_invalid_spans_are_left_out(fields: dict[str, Any]) -> None:
    assert [span.span_id for span in decode_trace(body(batch(raw(1, **fields), raw(2))))] == [f"{2:016x}"]


def test_hostile_names_are_kept_as_text() -> None:
    response = body(batch(raw(), service='\ud800"</script>\n'), batch(raw(2), service=None))
    assert [span.service_name for span in decode_trace(response)] == ['\ufffd"</script>\n', ""]
