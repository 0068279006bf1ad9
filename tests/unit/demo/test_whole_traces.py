"""Searches for traces by their ids, against recorded real Tempo versions and for each fault of the demo."""

import json
from functools import lru_cache
from statistics import mean
from typing import Any, cast

import pytest

from exporter.cause.profile import TraceProfile, profile_of
from exporter.cause.verdict import CauseKind, CauseVerdict, compare
from exporter.demo.faults import FAULT_KINDS, SLOW_INSTANCE, FaultKind
from exporter.demo.routes import ApiOptions, TempoApi
from exporter.demo.scenario import INCIDENT_FACTOR, INCIDENT_SECONDS, INCIDENT_SERVICE, INCIDENT_SPAN, demo_scenario
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanKind, SpanTimes, Trace, TraceShape, TraceStore, make_trace
from exporter.model.critical_path import critical_path
from exporter.tempo.whole_traces import decode_whole_traces, traces_by_id_query
from tests.support.paths import RECORDINGS
from tests.support.tempo_server import Recording, recordings

NOW = 1_795_003_200.0
NS = 10**9
LATE_SECONDS = 60.0
ATTRIBUTES = ("resource.k8s.pod.name", "resource.service.version", "span.http.response.status_code")


@lru_cache(maxsize=1)
def sent_traces() -> list[Trace]:
    """Return the traces whose searches were recorded."""
    by_trace: dict[str, list[dict[str, Any]]] = {}
    for span in json.loads((RECORDINGS / "spans.json").read_text("utf-8")):
        by_trace.setdefault(span["traceId"], []).append(span)
    return [trace_of(trace_id, spans) for trace_id, spans in by_trace.items()]


def trace_of(trace_id: str, spans: list[dict[str, Any]]) -> Trace:
    ordered: list[dict[str, Any]] = []
    while len(ordered) < len(spans):
        known = {span["spanId"] for span in ordered}
        missing = {span["spanId"] for span in spans} - known
        ordered += [span for span in spans if span not in ordered and span["parentSpanId"] not in missing]
    positions = {span["spanId"]: number for number, span in reversed([*enumerate(ordered)])}
    operations = tuple(
        Operation(
            span["service"],
            span["name"],
            cast("SpanKind", span["kind"]),
            tuple(span["resource"].items()),
            tuple(span["attributes"].items()),
            status=span["status"],
            late_seconds=LATE_SECONDS * span["part"],
        )
        for span in ordered
    )
    parents = tuple(positions.get(span["parentSpanId"], ORPHAN) if span["parentSpanId"] else ROOT for span in ordered)
    times = [SpanTimes(int(s["spanId"], 16), s["startTimeUnixNano"], s["durationNanos"]) for s in ordered]
    return make_trace(int(trace_id, 16), TraceShape(operations, parents), times)


def unordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: unordered(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((unordered(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def comparable(body: Any) -> Any:
    """Leave out the first of the span sets, whose choice is arbitrary, and a parent that is not there."""
    traces = [{key: value for key, value in trace.items() if key != "spanSet"} for trace in body["traces"]]
    text = json.dumps(unordered(traces))
    # The embedded API makes up the id of a parent that is missing.
    for trace in sent_traces():
        for position, parent in enumerate(trace.shape.parents):
            if parent == ORPHAN:
                text = text.replace(f"{trace.spans[position].span_id ^ 1:016x}", "00000000000000aa")
    return json.loads(text)


@pytest.mark.parametrize("recording", [*recordings("traces-by-id*"), *recordings("traces-with-operations*")], ids=str)
def test_same_request_gets_the_same_traces(recording: Recording) -> None:
    api = TempoApi(TraceStore(sent_traces()), ApiOptions(idle_seconds=10.0), lambda: recording.params["end"] + 600.0)
    response = api.respond("/api/search", {name: str(value) for name, value in recording.params.items()})
    assert response.status == 200
    assert comparable(json.loads(response.body)) == comparable(recording.body)


@pytest.mark.parametrize(
    "query",
    [
        '{trace:id="1" && kind=server}',
        '{span:parentID="1"}',
        "{} | select(trace:id)",
        '{trace:id!="1"}',
        '{trace:id="x"}',
    ],
)
def test_other_uses_of_ids_are_refused(query: str) -> None:
    api = TempoApi(TraceStore([]), ApiOptions(), lambda: NOW)
    assert api.respond("/api/search", {"q": query, "start": "1", "end": "2"}).status == 400


def profiles(fault: FaultKind, start: float, end: float, number: int = 20) -> list[TraceProfile]:
    """Fetch whole traces of the endpoint with the incident through the API, and take them apart."""
    scenario = demo_scenario(NOW, incident_after_seconds=0.0, fault=fault, traffic_factor=2.0)
    api = TempoApi(scenario, ApiOptions(), lambda: NOW + 600)
    name = f'{{nestedSetParent<0 && resource.service.name="{INCIDENT_SERVICE}" && name="{INCIDENT_SPAN}"}}'
    params = {"start": str(int(start)), "end": str(int(end)), "limit": str(number)}
    found = json.loads(api.respond("/api/search", {"q": name, **params}).body)
    ids = [trace["traceID"].zfill(32) for trace in found["traces"]]
    body = api.respond("/api/search", {"q": traces_by_id_query(ids, ATTRIBUTES), **params, "spss": "100"}).body
    paths = {trace_id: critical_path(spans) for trace_id, spans in decode_whole_traces(body, ids).spans.items()}
    return [profile_of(trace_id, path) for trace_id, path in paths.items() if path is not None]


@lru_cache(maxsize=8)
def verdict(fault: FaultKind) -> CauseVerdict:
    return compare(profiles(fault, NOW + 30, NOW + 330), profiles(fault, NOW - 3600, NOW - 3000), "demo")


@pytest.mark.parametrize(
    ("fault", "kind", "service", "span"),
    [
        ("slow_call", CauseKind.SLOWER_CALLS, "ledger", "INSERT entries"),
        ("slow_instance", CauseKind.SLOWER_CALLS, "ledger", "ledger.v1.Ledger/Book"),
        ("more_calls", CauseKind.MORE_CALLS, "ledger", "INSERT entries"),
        ("slow_network", CauseKind.PATH, "ledger", "ledger.v1.Ledger/Book"),
        ("retries", CauseKind.MORE_CALLS, "ledger", "ledger.v1.Ledger/Book"),
    ],
)
def test_cause_of_each_fault_is_named(fault: FaultKind, kind: CauseKind, service: str, span: str) -> None:
    found = verdict(fault)
    assert (found.kind, found.service_name) == (kind, service)
    assert found.parts[0].change.component.span_name == span


def test_slow_instance_is_named() -> None:
    names = {(each.name, each.value) for each in verdict("slow_instance").contrasts if each.basis == "time"}
    assert ("k8s.pod.name", f"ledger-7c9f-{SLOW_INSTANCE}") in names


def test_version_that_came_with_the_calls_is_named() -> None:
    names = {(each.name, each.value) for each in verdict("more_calls").contrasts}
    assert ("service.version", "2.4.0") in names


def test_calls_that_fail_are_named() -> None:
    failed = verdict("retries").failed
    assert failed is not None
    assert failed.are_retries


@pytest.mark.parametrize("fault", FAULT_KINDS)
def test_spans_stay_within_their_parents(fault: FaultKind) -> None:
    scenario = demo_scenario(NOW, incident_after_seconds=0.0, fault=fault)
    for trace in scenario.overlapping(int((NOW + 30) * NS), int((NOW + 330) * NS)):
        root = trace.shape.operations[0]
        if (root.service, root.name) != (INCIDENT_SERVICE, INCIDENT_SPAN):
            continue
        for position, parent in enumerate(trace.shape.parents):
            operation = trace.shape.operations[position]
            if parent >= 0 and operation.kind != "consumer":
                span, above = trace.spans[position], trace.spans[parent]
                assert above.start_ns <= span.start_ns
                assert span.start_ns + span.duration_ns <= above.start_ns + above.duration_ns


def test_silence_has_no_requests_during_the_incident_and_they_come_again() -> None:
    scenario = demo_scenario(NOW, incident_after_seconds=0.0, fault="silence")

    def requests(since: float, until: float) -> int:
        operations = [trace.shape.operations[0] for trace in scenario.overlapping(int(since * NS), int(until * NS))]
        return sum((root.service, root.name) == (INCIDENT_SERVICE, INCIDENT_SPAN) for root in operations)

    assert requests(NOW + 30, NOW + 300) == 0
    assert requests(NOW - 300, NOW - 30) > 30
    assert requests(NOW + INCIDENT_SECONDS + 30, NOW + INCIDENT_SECONDS + 300) > 30


def test_errors_are_a_third_of_the_requests_which_fail_fast() -> None:
    scenario = demo_scenario(NOW, incident_after_seconds=0.0, fault="errors")

    def requests(since: float, until: float) -> list[Trace]:
        found = scenario.overlapping(int(since * NS), int(until * NS))
        roots = [(trace.shape.operations[0].service, trace.shape.operations[0].name) for trace in found]
        names = zip(found, roots, strict=True)
        return [trace for trace, root in names if root == (INCIDENT_SERVICE, INCIDENT_SPAN)]

    def failed(traces: list[Trace]) -> list[Trace]:
        return [trace for trace in traces if trace.shape.operations[0].status == "error"]

    before, now = requests(NOW - 3600, NOW - 30), requests(NOW + 30, NOW + INCIDENT_SECONDS - 30)
    after = requests(NOW + INCIDENT_SECONDS + 30, NOW + INCIDENT_SECONDS + 600)
    assert len(failed(now)) / len(now) == pytest.approx(1 / 3, rel=0.25)
    assert all(len(failed(each)) < 0.03 * len(each) for each in (before, after))
    usual = mean(trace.spans[0].duration_ns for trace in before)
    rejected = [trace for trace in failed(now) if len(trace.spans) == 1]
    assert mean(trace.spans[0].duration_ns for trace in rejected) < 0.2 * usual
    others = [trace.spans[0].duration_ns for trace in now if len(trace.spans) > 1]
    assert mean(others) == pytest.approx(usual, rel=0.35)
    assert scenario.find(rejected[0].trace_id) == rejected[0]


@pytest.mark.parametrize("fault", [kind for kind in FAULT_KINDS if kind not in ("errors", "silence")])
def test_incident_is_equally_slow_for_each_cause(fault: FaultKind) -> None:
    now = mean(each.duration_ns for each in profiles(fault, NOW + 30, NOW + 330, 60))
    usual = mean(each.duration_ns for each in profiles(fault, NOW - 3600, NOW - 3000, 60))
    factor = (INCIDENT_FACTOR + 2) / 3 if fault == "slow_instance" else INCIDENT_FACTOR
    assert now / usual == pytest.approx(factor, rel=0.35)
