"""Whole traces by one search: recorded responses of real Tempos, hostile responses, and a Tempo that refuses."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.model.critical_path import TraceSpan
from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, TempoClient, TempoError
from exporter.tempo.whole_traces import MAX_IDS, decode_whole_traces, traces_by_id_query
from tests.support.fakes import FrozenClock
from tests.support.paths import RECORDINGS
from tests.support.tempo_server import FakeTempo, Recorder, Recording, fake_tempo, recordings, replying, search_body

ID = "0af7651916cd43dd8448eb211c80319c"
OTHER_ID = "000000000000000000000000000000ab"
SELECT = "select(span:parentID, resource.service.name, name, kind, status"


@pytest.fixture
def tempo() -> Iterator[FakeTempo]:
    with fake_tempo() as server:
        yield server


def client_for(tempo: FakeTempo, monotonic: Any = None) -> TempoClient:
    given_settings = ClientSettings(url=tempo.url, requests_per_second=10_000)
    clock = {} if monotonic is None else {"monotonic": monotonic}
    return TempoClient(given_settings, Recorder(), get_logger("tempo"), pause=lambda _: False, **clock)


def attribute(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


def a_span(number: int, parent: int = 0, *more: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "spanID": f"{number:x}",
        "name": "GET /",
        "startTimeUnixNano": "1700000000000000000",
        "durationNanos": "1000000",
        "attributes": [
            attribute("service.name", "shop"),
            attribute("kind", "server"),
            attribute("status", "unset"),
            attribute("span:parentID", f"{parent:016x}"),
            *more,
        ],
        **changes,
    }


def answer(*span_sets: list[dict[str, Any]], trace_id: str = ID, **changes: Any) -> bytes:
    sets = [{"spans": spans, "matched": len(spans), **changes} for spans in span_sets]
    return json.dumps(search_body({"traceID": trace_id, "spanSets": sets})).encode()


def sent(trace_id: str) -> list[TraceSpan]:
    """Return the spans of a recorded trace as they were sent."""
    return [
        TraceSpan(
            span["spanId"],
            span["parentSpanId"],
            span["service"],
            span["name"],
            span["kind"],
            span["startTimeUnixNano"],
            span["durationNanos"],
            error=span["status"] == "error",
        )
        for span in json.loads((RECORDINGS / "spans.json").read_text("utf-8"))
        if span["traceId"] == trace_id
    ]


@pytest.mark.parametrize("recording", [*recordings("traces-by-id"), *recordings("traces-by-id-by-span-id")], ids=str)
def test_recorded_traces_are_those_that_were_sent(tempo: FakeTempo, recording: Recording) -> None:
    tempo.answer(recording.responder)
    ids = [part.partition('"')[0] for part in recording.params["q"].split('trace:id="')[1:]]
    found = client_for(tempo).fetch_traces(ids, recording.params["start"], recording.params["end"], [], loop="cause")
    assert set(found.spans) == set(ids)
    assert (found.cut, found.invalid) == (set(), 0)
    for trace_id in ids:
        assert Counter(found.spans[trace_id]) == Counter(sent(trace_id))


@pytest.mark.parametrize("recording", recordings("traces-by-id-fragments"), ids=str)
def test_without_grouping_a_part_of_a_trace_is_missing(tempo: FakeTempo, recording: Recording) -> None:
    tempo.answer(recording.responder)
    trace_id = "a0a0b0b0c0c0d0d0e000000000000001"
    found = client_for(tempo).fetch_traces([trace_id], 1, 2, [], loop="cause")
    assert len(found.spans[trace_id]) == len(sent(trace_id)) - 1


def test_query_asks_for_all_parts_and_the_attributes() -> None:
    query = traces_by_id_query([ID, OTHER_ID], ["resource.service.version"])
    assert query == (
        f'{{trace:id="{ID}" || trace:id="{OTHER_ID}"}} | by(span:id) | {SELECT}, resource.service.version)'
    )


def test_request_names_range_limit_and_ids(tempo: FakeTempo) -> None:
    tempo.answer(replying(search_body()))
    assert client_for(tempo).fetch_traces([ID, OTHER_ID], 100, 160, [], loop="cause").spans == {}
    (request,) = tempo.requests
    assert request.path == "/api/search"
    params = request.params
    assert (params["start"], params["end"], params["limit"]) == ("100", "160", "2")
    assert params["q"] == traces_by_id_query([ID, OTHER_ID], [])


def test_many_ids_are_divided_so_that_the_url_stays_short(tempo: FakeTempo) -> None:
    tempo.answer(replying(search_body()))
    client_for(tempo).fetch_traces([f"{number:032x}" for number in range(1, 2 * MAX_IDS + 2)], 1, 2, [], loop="cause")
    assert [request.params["q"].count("trace:id") for request in tempo.requests] == [MAX_IDS, MAX_IDS, 1]


def test_attributes_without_a_value_are_left_out() -> None:
    body = answer(
        [
            a_span(
                1,
                0,
                attribute("http.route", "nil"),
                attribute("db.system", "mysql"),
                {"key": "http.response.status_code", "value": {"intValue": "503"}},
                {"key": "sampled", "value": {"boolValue": True}},
                {"key": "odd", "value": {"kvlistValue": {}}},
            )
        ]
    )
    (span,) = decode_whole_traces(body, [ID]).spans[ID]
    assert span.attributes == (("db.system", "mysql"), ("http.response.status_code", "503"), ("sampled", "true"))


def test_spans_of_several_sets_are_joined_and_doubles_left_out() -> None:
    found = decode_whole_traces(answer([a_span(1)], [a_span(2, 1)], [a_span(2, 1)]), [ID])
    assert [(span.span_id, span.parent_id) for span in found.spans[ID]] == [
        (f"{1:016x}", ""),
        (f"{2:016x}", f"{1:016x}"),
    ]


def test_trace_of_which_spans_were_withheld_is_named() -> None:
    assert decode_whole_traces(answer([a_span(1)], matched=7), [ID]).cut == {ID}


@pytest.mark.parametrize(
    "span",
    [
        a_span(1, spanID="not hex"),
        a_span(1, startTimeUnixNano="0"),
        a_span(1, durationNanos="-5"),
        a_span(1, durationNanos=str(2**63 - 1)),
    ],
)
def test_invalid_spans_are_left_out_and_counted(span: dict[str, Any]) -> None:
    found = decode_whole_traces(answer([span, a_span(2)]), [ID])
    assert [each.span_id for each in found.spans[ID]] == [f"{2:016x}"]
    assert found.invalid == 1


def test_invalid_trace_does_not_affect_the_others() -> None:
    traces = json.loads(answer([a_span(1)]))["traces"]
    body = json.dumps(search_body({"traceID": OTHER_ID, "spanSets": "what"}, *traces)).encode()
    found = decode_whole_traces(body, [ID, OTHER_ID])
    assert (set(found.spans), found.invalid) == ({ID}, 1)


def test_traces_that_were_not_asked_for_are_left_out() -> None:
    assert decode_whole_traces(answer([a_span(1)], trace_id=OTHER_ID), [ID]).spans == {}


def test_short_trace_id_is_the_same_trace() -> None:
    assert set(decode_whole_traces(answer([a_span(1)], trace_id="ab"), [OTHER_ID]).spans) == {OTHER_ID}


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b"{}",
        b"[]",
        b'{"traces": 5}',
        b"[" * 100_000,
        json.dumps(search_body(completedJobs=1, totalJobs=3)).encode(),
    ],
)
def test_body_that_is_no_finished_search_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_whole_traces(body, [ID])


@given(st.binary(max_size=40), st.integers(0, 500))
@settings(max_examples=200, deadline=None)
def test_damaged_body_is_an_error_or_leaves_valid_spans(noise: bytes, position: int) -> None:
    body = answer([a_span(1, 0, attribute("x", "y"))], [a_span(2, 1)])
    damaged = body[:position] + noise + body[position + len(noise) :]
    try:
        found = decode_whole_traces(damaged, [ID])
    except ValueError:
        return
    for span in found.spans.get(ID, []):
        assert span.start_ns > 0
        assert span.duration_ns >= 0


def test_refusal_is_remembered_and_logged_once(tempo: FakeTempo, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tempo.answer(replying(b"invalid TraceQL query: unknown identifier: trace:id", status=400))
    client = client_for(tempo)
    for _ in range(3):
        assert client.fetch_traces([ID], 1, 2, [], loop="cause").spans == {}
    assert not client.can_search_by_id
    assert len(tempo.requests) == 1
    assert [record.getMessage() for record in caplog.records if "search_by_id_refused" in str(record.__dict__)] != []


def test_failure_is_no_refusal(tempo: FakeTempo) -> None:
    tempo.answer(replying(b"busy", status=503))
    client = client_for(tempo)
    with pytest.raises(TempoError):
        client.fetch_traces([ID], 1, 2, [], loop="cause")
    assert client.can_search_by_id


def test_after_a_trace_of_very_many_spans_parts_are_not_joined_for_an_hour(tempo: FakeTempo) -> None:
    clock = FrozenClock(0.0, tick=1.0)
    tempo.answer(replying(json.loads(answer(*([a_span(number)] for number in range(1, 602))))))
    client = client_for(tempo, clock.monotonic)
    assert client.fetch_traces([ID], 1, 2, [], loop="cause").largest == 601
    client.fetch_traces([ID], 1, 2, [], loop="cause")
    clock.advance(3600.0)
    client.fetch_traces([ID], 1, 2, [], loop="cause")
    assert ["by(span:id)" in request.params["q"] for request in tempo.requests] == [True, False, True]


def test_trace_read_by_its_id_has_the_attributes_that_were_asked_for(tempo: FakeTempo) -> None:
    span = {
        "spanId": "AAAAAAAAAAE=",
        "name": "GET /",
        "startTimeUnixNano": "5",
        "endTimeUnixNano": "9",
        "attributes": [attribute("db.system", "mysql"), attribute("other", "x")],
    }
    resource = {"attributes": [attribute("service.name", "shop"), attribute("k8s.pod.name", "shop-1")]}
    batch = {"resource": resource, "scopeSpans": [{"spans": [span]}]}
    tempo.answer(replying({"trace": {"resourceSpans": [batch]}}))
    client = client_for(tempo)
    wanted = ["resource.k8s.pod.name", "span.db.system", "span.absent"]
    (found,) = client.fetch_trace(ID, loop="cause", attributes=wanted)
    assert found.attributes == (("db.system", "mysql"), ("k8s.pod.name", "shop-1"))
    assert client.fetch_trace(ID, loop="api")[0].attributes == ()
