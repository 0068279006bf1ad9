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

# Not supported by the embedded API: metrics queries over durations, traces in several blocks, by(), trace:id,
# structural operators, and absent attributes; or recorded later, of other spans.
UNSUPPORTED = {
    "metrics-histogram", "metrics-quantiles",
    "absent-attribute", "absent-attribute-nil", "rootless", "rootless-with-or",
    "count-by-attributes", "count-by-service-and-status", "count-orphans", "count-orphans-by-service", "count-roots",
    "entry-attributes", "entry-attributes-by-service", "entry-by-service", "entry-by-span-id", "entry-status",
    "fragments-by-service", "fragments-by-service-and-name", "fragments-by-span-id", "fragments-plain",
    "fragments-roots", "root-attributes", "shared-span-id",
    "traces-below", "traces-by-id", "traces-by-id-by-span-id", "traces-by-id-fragments",
}  # fmt: skip
# Held to the embedded API in test_whole_traces.py; recorded with one version.
NEWEST_ONLY = {"traces-with-operations", "traces-with-operations-absent", "traces-with-operations-in-parts"}
# Recorded later than the others, and with "nil" for some attributes that a span lacks; see the end of this module.
WITH_ATTRIBUTES = {"attributes-search", "attributes-by-name", "attributes-count"}

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


NAMES = sorted(
    {path.stem for version in VERSIONS for path in (RECORDINGS / version).glob("*.json")}
    - UNSUPPORTED
    - WITH_ATTRIBUTES
    - NEWEST_ONLY
)


def test_both_versions_have_the_same_recordings() -> None:
    assert len(NAMES) >= 20
    for version in VERSIONS:
        names = {path.stem for path in (RECORDINGS / version).glob("*.json")}
        assert names - NEWEST_ONLY == {*NAMES, *UNSUPPORTED, *WITH_ATTRIBUTES}
        assert version != VERSIONS[-1] or names >= NEWEST_ONLY


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


def present_attributes(attributes: list[Json]) -> frozenset[tuple[str, str]]:
    values = ((each["key"], next(iter(each["value"].values()))) for each in attributes)
    return frozenset((name, str(value)) for name, value in values if value != "nil" and name != "nestedSetParent")


def found(response: Json) -> set[object]:
    """Return the spans of a search with the attributes that they have, or the counts by these."""
    if "traces" in response:
        return {
            (trace["traceID"], span["spanID"], span["name"], present_attributes(span["attributes"]))
            for trace in response["traces"]
            for span in trace["spanSets"][0]["spans"]
        }
    return {
        (present_attributes(series["labels"]), sum(sample.get("value", 0) for sample in series["samples"]))
        for series in response["series"]
    }


@pytest.mark.parametrize("name", sorted(WITH_ATTRIBUTES))
def test_attributes_are_selected_compared_and_counted_by(version: str, name: str) -> None:
    traces = []
    for each in recorded(version, "attributes-search")["response"]["body"]["traces"]:
        [span] = each["spanSet"]["spans"]
        values = dict(present_attributes(span["attributes"]))
        resource = tuple((key, value) for key, value in values.items() if key.startswith("deployment."))
        attributes = tuple((key, value) for key, value in values.items() if key.startswith("http.") or " " in key)
        operation = Operation(values["service.name"], span["name"], "server", resource, attributes)
        traces.append(make_trace(int(each["traceID"], 16), TraceShape((operation,), (ROOT,)), [times_of(span)]))
    recording = recorded(version, name)
    now = float(recording["request"]["params"]["end"])
    with TempoServer(TraceStore(traces), OPTIONS[version], clock=lambda: now) as server:
        url = server.url + recording["request"]["path"]
        response = requests.get(url, recording["request"]["params"], timeout=10)
    assert found(response.json()) == found(recording["response"]["body"])


def test_status_is_selected(version: str) -> None:
    """The spans of this recording were sent later than those of most others; ``spans.json`` has them."""
    recording = recorded(version, "entry-status")
    params = recording["request"]["params"]
    by_trace: dict[str, list[Json]] = {}
    for span in json.loads((RECORDINGS / "spans.json").read_text(encoding="utf-8")):
        if params["start"] * 10**9 <= span["startTimeUnixNano"] < params["end"] * 10**9:
            by_trace.setdefault(span["traceId"], []).append(span)
    traces = []
    for trace_id, spans in by_trace.items():
        ids = [span["spanId"] for span in spans]
        parents = tuple(ids.index(span["parentSpanId"]) if span["parentSpanId"] in ids else ROOT for span in spans)
        operations = [Operation(each["service"], each["name"], each["kind"], status=each["status"]) for each in spans]
        times = [SpanTimes(int(each["spanId"], 16), each["startTimeUnixNano"], each["durationNanos"]) for each in spans]
        traces.append(make_trace(int(trace_id, 16), TraceShape(tuple(operations), parents), times))
    with TempoServer(TraceStore(traces), OPTIONS[version], clock=lambda: float(params["end"])) as server:
        response = requests.get(server.url + recording["request"]["path"], params, timeout=10)
    spans_found = found(response.json())
    assert spans_found == found(recording["response"]["body"])
    assert any(("status", "error") in attributes for *_, attributes in cast("Any", spans_found))
