"""Recorded responses of real Tempo versions, replayed through the client over HTTP."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from exporter.model.failure_rule import STATUS_IS_ERROR
from exporter.model.identity import OWN_NAME, Attribute, SeriesIdentity
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, RangeTooLongError, TempoClient, TempoError
from exporter.tempo.errors import LimitTooHighError, TooManySpansError
from exporter.tempo.failures import HttpResponse
from exporter.tempo.query import series_conditions
from tests.support.paths import RECORDINGS
from tests.support.tempo_server import FakeTempo, Recorder, Recording, fake_tempo, recordings

VERSIONS = ("tempo-2.10.8", "tempo-3.0.3")
REFUSALS = {
    "search-limit-too-large": (LimitTooHighError, "262144"),
    "search-range-too-long": (RangeTooLongError, "168h0m0s"),
    "search-spss-too-large": (TooManySpansError, "exceeds 100"),
    "search-bad-query": (TempoError, "tempo.filter"),
    "search-limit-zero": (TempoError, "positive number"),
    "search-start-equals-end": (TempoError, "start must be before end"),
    "search-end-before-start": (TempoError, "start must be before end"),
    "metrics-range-too-long": (RangeTooLongError, "allowed duration"),
    "attributes-count-six": (TempoError, "group by 6 values"),
}


@pytest.fixture
def tempo() -> Iterator[FakeTempo]:
    with fake_tempo() as server:
        yield server


def client_for(tempo: FakeTempo, **settings: Any) -> TempoClient:
    given = ClientSettings(**{"url": tempo.url, "requests_per_second": 10_000, "scope": "root", **settings})
    return TempoClient(given, Recorder(), get_logger("tempo"), pause=lambda _: False)


def expected_spans(body: Any) -> set[Span]:
    """Read the spans of a valid response in the simplest way."""
    spans = set()
    for trace in body["traces"]:
        of_trace = [span for span_set in trace.get("spanSets", []) for span in span_set["spans"]]
        # Recorded without selecting the names, as stores that are compatible with Tempo answer anyway.
        default_name = "" if any("name" in span for span in of_trace) else trace.get("rootTraceName", "")
        for span in of_trace:
            attributes = {each["key"]: each["value"].get("stringValue") for each in span["attributes"]}
            root = trace["rootServiceName"].replace("<root span not yet received>", "")
            spans.add(
                Span(
                    trace["traceID"].rjust(32, "0"),
                    span["spanID"].rjust(16, "0"),
                    SeriesKey(attributes.get("service.name") or root, span.get("name", default_name)),
                    int(span["startTimeUnixNano"]),
                    int(span.get("durationNanos", 0)),
                )
            )
    return spans


def test_recordings_of_both_versions_exist() -> None:
    assert {recording.version for recording in recordings()} == set(VERSIONS)


@pytest.mark.parametrize("recording", recordings("search-*"), ids=str)
def test_search_of_recorded_responses(tempo: FakeTempo, recording: Recording) -> None:
    tempo.answer(recording.responder)
    client = client_for(tempo, limit=max(1, recording.params["limit"]))
    start, end = recording.params["start"], recording.params["end"]
    if recording.status != 200:
        _, text = REFUSALS[recording.name]
        with pytest.raises(TempoError, match=text) as caught:
            client.search(start, end, loop="poll")
        assert (caught.value.reason, caught.value.retryable) == ("refused", False)
        return
    result = client.search(start, end, loop="poll")
    assert set(result.spans) == expected_spans(recording.body)
    assert len(result.spans) == len(set(result.spans))
    assert result.traces == len(recording.body["traces"])
    assert result.saturated is (result.traces >= recording.params["limit"])
    assert result.limit == recording.params["limit"]
    assert len(tempo.requests) == 1
    sent = tempo.requests[0]
    assert sent.path == recording.path
    assert sent.params == {
        "q": "{nestedSetParent<0} | select(resource.service.name, name, status)",
        "start": str(start),
        "end": str(end),
        "limit": str(result.limit),
        "spss": "100",
    }


@pytest.mark.parametrize("recording", recordings(), ids=str)
def test_every_recorded_response_is_read_or_rejected(tempo: FakeTempo, recording: Recording) -> None:
    tempo.answer(recording.responder)
    client = client_for(tempo)

    def unchanged(response: HttpResponse) -> HttpResponse:
        return response

    if recording.status == 200:
        assert client.fetch(recording.path, recording.params, loop="api", decode=unchanged).status == 200
    else:
        error_type, text = REFUSALS[recording.name]
        with pytest.raises(error_type, match=text):
            client.fetch(recording.path, recording.params, loop="api", decode=unchanged)
    assert tempo.requests[0].path == recording.path
    assert tempo.requests[0].params == {name: str(value) for name, value in recording.params.items()}


def recorded(version: str, name: str) -> Recording:
    (match,) = (recording for recording in recordings(name) if recording.version == version)
    return match


@pytest.mark.parametrize("version", VERSIONS)
def test_search_reads_unusual_root_spans(tempo: FakeTempo, version: str) -> None:
    tempo.answer(recorded(version, "search-roots-selected").responder)
    result = client_for(tempo).search(1_795_077_000, 1_795_077_600, loop="backfill")
    assert (result.traces, len(result.spans), result.invalid, result.missing) == (53, 54, 0, 0)
    by_key = {span.key: span for span in result.spans}
    assert by_key[SeriesKey("zero", "instant")].duration_ns == 0
    assert by_key[SeriesKey("tworoots", "root 0")].trace_id == by_key[SeriesKey("tworoots", "root 1")].trace_id
    assert SeriesKey('naïve "svc"', "") in by_key
    assert SeriesKey('naïve "svc"', "x" * 600) in by_key
    assert SeriesKey('naïve "svc"', 'GET "/quoted\\path"\nline') in by_key
    assert SeriesKey('naïve "svc"', "订单 查询 ünïcode") in by_key
    assert by_key[SeriesKey("checkout", "GET /cart")].trace_id == "000000f9d81f55033d3516e1c502cdf2"
    # The trace takes 2.5 s because of spans after the request; the root span itself is short.
    first = min((s for s in result.spans if s.key == SeriesKey("checkout", "POST /checkout")), key=lambda s: s.start_ns)
    assert first.duration_ns == 312_320


@pytest.mark.parametrize("version", VERSIONS)
def test_spans_over_the_limit_per_trace_are_counted_as_missing(tempo: FakeTempo, version: str) -> None:
    tempo.answer(recorded(version, "search-entry-spans-spss").responder)
    result = client_for(tempo, scope="entry").search(1_795_077_295, 1_795_077_305, loop="poll")
    assert (result.traces, len(result.spans), result.missing) == (1, 100, 31)
    assert {span.key.service_name for span in result.spans} == {"fanout", "leaf"}


def sent_spans(start: int, end: int) -> Iterator[Any]:
    """Yield the sent server, consumer and root spans that start in a range of Unix seconds."""
    for span in json.loads((RECORDINGS / "spans.json").read_text("utf-8")):
        in_scope = not span["parentSpanId"] or span["kind"] in ("server", "consumer")
        if in_scope and start * 10**9 <= span["startTimeUnixNano"] < end * 10**9:
            yield span


@pytest.mark.parametrize("recording", recordings("entry-status"), ids=str)
def test_failed_spans_are_those_that_were_sent_as_such(tempo: FakeTempo, recording: Recording) -> None:
    tempo.answer(recording.responder)
    start, end = recording.params["start"], recording.params["end"]
    client = client_for(tempo, scope="entry", failures=STATUS_IS_ERROR)
    result = client.search(start, end, loop="poll")
    sent = {span["spanId"]: span["status"] for span in sent_spans(start, end)}
    assert {span.span_id: span.failed for span in result.spans} == {
        span_id: status == "error" for span_id, status in sent.items()
    }
    assert {span.failed for span in result.spans} == {True, False}
    assert tempo.requests[0].params["q"].endswith("| by(span:id) | select(resource.service.name, name, status)")


@pytest.mark.parametrize("recording", recordings("entry-by-span-id"), ids=str)
def test_without_a_status_failures_are_unknown(tempo: FakeTempo, recording: Recording) -> None:
    tempo.answer(recording.responder)
    client = client_for(tempo, scope="entry", failures=STATUS_IS_ERROR)
    result = client.search(recording.params["start"], recording.params["end"], loop="poll")
    assert {span.failed for span in result.spans} == {None}


def as_span(sent: Any) -> Span:
    key = SeriesKey(sent["service"], sent["name"])
    return Span(sent["traceId"], sent["spanId"], key, sent["startTimeUnixNano"], sent["durationNanos"])


@pytest.mark.parametrize(
    "recording", [*recordings("entry-*"), *recordings("fragments-by-span-id"), *recordings("absent-attribute")], ids=str
)
def test_spans_of_several_span_sets_are_those_that_were_sent(tempo: FakeTempo, recording: Recording) -> None:
    tempo.answer(recording.responder)
    start, end = recording.params["start"], recording.params["end"]
    result = client_for(tempo, scope="entry").search(start, end, loop="poll")
    sent = list(sent_spans(start, end))
    if recording.name == "absent-attribute":
        sent = [span for span in sent if span["name"] == "GET" and "service.namespace" not in span["resource"]]
    assert Counter(each._replace(failed=None) for each in result.spans) == Counter(map(as_span, sent))
    assert (result.invalid, result.missing) == (0, 0)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("fragments-plain", {("front", "GET /slow"), ("mono", "POST /order"), ("tree", "GET /node")}),
        ("fragments-by-service", {("mono", "POST /order"), ("tree", "GET /node")}),
        ("fragments-by-service-and-name", {("tree", "GET /node")}),
        ("fragments-by-span-id", set()),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_tempo_returns_one_of_two_span_sets_in_different_blocks(
    tempo: FakeTempo, version: str, name: str, lost: set[tuple[str, str]]
) -> None:
    """The lost spans are the root spans of slow requests, which arrive after their children."""
    recording = recorded(version, name)
    tempo.answer(recording.responder)
    start, end = recording.params["start"], recording.params["end"]
    found = set(client_for(tempo, scope="entry").search(start, end, loop="poll").spans)
    missing = [span for span in sent_spans(start, end) if as_span(span) not in found]
    assert {(span["service"], span["name"]) for span in missing} == lost
    assert not any(span["parentSpanId"] for span in missing)


@pytest.mark.parametrize("version", VERSIONS)
def test_placeholder_of_a_missing_root_never_becomes_a_series(tempo: FakeTempo, version: str) -> None:
    tempo.answer(recorded(version, "search-all-spans").responder)
    result = client_for(tempo).search(1_795_077_090, 1_795_077_110, loop="poll")
    assert any(
        "not yet received" in trace["rootServiceName"] for trace in recorded(version, "search-all-spans").body["traces"]
    )
    assert not any("not yet received" in span.key.service_name for span in result.spans)


@pytest.mark.parametrize("version", VERSIONS)
def test_traces_without_spans_are_counted_as_invalid(
    tempo: FakeTempo, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    tempo.answer(recorded(version, "search-tags").responder)
    client = client_for(tempo)
    with caplog.at_level(logging.WARNING):
        result = [client.search(1_795_077_000, 1_795_077_600, loop="poll") for _ in range(3)][-1]
    assert (result.traces, result.spans, result.invalid) == (54, [], 54)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_maximum_limit_is_learned_from_the_rejection(
    tempo: FakeTempo, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    rejection, result = (recorded(version, name).responder for name in ("search-limit-too-large", "search-empty"))
    tempo.answer(rejection, result)
    client = client_for(tempo, limit=300_000)
    assert client.max_limit == 300_000
    with caplog.at_level(logging.WARNING):
        assert client.search(1, 2, loop="backfill").limit == 262_144
        assert client.search(2, 3, loop="backfill").limit == 262_144
        assert client.search(3, 4, loop="backfill", limit=10).limit == 10
    assert client.max_limit == 262_144
    assert [request.params["limit"] for request in tempo.requests] == ["300000", "262144", "262144", "10"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_maximum_range_is_learned_from_the_rejection(tempo: FakeTempo, version: str) -> None:
    recording = recorded(version, "search-range-too-long")
    tempo.answer(recording.responder)
    client = client_for(tempo)
    assert client.max_range_seconds is None
    with pytest.raises(RangeTooLongError) as caught:
        client.exists(recording.params["start"], recording.params["end"], loop="backfill")
    assert caught.value.max_seconds == client.max_range_seconds == 604_800


@pytest.mark.parametrize("version", VERSIONS)
def test_exists_searches_for_a_single_trace(tempo: FakeTempo, version: str) -> None:
    client = client_for(tempo)
    tempo.answer(recorded(version, "search-empty").responder)
    assert not client.exists(1, 2, loop="backfill")
    tempo.answer(recorded(version, "search-one-second").responder)
    assert client.exists(1, 2, loop="backfill")
    assert {request.params["limit"] for request in tempo.requests} == {"1"}


def test_counts_of_tempo_3_match_its_traces(tempo: FakeTempo) -> None:
    """A data point counts the step that ends at its timestamp: a span at 12:02:30 is counted at 12:03."""
    recorded_counts, roots = recorded("tempo-3.0.3", "metrics-count"), recorded("tempo-3.0.3", "search-roots")
    start, end = recorded_counts.params["start"], recorded_counts.params["end"]
    tempo.answer(recorded_counts.responder)
    counts = client_for(tempo).count(start, end, 60, loop="backfill", by_series=True)
    request = tempo.requests[0]
    assert request.path == "/api/metrics/query_range"
    assert request.params["q"] == "{nestedSetParent<0} | count_over_time() by (resource.service.name, name)"
    assert (request.params["start"], request.params["end"], request.params["step"]) == (
        str(start + 60),
        str(end),
        "60s",
    )
    assert counts.known and counts.complete
    by_end: Counter[int] = Counter()
    for each in expected_spans(roots.body):
        by_end[-(-each.start_ns // (60 * 10**9)) * 60] += 1
    inside = {at: count for at, count in by_end.items() if start < at <= end}
    assert {at: count for at, count in counts.by_step_end.items() if start < at <= end} == inside
    assert counts.between(start, end) == sum(inside.values())


def test_counts_are_unknown_when_tempo_2_does_not_count(tempo: FakeTempo) -> None:
    tempo.answer(recorded("tempo-2.10.8", "metrics-count").responder)
    assert not client_for(tempo).count(1_795_077_000, 1_795_077_600, 60, loop="backfill").known


@pytest.mark.parametrize("version", VERSIONS)
def test_maximum_range_of_counts_is_learned_from_the_rejection(tempo: FakeTempo, version: str) -> None:
    rejection = recorded(version, "metrics-range-too-long")
    tempo.answer(rejection.responder)
    client = client_for(tempo)
    with pytest.raises(RangeTooLongError):
        client.count(0, 7 * 86_400, 3600, loop="backfill")
    assert client.max_count_range_seconds == (3 if version == "tempo-2.10.8" else 24) * 3600
    assert client.max_range_seconds is None


ENVIRONMENT = (Attribute("resource", "deployment.environment.name"), Attribute("resource", "deployment.environment"))
TWO_WORDS = (Attribute("span", "two words"),)
BY_LABELS = SeriesIdentity((ENVIRONMENT, TWO_WORDS))
BY_LABELS_AND_ROUTE = SeriesIdentity(BY_LABELS.labels, (Attribute("span", "http.route"), OWN_NAME))
PROD = SeriesKey("shop", "GET /a", (("deployment_environment_name", "prod"),))


@pytest.mark.parametrize("version", VERSIONS)
def test_attributes_decide_the_series_of_recorded_spans(tempo: FakeTempo, version: str) -> None:
    recording = recorded(version, "attributes-search")
    tempo.answer(recording.responder)
    client = client_for(tempo, limit=100, identity=BY_LABELS_AND_ROUTE, failures=None)
    result = client.search(recording.params["start"], recording.params["end"], loop="backfill")
    assert Counter(span.key for span in result.spans) == {
        PROD: 2,  # one with the former name of the attribute
        PROD._replace(labels=(*PROD.labels, ("two_words", "x"))): 1,
        PROD._replace(labels=(("deployment_environment_name", "staging"),)): 1,
        PROD._replace(labels=()): 1,
        SeriesKey("shop", "work"): 1,
    }
    assert tempo.requests[0].params["q"] == recording.params["q"]


@pytest.mark.parametrize("version", VERSIONS)
def test_spans_of_other_series_are_left_out_of_a_search_by_name(tempo: FakeTempo, version: str) -> None:
    recording = recorded(version, "attributes-by-name")
    tempo.answer(recording.responder)
    client = client_for(tempo, limit=100, identity=BY_LABELS_AND_ROUTE)
    result = client.search(recording.params["start"], recording.params["end"], loop="backfill", series=[PROD])
    assert [span.key for span in result.spans] == [PROD] * 2
    assert result.traces == 3
    for condition in series_conditions(PROD, BY_LABELS_AND_ROUTE):
        assert condition in tempo.requests[0].params["q"]


@pytest.mark.parametrize(("version", "series"), [("tempo-3.0.3", 6), ("tempo-2.10.8", 0)])
def test_counts_by_attributes(tempo: FakeTempo, version: str, series: int) -> None:
    recording = recorded(version, "attributes-count")
    tempo.answer(recording.responder)
    client = client_for(tempo, identity=BY_LABELS)
    counts = client.count(recording.params["start"] - 30, recording.params["end"], 30, loop="backfill", by_series=True)
    assert len(counts.by_series) == series
    if series:
        assert counts.by_series[PROD] == 1
        assert counts.by_series[SeriesKey("shop", "GET")] == 1
        assert counts.by_series[SeriesKey("shop", "GET", (*PROD.labels, ("two_words", "x")))] == 1
    assert tempo.requests[0].params["q"] == recording.params["q"]
