"""What real Tempos answered, replayed through the client over HTTP."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, RangeTooLongError, TempoClient, TempoError
from exporter.tempo.errors import LimitTooHighError, TooManySpansError
from exporter.tempo.failures import HttpAnswer
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
}


@pytest.fixture
def tempo() -> Iterator[FakeTempo]:
    with fake_tempo() as server:
        yield server


def client_for(tempo: FakeTempo, **settings: Any) -> TempoClient:
    given = ClientSettings(url=tempo.url, requests_per_second=10_000, **settings)
    return TempoClient(given, Recorder(), get_logger("tempo"), pause=lambda _: False)


def expected_spans(body: Any) -> set[Span]:
    """The spans of an answer, read without regard to speed or hostility."""
    spans = set()
    for trace in body["traces"]:
        for span in (span for span_set in trace.get("spanSets", []) for span in span_set["spans"]):
            attributes = {each["key"]: each["value"].get("stringValue") for each in span["attributes"]}
            root = trace["rootServiceName"].replace("<root span not yet received>", "")
            spans.add(
                Span(
                    trace["traceID"].rjust(32, "0"),
                    span["spanID"].rjust(16, "0"),
                    SeriesKey(attributes.get("service.name") or root, span.get("name", "")),
                    int(span["startTimeUnixNano"]),
                    int(span.get("durationNanos", 0)),
                )
            )
    return spans


def test_both_versions_are_there() -> None:
    assert {recording.version for recording in recordings()} == set(VERSIONS)


@pytest.mark.parametrize("recording", recordings("search-*"), ids=str)
def test_searches(tempo: FakeTempo, recording: Recording) -> None:
    tempo.answer(recording.responder)
    client = client_for(tempo, limit=max(1, recording.params["limit"]))
    start, end = recording.params["start"], recording.params["end"]
    if recording.status != 200:
        _, said = REFUSALS[recording.name]
        with pytest.raises(TempoError, match=said) as caught:
            client.search(start, end, loop="poll")
        assert (caught.value.reason, caught.value.retryable) == ("refused", False)
        return
    answer = client.search(start, end, loop="poll")
    assert set(answer.spans) == expected_spans(recording.body)
    assert len(answer.spans) == len(set(answer.spans))
    assert answer.traces == len(recording.body["traces"])
    assert answer.saturated is (answer.traces >= recording.params["limit"])
    assert answer.limit == recording.params["limit"]
    assert len(tempo.requests) == 1
    sent = tempo.requests[0]
    assert sent.path == recording.path
    assert sent.params == {
        "q": "{nestedSetParent<0} | select(resource.service.name, name)",
        "start": str(start),
        "end": str(end),
        "limit": str(answer.limit),
        "spss": "100",
    }


@pytest.mark.parametrize("recording", recordings(), ids=str)
def test_every_answer_is_read_whole_or_refused(tempo: FakeTempo, recording: Recording) -> None:
    tempo.answer(recording.responder)
    client = client_for(tempo)

    def read(answer: HttpAnswer) -> HttpAnswer:
        return answer

    if recording.status == 200:
        assert client.fetch(recording.path, recording.params, loop="api", read=read).status == 200
    else:
        kind, said = REFUSALS[recording.name]
        with pytest.raises(kind, match=said):
            client.fetch(recording.path, recording.params, loop="api", read=read)
    assert tempo.requests[0].path == recording.path
    assert tempo.requests[0].params == {name: str(value) for name, value in recording.params.items()}


def recorded(version: str, name: str) -> Recording:
    (found,) = (recording for recording in recordings(name) if recording.version == version)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_all_that_is_odd_in_ten_minutes_of_roots(tempo: FakeTempo, version: str) -> None:
    tempo.answer(recorded(version, "search-roots-selected").responder)
    answer = client_for(tempo).search(1_795_077_000, 1_795_077_600, loop="backfill")
    assert (answer.traces, len(answer.spans), answer.invalid, answer.missing) == (53, 54, 0, 0)
    by_key = {span.key: span for span in answer.spans}
    assert by_key[SeriesKey("zero", "instant")].duration_ns == 0
    assert by_key[SeriesKey("tworoots", "root 0")].trace_id == by_key[SeriesKey("tworoots", "root 1")].trace_id
    assert SeriesKey('naïve "svc"', "") in by_key
    assert SeriesKey('naïve "svc"', "x" * 600) in by_key
    assert SeriesKey('naïve "svc"', 'GET "/quoted\\path"\nline') in by_key
    assert SeriesKey('naïve "svc"', "订单 查询 ünïcode") in by_key
    assert by_key[SeriesKey("checkout", "GET /cart")].trace_id == "000000f9d81f55033d3516e1c502cdf2"
    # The trace takes 2.5 s because of what follows the request; the request itself does not.
    first = min((s for s in answer.spans if s.key == SeriesKey("checkout", "POST /checkout")), key=lambda s: s.start_ns)
    assert first.duration_ns == 312_320


@pytest.mark.parametrize("version", VERSIONS)
def test_entry_spans_that_are_missing_are_counted(tempo: FakeTempo, version: str) -> None:
    tempo.answer(recorded(version, "search-entry-spans-spss").responder)
    answer = client_for(tempo, scope="entry").search(1_795_077_295, 1_795_077_305, loop="poll")
    assert (answer.traces, len(answer.spans), answer.missing) == (1, 100, 31)
    assert {span.key.service_name for span in answer.spans} == {"fanout", "leaf"}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_placeholder_for_a_root_never_becomes_a_series(tempo: FakeTempo, version: str) -> None:
    tempo.answer(recorded(version, "search-all-spans").responder)
    answer = client_for(tempo).search(1_795_077_090, 1_795_077_110, loop="poll")
    assert any(
        "not yet received" in trace["rootServiceName"] for trace in recorded(version, "search-all-spans").body["traces"]
    )
    assert not any("not yet received" in span.key.service_name for span in answer.spans)


@pytest.mark.parametrize("version", VERSIONS)
def test_traces_without_spans_are_counted(tempo: FakeTempo, version: str, caplog: pytest.LogCaptureFixture) -> None:
    tempo.answer(recorded(version, "search-tags").responder)
    client = client_for(tempo)
    with caplog.at_level(logging.WARNING):
        answer = [client.search(1_795_077_000, 1_795_077_600, loop="poll") for _ in range(3)][-1]
    assert (answer.traces, answer.spans, answer.invalid) == (54, [], 54)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_a_limit_over_tempos_is_learned_from_the_refusal(
    tempo: FakeTempo, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusal, answer = (recorded(version, name).responder for name in ("search-limit-too-large", "search-empty"))
    tempo.answer(refusal, answer)
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
def test_the_longest_range_is_learned_from_the_refusal(tempo: FakeTempo, version: str) -> None:
    recording = recorded(version, "search-range-too-long")
    tempo.answer(recording.responder)
    client = client_for(tempo)
    assert client.max_range_seconds is None
    with pytest.raises(RangeTooLongError) as caught:
        client.exists(recording.params["start"], recording.params["end"], loop="backfill")
    assert caught.value.max_seconds == client.max_range_seconds == 604_800


@pytest.mark.parametrize("version", VERSIONS)
def test_whether_anything_is_there(tempo: FakeTempo, version: str) -> None:
    client = client_for(tempo)
    tempo.answer(recorded(version, "search-empty").responder)
    assert not client.exists(1, 2, loop="backfill")
    tempo.answer(recorded(version, "search-one-second").responder)
    assert client.exists(1, 2, loop="backfill")
    assert {request.params["limit"] for request in tempo.requests} == {"1"}


def test_counts_of_tempo_3_are_those_of_the_traces_that_it_has(tempo: FakeTempo) -> None:
    """A point stands for the step that ends there: what came at 12:02:30 is counted at 12:03."""
    counts, roots = recorded("tempo-3.0.3", "metrics-count"), recorded("tempo-3.0.3", "search-roots")
    start, end = counts.params["start"], counts.params["end"]
    tempo.answer(counts.responder)
    found = client_for(tempo).count(start, end, 60, loop="backfill", by_series=True)
    asked = tempo.requests[0]
    assert asked.path == "/api/metrics/query_range"
    assert asked.params["q"] == "{nestedSetParent<0} | count_over_time() by (resource.service.name, name)"
    assert (asked.params["start"], asked.params["end"], asked.params["step"]) == (str(start + 60), str(end), "60s")
    assert found.known and found.complete
    by_end: Counter[int] = Counter()
    for each in expected_spans(roots.body):
        by_end[-(-each.start_ns // (60 * 10**9)) * 60] += 1
    inside = {at: count for at, count in by_end.items() if start < at <= end}
    assert {at: count for at, count in found.ends.items() if start < at <= end} == inside
    assert found.between(start, end) == sum(inside.values())


def test_where_tempo_2_does_not_count_nothing_is_known(tempo: FakeTempo) -> None:
    tempo.answer(recorded("tempo-2.10.8", "metrics-count").responder)
    assert not client_for(tempo).count(1_795_077_000, 1_795_077_600, 60, loop="backfill").known


@pytest.mark.parametrize("version", VERSIONS)
def test_how_long_a_range_is_counted_is_learned(tempo: FakeTempo, version: str) -> None:
    refusal = recorded(version, "metrics-range-too-long")
    tempo.answer(refusal.responder)
    client = client_for(tempo)
    with pytest.raises(RangeTooLongError):
        client.count(0, 7 * 86_400, 3600, loop="backfill")
    assert client.max_count_range_seconds == (3 if version == "tempo-2.10.8" else 24) * 3600
    assert client.max_range_seconds is None
