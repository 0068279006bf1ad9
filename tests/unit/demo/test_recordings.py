"""The embedded Tempo API responds like recorded real Tempo versions for the same traces."""

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
import requests

from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanKind, SpanTimes, Trace, TraceShape, TraceStore, make_trace
from tests.support.paths import RECORDINGS

VERSIONS = ("tempo-2.10.8", "tempo-3.0.3")
RECORDED_AT = 1795080600.0
NS_PER_MS = 1_000_000

OPTIONS = {
    "tempo-2.10.8": ApiOptions(metrics="empty", metrics_max_duration_seconds=3 * 3600),
    "tempo-3.0.3": ApiOptions(),
}

# Not supported by the embedded API: metrics queries over durations.
UNSUPPORTED = {"metrics-histogram", "metrics-quantiles"}

Json = dict[str, Any]


def recorded(version: str, name: str) -> Json:
    return cast("Json", json.loads((RECORDINGS / version / f"{name}.json").read_text(encoding="utf-8")))


def attributes_of(span: Json) -> dict[str, Any]:
    return {attribute["key"]: next(iter(attribute["value"].values())) for attribute in span["attributes"]}


def operation_of(span: Json) -> Operation:
    attributes = attributes_of(span)
    kind = cast("SpanKind", attributes["kind"])
    resource = (("deployment.environment", attributes["deployment.environment"]),)
    return Operation(attributes["service.name"], span.get("name", ""), kind, resource)


def times_of(span: Json) -> SpanTimes:
    return SpanTimes(int(span["spanID"], 16), int(span["startTimeUnixNano"]), int(span.get("durationNanos", 0)))


def trace_of(recorded_trace: Json, children: list[Json]) -> Trace:
    """Build a trace with the recorded root spans, their recorded children, and invented spans for the rest.

    Only the services and span counts of the rest are known; they start with the trace, and the last ends with it.
    """
    roots = recorded_trace["spanSet"]["spans"]
    spans = roots + children
    operations = [operation_of(span) for span in spans]
    parents = [ROOT] * len(roots) + [0] * len(children)
    times = [times_of(span) for span in spans]
    start_ns = int(recorded_trace["startTimeUnixNano"])
    missing = dict.fromkeys(recorded_trace["serviceStats"], 0) | {
        service: stats["spanCount"] - sum(operation.service == service for operation in operations)
        for service, stats in recorded_trace["serviceStats"].items()
    }
    for service, count in missing.items():
        like_recorded = next((o for o in operations if o.service == service), None)
        for _ in range(count):
            operations.append(like_recorded or Operation(service, "call", "client", operations[0].resource))
            parents.append(0)
            times.append(SpanTimes(len(times), start_ns, recorded_trace.get("durationMs", 0) * NS_PER_MS))
    return make_trace(int(recorded_trace["traceID"], 16), TraceShape(tuple(operations), tuple(parents)), times)


def rootless_trace(recorded_trace: Json) -> Trace:
    [span] = recorded_trace["spanSet"]["spans"]
    [service] = recorded_trace["serviceStats"]
    operation = Operation(service, "", "server", tuple(attributes_of(span).items()))
    return make_trace(int(recorded_trace["traceID"], 16), TraceShape((operation,), (ORPHAN,)), [times_of(span)])


def recorded_traces(version: str) -> list[Trace]:
    """Return the traces that the recorded searches ran on."""
    [fan_out] = recorded(version, "search-entry-spans-spss")["response"]["body"]["traces"]
    children = {fan_out["traceID"]: fan_out["spanSet"]["spans"][1:]}
    with_roots = recorded(version, "search-roots-selected")["response"]["body"]["traces"]
    all_traces = recorded(version, "search-all-spans")["response"]["body"]["traces"]
    rooted_ids = {recorded_trace["traceID"] for recorded_trace in with_roots}
    return [
        *(trace_of(recorded_trace, children.get(recorded_trace["traceID"], [])) for recorded_trace in with_roots),
        *(
            rootless_trace(recorded_trace)
            for recorded_trace in all_traces
            if recorded_trace["traceID"] not in rooted_ids
        ),
    ]


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


@pytest.fixture(scope="module")
def server(version: str) -> Iterator[TempoServer]:
    with TempoServer(TraceStore(recorded_traces(version)), OPTIONS[version], clock=lambda: RECORDED_AT) as server:
        yield server


def unordered(value: Any) -> Any:
    """Sort all lists in JSON: Tempo guarantees no order of traces, spans, attributes or series."""
    if isinstance(value, dict):
        return {key: unordered(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((unordered(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def comparable(body: Any) -> Any:
    """Remove what may differ between responses: inspected bytes and the choice of exemplars."""
    if not isinstance(body, dict):
        return body
    body = dict(body)
    if "metrics" in body:
        body["metrics"] = set(body["metrics"])
    if "series" in body:
        body["series"] = [{k: v for k, v in series.items() if k != "exemplars"} for series in body["series"]]
    return {key: value if key == "metrics" else unordered(value) for key, value in body.items()}


NAMES = sorted({path.stem for version in VERSIONS for path in (RECORDINGS / version).glob("*.json")} - UNSUPPORTED)


def test_both_versions_have_the_same_recordings() -> None:
    assert len(NAMES) >= 20
    for version in VERSIONS:
        assert {path.stem for path in (RECORDINGS / version).glob("*.json")} == {*NAMES, *UNSUPPORTED}


@pytest.mark.parametrize("name", NAMES)
def test_same_request_gets_the_same_response(server: TempoServer, version: str, name: str) -> None:
    recording = recorded(version, name)
    expected = recording["response"]

    response = requests.get(server.url + recording["request"]["path"], recording["request"]["params"], timeout=10)

    assert response.status_code == expected["status"]
    assert response.headers["Content-Type"] == expected["content_type"]
    body = response.json() if expected["content_type"] == "application/json" else response.text
    assert comparable(body) == comparable(expected["body"])


@pytest.mark.parametrize("name", ["search-roots-selected", "search-saturated", "search-saturated-most-recent"])
def test_traces_are_in_the_same_order(server: TempoServer, version: str, name: str) -> None:
    recording = recorded(version, name)

    response = requests.get(server.url + recording["request"]["path"], recording["request"]["params"], timeout=10)

    ids = [trace["traceID"] for trace in response.json()["traces"]]
    assert ids == [trace["traceID"] for trace in recording["response"]["body"]["traces"]]


def test_search_metrics_have_the_recorded_types(server: TempoServer, version: str) -> None:
    recording = recorded(version, "search-roots")

    response = requests.get(server.url + recording["request"]["path"], recording["request"]["params"], timeout=10)

    metrics = response.json()["metrics"]
    assert {key: type(value) for key, value in metrics.items()} == {
        key: type(value) for key, value in recording["response"]["body"]["metrics"].items()
    }
