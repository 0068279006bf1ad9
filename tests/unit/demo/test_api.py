"""The embedded Tempo API: ranges, limits, visibility, counts, and its HTTP server."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.demo.responses import ApiResponse, go_duration
from exporter.demo.routes import ApiOptions, TempoApi
from exporter.demo.scenario import demo_scenario
from exporter.demo.search import SearchLimits
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace

NS = 1_000_000_000
START = 1_772_402_400  # a full hour
NOW = START + 10_000.0
ROOTS = "{nestedSetParent<0} | select(resource.service.name, name)"
SHAPES = [TraceShape((Operation("shop", name),), (ROOT,)) for name in ("GET /a", "GET /b")]

Json = dict[str, Any]


def trace(trace_id: int, start: float, seconds: float = 0.1, shape: TraceShape = SHAPES[0]) -> Trace:
    """Return a trace of one span that starts this many seconds after ``START``."""
    times = SpanTimes(trace_id % 2**64, START * NS + round(start * NS), round(seconds * NS))
    return make_trace(trace_id, shape, [times])


def api(traces: list[Trace], options: ApiOptions | None = None, now: float = NOW) -> TempoApi:
    return TempoApi(TraceStore(traces), options or ApiOptions(), lambda: now)


def search(tempo: TempoApi, start: int = 0, end: int = 3600, **params: object) -> list[Json]:
    """Search a range given in seconds after ``START``, and return the traces."""
    query = {"q": ROOTS, "limit": 100_000, "start": START + start, "end": START + end} | params
    response = tempo.respond("/api/search", {name: str(value) for name, value in query.items() if value is not None})
    assert response.status == 200, response
    return cast("list[Json]", json.loads(response.body)["traces"])


def ids(results: list[Json]) -> list[int]:
    return [int(result["traceID"], 16) for result in results]


def get(server: TempoServer | str, path: str, **params: str | int) -> requests.Response:
    return requests.get((server if isinstance(server, str) else server.url) + path, params, timeout=10)


def error_response(tempo: TempoApi, path: str, **params: object) -> ApiResponse:
    response = tempo.respond(path, {name: str(value) for name, value in params.items()})
    assert response.content_type == "text/plain; charset=utf-8"
    return response


@settings(deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 600)), max_size=25),
    window=st.tuples(st.integers(0, 9500), st.integers(1, 9000)),
    most_recent=st.booleans(),
)
def test_search_finds_every_overlapping_trace_once(
    spans: list[tuple[int, int]], window: tuple[int, int], most_recent: bool
) -> None:
    traces = [trace(position + 1, start, seconds) for position, (start, seconds) in enumerate(spans)]
    start, end = window[0], window[0] + window[1]

    results = search(api(traces, now=NOW + 1e6), start, end, q=ROOTS + " with (most_recent=true)" * most_recent)

    assert sorted(ids(results)) == [
        position + 1 for position, (begin, seconds) in enumerate(spans) if begin <= end and begin + seconds >= start
    ]


def test_adjacent_ranges_cover_the_scenario_exactly_once_by_start() -> None:
    tempo = TempoApi(demo_scenario(NOW), ApiOptions(), lambda: NOW)

    def starting_in(start: int, end: int) -> list[int]:
        results = search(tempo, start, end)
        return [
            int(result["traceID"], 16)
            for result in results
            if (START + start) * NS <= int(result["startTimeUnixNano"]) < (START + end) * NS
        ]

    whole = starting_in(0, 3600)
    pieces = [*starting_in(0, 1800), *starting_in(1800, 1801), *starting_in(1801, 3600)]

    assert len(whole) > 500
    assert sorted(pieces) == sorted(whole)


def test_saturated_search_is_biased_to_the_oldest_blocks_and_lowest_ids() -> None:
    traces = [trace(1000 - position, 10.0 * position) for position in range(300)]

    results = ids(search(api(traces), limit=20))

    first_block = sorted(t.trace_id for t in traces if t.start_ns < (START + 600) * NS)
    assert sorted(results) == first_block[:20]


def test_most_recent_hint_returns_the_newest_traces() -> None:
    traces = [trace(position + 1, 30.0 * position) for position in range(300)]

    results = ids(search(api(traces), 0, 9000, limit=20, q=ROOTS + " with (most_recent=true)"))

    assert results == list(range(300, 280, -1))


def test_default_limits_are_twenty_traces_and_three_spans() -> None:
    wide = TraceShape(tuple(Operation("s", f"{i}") for i in range(9)), (ROOT,) * 9)
    times = [SpanTimes(i, (START + 5) * NS, NS) for i in range(9)]

    results = search(api([*(trace(i, i) for i in range(2, 40)), make_trace(1, wide, times)]), 5, 39, limit=None)

    assert len(results) == 20
    spans = next(result for result in results if result["traceID"] == "1")["spanSet"]
    assert (len(spans["spans"]), spans["matched"]) == (3, 9)


def test_duration_conditions_are_evaluated_per_trace() -> None:
    traces = [trace(1, 10, 0.5), trace(2, 20, 1.5), trace(3, 30, 2.5)]

    results = search(api(traces), q="{nestedSetParent<0 && duration>1s}")

    assert sorted(ids(results)) == [2, 3]


def test_names_are_returned_exactly() -> None:
    name = 'GET "/100%d\\x"\n\x00 \u0661 \U0001f600'
    shape = TraceShape((Operation("s%s", name, "server", (("k%", "v%s"),)),), (ROOT,))

    [result] = search(api([trace(1, 1, shape=shape)]), q="{} | select(name, resource.service.name, resource.k%)")

    assert (result["rootServiceName"], result["rootTraceName"]) == ("s%s", name)
    [span] = result["spanSets"][0]["spans"]
    assert span["name"] == name
    assert span["attributes"] == [
        {"key": "service.name", "value": {"stringValue": "s%s"}},
        {"key": "k%", "value": {"stringValue": "v%s"}},
    ]


def test_trace_is_visible_only_after_the_delay() -> None:
    traces = [trace(1, 9000, 10), trace(2, 9000, 999), trace(3, 9985, 1), trace(4, 9995, 10), trace(5, 10_001, 1)]

    assert sorted(ids(search(api(traces), 0, 20_000))) == [1, 2, 3]
    assert sorted(ids(search(api(traces, ApiOptions(visible_after_seconds=9)), 0, 20_000))) == [1, 3]
    assert sorted(ids(search(api(traces, ApiOptions(visible_after_seconds=30)), 0, 20_000))) == [1]
    assert ids(search(api(traces), 10_000, 20_000)) == []


def test_expired_traces_are_not_found() -> None:
    traces = [trace(1, 1000, 3000), trace(2, 2000), trace(3, 3000)]

    results = search(api(traces, ApiOptions(retention_seconds=8000)), 0, 4000)

    assert sorted(ids(results)) == [2, 3]
    assert search(api(traces, ApiOptions(retention_seconds=8000)), 0, 1500) == []


def test_search_without_range_covers_the_last_hour() -> None:
    traces = [trace(1, 10), trace(2, 9000)]

    assert ids(search(api(traces), start=-START, end=-START)) == [2]


def test_search_without_query_returns_traces_without_spans() -> None:
    traces = [trace(1, 1, shape=SHAPES[0]), trace(2, 2, shape=SHAPES[1])]

    by_tag = search(api(traces), q=None, tags='name="GET /b" service.name=shop')

    assert [set(result) for result in by_tag] == [
        {"traceID", "rootServiceName", "rootTraceName", "startTimeUnixNano", "durationMs"}
    ]
    assert ids(by_tag) == [2]
    assert ids(search(api(traces), q=None)) == [2, 1]


LIMITS = SearchLimits(max_result_limit=100, max_duration_seconds=3600)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"start": "x"}, 'invalid start: strconv.ParseUint: parsing "x": invalid syntax'),
        ({"end": "-1"}, 'invalid end: strconv.ParseUint: parsing "-1": invalid syntax'),
        (
            {"start": 2**32, "end": 2**32 + 1},
            'invalid start: strconv.ParseUint: parsing "4294967296": value out of range',
        ),
        ({"start": 5, "end": 5}, "http parameter start must be before end. received start=5 end=5"),
        ({"limit": 101}, "limit 101 exceeds max limit 100"),
        ({"limit": 0}, "invalid limit: must be a positive number"),
        ({"start": 1, "end": 3602}, "range specified by start and end exceeds 1h0m0s. received start=1 end=3602"),
        ({"spss": 101}, "spans per span set exceeds 100. received 101"),
        ({"q": "{}}"}, "invalid TraceQL query: parse error at line 1, col 3: syntax error: unexpected }"),
        (
            {"q": "{} | count_over_time()"},
            "invalid TraceQL query: count_over_time() is only supported by /api/metrics/query_range",
        ),
        ({"tags": 'name="open'}, "invalid tags: No closing quotation"),
        # Only the first problem is reported.
        ({"limit": 101, "q": "{", "spss": 101}, "limit 101 exceeds max limit 100"),
        (
            {"start": 1, "end": 9999, "spss": 101},
            "range specified by start and end exceeds 1h0m0s. received start=1 end=9999",
        ),
    ],
)
def test_invalid_search_is_rejected_in_tempos_wording(params: Mapping[str, object], text: str) -> None:
    response = error_response(api([], ApiOptions(limits=LIMITS)), "/api/search", **params)

    assert (response.status, response.body.decode()) == (400, text)


@pytest.mark.parametrize(("seconds", "text"), [(604_800, "168h0m0s"), (5400, "1h30m0s"), (61, "1m1s"), (5, "5s")])
def test_go_duration(seconds: int, text: str) -> None:
    assert go_duration(seconds) == text


COUNTS = "{nestedSetParent<0} | count_over_time() by (resource.service.name, name)"


def counts(tempo: TempoApi, start: int, end: int, step: str, q: str = COUNTS) -> dict[tuple[str, ...], dict[int, int]]:
    """Return the counts of each series by the end of their step, in seconds after ``START``."""
    params = {"q": q, "start": str(START + start), "end": str(START + end), "step": step}
    response = tempo.respond("/api/metrics/query_range", params)
    assert response.status == 200, response
    return {
        tuple(label["value"]["stringValue"] for label in series["labels"]): {
            int(sample["timestampMs"]) // 1000 - START: sample.get("value", 0) for sample in series["samples"]
        }
        for series in json.loads(response.body)["series"]
    }


def test_counts_are_at_the_end_of_their_step() -> None:
    traces = [trace(1, 0), trace(2, 0.001), trace(3, 60), trace(4, 61, shape=SHAPES[1]), trace(5, 121)]

    assert counts(api(traces), 0, 120, "1m") == {
        ("shop", "GET /a"): {0: 1, 60: 2, 120: 0},
        ("shop", "GET /b"): {0: 0, 60: 0, 120: 1},
    }
    assert counts(api(traces), 0, 120, "60s", "{} | count_over_time()") == {("count_over_time",): {0: 1, 60: 2, 120: 1}}


@settings(deadline=None)
@given(
    starts=st.lists(st.integers(1, 3599), max_size=30),
    window=st.tuples(st.integers(0, 3000), st.integers(1, 600)),
    step=st.sampled_from([1, 30, 60, 600]),
)
def test_counts_are_exact(starts: list[int], window: tuple[int, int], step: int) -> None:
    traces = [trace(position + 1, start, shape=SHAPES[position % 2]) for position, start in enumerate(starts)]
    first, last = window[0] // step * step, -(-(window[0] + window[1]) // step) * step

    counted = counts(api(traces), window[0], window[0] + window[1], f"{step}s")

    expected = Counter(
        (f"GET /{'ab'[position % 2]}", -(-start // step) * step)
        for position, start in enumerate(starts)
        if first - step < start <= last
    )
    assert {(name, point): n for (_, name), points in counted.items() for point, n in points.items() if n} == expected


def test_metrics_query_range_is_widened_before_the_check() -> None:
    tempo = api([], ApiOptions(metrics_max_duration_seconds=3 * 3600))

    assert counts(tempo, 1, 2 * 3600, "1h") == {}
    response = error_response(
        tempo, "/api/metrics/query_range", q=COUNTS, start=START + 1, end=START + 2 * 3600 + 1, step="1h"
    )
    assert (response.status, response.body) == (
        400,
        b"metrics query time range exceeds the maximum allowed duration of 3h0m0s",
    )


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({}, "start and end required"),
        ({"start": 1, "end": 2}, "invalid step: ''"),
        ({"start": 1, "end": 2, "step": "0s"}, "invalid step: '0s'"),
        ({"start": 1, "end": 2, "step": "1d"}, "invalid step: '1d'"),
        (
            {"start": 1, "end": 2, "step": "1s", "q": "{}"},
            "invalid TraceQL query: count_over_time() by fields is the only",
        ),
        ({"start": 1, "end": 20_000, "step": "1s", "q": COUNTS}, "the step 1s is too short"),
    ],
)
def test_invalid_metrics_query_is_rejected(params: Mapping[str, object], text: str) -> None:
    response = error_response(api([]), "/api/metrics/query_range", **params)

    assert response.status == 400
    assert response.body.decode().startswith(text)


def test_metrics_queries_can_be_empty_or_fail_as_in_tempo_2() -> None:
    traces = [trace(1, 10)]
    params = {"q": COUNTS, "start": str(START), "end": str(START + 60), "step": "1m"}

    empty = api(traces, ApiOptions(metrics="empty")).respond("/api/metrics/query_range", params)
    failing = api(traces, ApiOptions(metrics="refused")).respond("/api/metrics/query_range", params)

    assert (empty.status, json.loads(empty.body)) == (200, {"series": [], "metrics": {"completedJobs": 1}})
    assert failing.status == 500
    assert b"empty ring" in failing.body


def test_trace_is_found_with_and_without_leading_zeros() -> None:
    shape = TraceShape(
        (Operation("shop", "GET /"), Operation("", "", "unspecified", (("zone", "z"),), (("a", "b"),))), (ROOT, 0)
    )
    stored = make_trace(0xABC, shape, [SpanTimes(1, START * NS, NS), SpanTimes(2, START * NS, 0)])

    responses = [api([stored]).respond(f"/api/v2/traces/{text}", {}) for text in ("abc", "0" * 29 + "ABC")]

    assert responses[0] == responses[1]
    first, second = json.loads(responses[0].body)["trace"]["resourceSpans"]
    [span] = second["scopeSpans"][0]["spans"]
    assert first["scopeSpans"][0]["spans"][0]["name"] == "GET /"
    assert span["parentSpanId"] == first["scopeSpans"][0]["spans"][0]["spanId"]
    assert span["attributes"] == [{"key": "a", "value": {"stringValue": "b"}}]
    assert not {"name", "kind"} & set(span)


def test_trace_lookup_respects_visibility() -> None:
    tempo = api([trace(1, 20_000)])

    assert tempo.respond("/api/traces/1", {}).status == 404
    assert json.loads(tempo.respond("/api/v2/traces/1", {}).body) == {"trace": {}, "metrics": {}}


@pytest.mark.parametrize("text", ["xyz", "0" * 33, ""])
def test_invalid_trace_id_is_rejected(text: str) -> None:
    assert error_response(api([]), f"/api/v2/traces/{text}").status == 400


def test_unknown_path_is_not_found() -> None:
    assert error_response(api([]), "/api/v2/search/tags").status == 404


@pytest.fixture
def server() -> Iterator[TempoServer]:
    with TempoServer(TraceStore([trace(1, 10)]), clock=lambda: NOW) as running:
        yield running


def test_server_records_requests(server: TempoServer) -> None:
    get(server, "/api/echo")
    get(server, "/api/search", q=ROOTS, start=START, end=START + 60, tags="")

    assert [request.path for request in server.received] == ["/api/echo", "/api/search"]
    assert server.searches() == [{"q": ROOTS, "start": str(START), "end": str(START + 60), "tags": ""}]


def test_connections_are_reused_and_end_with_the_server() -> None:
    with requests.Session() as session:
        with TempoServer(TraceStore([]), clock=lambda: NOW) as server:
            ports = {session.get(server.url + "/ready", timeout=10).raw.version for _ in range(3)}
            assert ports == {11}
            url = server.url
        with pytest.raises(requests.ConnectionError):
            session.get(url + "/ready", timeout=10)


def test_port_can_be_reused() -> None:
    with TempoServer(TraceStore([]), clock=lambda: NOW) as first:
        port = int(first.url.rsplit(":", 1)[1])
        assert get(first, "/ready").text == "ready\n"
    with TempoServer(TraceStore([]), clock=lambda: NOW, port=port) as second:
        assert get(second, "/ready").text == "ready\n"


def test_responses_can_be_delayed() -> None:
    slept: list[float] = []

    with TempoServer(TraceStore([]), ApiOptions(delay_seconds=3), clock=lambda: NOW, sleep=slept.append) as server:
        assert get(server, "/ready").ok

    assert slept == [3]


def test_internal_error_is_a_response() -> None:
    class Broken(TraceStore):
        def overlapping(self, start_ns: int, end_ns: int) -> list[Trace]:
            raise RuntimeError("out of order")

    with TempoServer(Broken([]), clock=lambda: NOW) as server:
        response = get(server, "/api/search", q=ROOTS, start=START, end=START + 1)

    assert response.status_code == 500
    assert "out of order" in response.text


def start_process(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "exporter.demo.tempo_api", "--port", "0", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_process_exits_with_its_parent() -> None:
    with start_process("--exit-with-parent", "--anchor", str(NOW), "--max-result-limit", "10") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        results = get(url, "/api/search", q=ROOTS, start=START, end=START + 3600, limit=10)
        refused = get(url, "/api/search", q=ROOTS, limit=11)
        process.stdin.close()
        status = process.wait(timeout=10)

    assert len(results.json()["traces"]) == 10
    assert refused.text == "limit 11 exceeds max limit 10"
    assert status == 0


def test_process_exits_on_sigterm() -> None:
    with start_process() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.terminate()
        status = process.wait(timeout=10)

    assert status == 0


def test_port_in_use_is_reported(server: TempoServer) -> None:
    port = server.url.rsplit(":", 1)[1]

    ended = subprocess.run(
        [sys.executable, "-m", "exporter.demo.tempo_api", "--port", port], capture_output=True, text=True, timeout=30
    )

    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


class TestParts:
    """Parts of a trace in different blocks, which a search does not join."""

    SHAPE = TraceShape(
        (Operation("shop", "GET /"), Operation("shop", "GET /a"), Operation("db", "GET /b"), Operation("db", "GET /c")),
        (ROOT, 0, 0, 0),
    )
    OPTIONS = ApiOptions(idle_seconds=8)

    def found(self, by: str, now: float = NOW, **late: float) -> set[tuple[str, ...]]:
        """Search for a trace whose root ends 30 s after the others; returns the names in each span set."""
        first, *others = self.SHAPE.operations
        shape = TraceShape((replace(first, **late), *others), self.SHAPE.parents)  # type: ignore[arg-type]
        times = [(0, 40), (1, 1), (2, 8), (3, 1)]
        spans = [SpanTimes(n, (START + begin) * NS, seconds * NS) for n, (begin, seconds) in enumerate(times, start=1)]
        tempo = api([make_trace(1, shape, spans)], self.OPTIONS, now)
        results = search(tempo, q=f"{{kind=server}}{by} | select(name)", spss=9)
        sets = [span_set for result in results for span_set in result["spanSets"]]
        assert all(span_set["matched"] == len(span_set["spans"]) for span_set in sets)
        return {tuple(span["name"] for span in span_set["spans"]) for span_set in sets}

    def test_without_by_the_part_with_most_spans_is_returned(self) -> None:
        assert self.found("") == {("GET /a", "GET /b", "GET /c")}

    def test_with_by_parts_compete_within_a_group_only(self) -> None:
        grouped = self.found(" | by(resource.service.name)")
        assert ("GET /b", "GET /c") in grouped
        assert grouped - {("GET /b", "GET /c")} < {("GET /",), ("GET /a",)}

    def test_by_span_id_returns_every_span(self) -> None:
        assert self.found(" | by(span:id)") == {("GET /",), ("GET /a",), ("GET /b",), ("GET /c",)}

    def test_spans_are_found_as_they_arrive(self) -> None:
        assert self.found(" | by(span:id)", START + 9.0) == {("GET /a",), ("GET /c",)}
        assert len(self.found(" | by(span:id)", START + 39.0)) == 3
        assert len(self.found(" | by(span:id)", START + 41.0)) == 4
        assert len(self.found(" | by(span:id)", START + 41.0, late_seconds=5)) == 3

    def test_several_filters_must_match_in_the_same_part(self) -> None:
        both = '{kind=server && name="GET /a"} && {name="GET /b"} | by(resource.service.name) | select(name)'
        apart = '{kind=server && name="GET /"} && {name="GET /b"} | select(name)'
        lacking = '{kind=server && name="GET /a"} && {name="GET /z"} | select(name)'
        assert self.names(both) == [("GET /a",), ("GET /b",)]
        assert self.names(apart) == []
        assert self.names(lacking) == []
        # Tempo has all spans of a trace that ended early enough in one place.
        assert self.names(apart, ApiOptions()) == [("GET /", "GET /b")]
        assert self.names(lacking, ApiOptions()) == []

    def names(self, query: str, options: ApiOptions = OPTIONS) -> list[tuple[str, ...]]:
        times = [(0, 40), (1, 1), (2, 8), (3, 1)]
        spans = [SpanTimes(n, (START + begin) * NS, seconds * NS) for n, (begin, seconds) in enumerate(times, start=1)]
        results = search(api([make_trace(1, self.SHAPE, spans)], options), q=query, spss=9)
        return [tuple(span["name"] for span in each["spans"]) for result in results for each in result["spanSets"]]

    def test_span_sets_name_their_group(self) -> None:
        spans = [SpanTimes(n, START * NS, NS) for n in range(1, 5)]
        tempo = api([make_trace(1, self.SHAPE, spans)])
        (result,) = search(tempo, q="{} | by(resource.service.name) | by(span:id) | select(name)")
        assert result["spanSet"] == result["spanSets"][0]
        assert result["spanSets"][2]["attributes"] == [
            {"key": "by(resource.service.name)", "value": {"stringValue": "db"}},
            {"key": "by(span:id)", "value": {"stringValue": "0000000000000003"}},
        ]
