"""The client against a Tempo that fails in many ways, over real HTTP on loopback."""

import gzip
import json
import logging
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from exporter.model.identity import Attribute, SeriesIdentity
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import FailureReason, Loop
from exporter.tempo import ClientSettings, StoppedError, TempoClient, TempoError
from exporter.tempo.client import ATTEMPTS, SearchResult
from exporter.tempo.query import DurationRange, OperationName
from tests.support.certificates import write_authority, write_combined
from tests.support.samples import events
from tests.support.tempo_server import (
    FakeTempo,
    Recorder,
    Responder,
    a_span,
    a_trace,
    chunked,
    dripping,
    fake_tempo,
    hanging,
    hanging_up,
    raw,
    replying,
    search_body,
    truncating,
    unused_url,
)

BODY = search_body(a_trace(1), a_trace(2))


class Harness:
    """A client with recorded telemetry and pauses."""

    def __init__(self, url: str, *, stop: threading.Event | None = None, random: float = 1.0, **settings: Any) -> None:
        self.telemetry = Recorder()
        self.pauses: list[float] = []
        self.on_pause: list[Any] = []
        client_settings = ClientSettings(
            **{"url": url, "requests_per_second": 10_000.0, "timeout_seconds": 10.0, **settings}
        )
        self.client = TempoClient(
            client_settings, self.telemetry, get_logger("tempo"), stop=stop, pause=self._pause, random=lambda: random
        )

    def _pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        for action in self.on_pause:
            action()
        return False

    def search(self, loop: Loop = "poll", **arguments: Any) -> SearchResult:
        return self.client.search(1_795_077_000, 1_795_077_060, loop=loop, **arguments)

    def search_error(self, loop: Loop = "poll") -> TempoError:
        with pytest.raises(TempoError) as caught:
            self.search(loop)
        assert str(caught.value).isprintable()
        return caught.value

    def search_until_stopped(self, errors: list[BaseException]) -> None:
        """Search as the backfill; append the error if the search is stopped or fails."""
        try:
            self.search("backfill")
        except (StoppedError, TempoError) as error:
            errors.append(error)


@pytest.fixture
def tempo() -> Iterator[FakeTempo]:
    with fake_tempo() as server:
        yield server


# Successful requests


def test_search_returns_spans_and_reports_telemetry(tempo: FakeTempo) -> None:
    tempo.answer(replying(BODY))
    harness = Harness(tempo.url)
    result = harness.search("backfill")
    assert [span.trace_id for span in result.spans] == [f"{n:032x}" for n in (1, 2)]
    assert (result.traces, result.limit, result.saturated, result.invalid, result.missing) == (2, 20_000, False, 0, 0)
    assert result.bytes == len(json.dumps(BODY))
    assert harness.telemetry.requests == ["backfill"]
    assert harness.telemetry.answered == [True]
    assert harness.telemetry.read == [("backfill", 2)]
    assert not harness.telemetry.failures + harness.telemetry.saturations + harness.telemetry.skipped


def test_search_counts_invalid_and_missing_spans(tempo: FakeTempo) -> None:
    spans = [a_span(1), a_span(2, durationNanos="-1")]
    tempo.answer(replying(search_body(a_trace(1, spanSets=[{"spans": spans, "matched": 7}]), a_trace(2))))
    harness = Harness(tempo.url)
    harness.search("poll", limit=2)
    assert harness.telemetry.read == [("poll", 3)]
    assert harness.telemetry.skipped == [("poll", "invalid", 1), ("poll", "span_limit", 5)]
    assert harness.telemetry.saturations == ["poll"]


def test_search_counts_duplicates(tempo: FakeTempo) -> None:
    tempo.answer(replying(search_body(a_trace(1), a_trace(2), a_trace(1))))
    harness = Harness(tempo.url)
    result = harness.search("backfill", limit=3)
    assert (len(result.spans), result.duplicates, result.traces, result.saturated) == (2, 1, 3, True)
    assert harness.telemetry.read == [("backfill", 3)]
    assert harness.telemetry.skipped == [("backfill", "duplicate", 1)]


def test_implausible_spans_are_counted_and_logged_once_per_series(
    tempo: FakeTempo, caplog: pytest.LogCaptureFixture
) -> None:
    def decades(number: int, name: str) -> dict[str, Any]:
        span = a_span(number, name=name, startTimeUnixNano="8000000000", durationNanos=str(1_795_077_000 * 10**9))
        return a_trace(number, spanSets=[{"spans": [span], "matched": 1}])

    tempo.answer(replying(search_body(a_trace(1), decades(2, "GET /2"), decades(3, "GET /3"), decades(4, "PUT /"))))
    client = TempoClient(
        ClientSettings(url=tempo.url, requests_per_second=10_000.0),
        (telemetry := Recorder()),
        get_logger("tempo"),
        renamed=lambda key: key._replace(span_name=key.span_name.rstrip("0123456789")),
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            result = client.search(1_795_077_000, 1_795_077_060, loop="poll")
            assert ([span.trace_id for span in result.spans], result.invalid) == ([f"{1:032x}"], 3)
    assert telemetry.read == [("poll", 4)] * 3
    assert telemetry.skipped == [("poll", "invalid", 3)] * 3
    assert events(caplog) == ["spans_implausible"] * 2
    fields = [record.__dict__["exporter_fields"] for record in caplog.records]
    assert [each["span_name"] for each in fields] == ["GET /", "PUT /"]
    assert "1970-01-01 00:00:08 UTC" in fields[0]["first"]


@pytest.mark.parametrize(("days_before", "kept"), [(29, True), (31, False)])
def test_span_that_began_too_long_before_the_searched_range_is_invalid(
    tempo: FakeTempo, days_before: int, kept: bool
) -> None:
    start_ns = (1_795_077_060 - days_before * 86_400) * 10**9
    trace = a_trace(1, spanSets=[{"spans": [a_span(1, startTimeUnixNano=str(start_ns))], "matched": 1}])
    tempo.answer(replying(search_body(trace)))
    result = Harness(tempo.url, max_duration_seconds=40 * 86_400.0).search()
    assert (len(result.spans), result.invalid) == ((1, 0) if kept else (0, 1))


def test_exists_does_not_count_traces_as_read(tempo: FakeTempo) -> None:
    tempo.answer(replying(search_body(a_trace())))
    harness = Harness(tempo.url)
    assert harness.client.exists(1, 2, loop="backfill")
    assert harness.telemetry.requests == ["backfill"]
    assert not harness.telemetry.saturations + harness.telemetry.read


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        (BODY, "finds traces: check tempo.filter ('status=error') and tempo.scope (entry)"),
        ({"traces": []}, "finds nothing either: check tempo.tenant ('team-b') and whether traces reach Tempo at all"),
    ],
)
def test_why_empty_searches_without_filter_and_scope(tempo: FakeTempo, found: dict[str, Any], advice: str) -> None:
    tempo.answer(replying(found))
    harness = Harness(tempo.url, tenant="team-b", filter="status=error", scope="entry")
    assert advice in harness.client.why_empty(1_795_077_000, 1_795_077_060, loop="backfill")
    (request,) = tempo.requests
    assert request.params["q"].startswith("{} |")
    assert (request.params["limit"], request.headers["x-scope-orgid"]) == ("1", "team-b")
    assert harness.telemetry.read == []


def test_why_empty_searches_the_newest_part_where_tempo_allows_no_longer_range(tempo: FakeTempo) -> None:
    refusal = "range specified by start and end exceeds 1h0m0s. received start=1795067000 end=1795077000"
    tempo.answer(replying(refusal, 400, "text/plain"), replying(BODY))
    assert "finds traces" in Harness(tempo.url).client.why_empty(1_795_067_000, 1_795_077_000, loop="backfill")
    assert [request.params["start"] for request in tempo.requests] == ["1795067000", str(1_795_077_000 - 3600)]


def test_query_combines_scope_filter_and_series(tempo: FakeTempo) -> None:
    harness = Harness(tempo.url, scope="entry", filter='resource.env="prod"')
    harness.search(series=[SeriesKey("a", 'GET "/"'), SeriesKey("b", "x")])
    assert tempo.requests[0].params["q"] == (
        '{(nestedSetParent<0 || kind=server || kind=consumer) && (resource.env="prod") && '
        '((resource.service.name="a" && name="GET \\"/\\"") || (resource.service.name="b" && name="x"))} '
        "| by(span:id) | select(resource.service.name, name, status)"
    )
    with pytest.raises(ValueError, match="braces"):
        Harness(tempo.url, filter="{}")


def test_connections_are_reused(tempo: FakeTempo) -> None:
    ports = set()
    body = replying(BODY)

    def note_port(handler: Any) -> None:
        ports.add(handler.client_address[1])
        body(handler)

    tempo.answer(note_port)
    harness = Harness(tempo.url)
    for _ in range(5):
        harness.search()
    assert len(ports) == 1
    harness.client.close()
    harness.search()
    assert len(ports) == 2


@pytest.mark.parametrize(
    "responder",
    [
        chunked(BODY),
        replying(gzip.compress(json.dumps(BODY).encode()), Content_Encoding="gzip"),
        chunked(gzip.compress(json.dumps(BODY).encode()), Content_Encoding="gzip"),
        replying(BODY, content_type="text/plain"),
        raw(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(BODY).encode()),
    ],
    ids=["chunked", "gzip", "chunked gzip", "no json type", "until closed"],
)
def test_search_reads_any_transfer_encoding(tempo: FakeTempo, responder: Responder) -> None:
    tempo.answer(responder)
    assert len(Harness(tempo.url).search().spans) == 2


def test_path_prefix_of_the_url_is_kept(tempo: FakeTempo) -> None:
    Harness(tempo.url + "/tempo/").search()
    assert tempo.requests[0].path == "/tempo/api/search"


# Request headers


def test_request_headers(tempo: FakeTempo) -> None:
    Harness(tempo.url, tenant="prod-ä", headers={"X-Team": "shop", "accept-encoding": "gzip"}).search()
    headers = tempo.requests[0].headers
    assert headers["x-scope-orgid"].encode("latin-1").decode() == "prod-ä"
    assert headers["x-team"] == "shop"
    assert headers["accept-encoding"] == "gzip"
    assert headers["accept"] == "application/json"
    assert headers["user-agent"].startswith("tempo-anomaly-exporter/")
    assert "authorization" not in headers
    assert "cookie" not in headers


def test_compression_is_not_requested(tempo: FakeTempo) -> None:
    Harness(tempo.url).search()
    assert tempo.requests[0].headers["accept-encoding"] == "identity"


def test_rotated_token_is_used_by_the_next_request(tempo: FakeTempo, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    harness = Harness(tempo.url, auth_token_file=str(file))
    harness.search()
    file.write_text("second one")
    harness.search()
    assert [request.headers["authorization"] for request in tempo.requests] == ["Bearer first", "Bearer second one"]


def test_missing_token_file_is_retried(tempo: FakeTempo, tmp_path: Path) -> None:
    file = tmp_path / "token"
    harness = Harness(tempo.url, auth_token_file=str(file))
    error = harness.search_error()
    assert (error.reason, tempo.requests) == ("unauthorized", [])
    harness.on_pause.append(lambda: file.write_text("abc"))
    harness.search()
    assert tempo.requests[0].headers["authorization"] == "Bearer abc"


def test_netrc_is_ignored(tempo: FakeTempo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password pw\n")
    monkeypatch.setenv("NETRC", str(netrc))
    Harness(tempo.url).search()
    assert "authorization" not in tempo.requests[0].headers


def test_cookies_are_not_kept(tempo: FakeTempo) -> None:
    tempo.answer(replying(BODY, Set_Cookie="session=1; Path=/"))
    harness = Harness(tempo.url)
    harness.search()
    harness.search()
    assert "cookie" not in tempo.requests[1].headers


def test_proxy_from_the_environment_is_used(tempo: FakeTempo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", tempo.url)
    monkeypatch.setenv("no_proxy", "")
    assert len(Harness("http://tempo.invalid:3200").search().spans) == 0
    assert tempo.requests[0].headers["host"] == "tempo.invalid:3200"


# Failures

HTML = replying("<!doctype html><html><title>Sign in</title></html>", content_type="text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("responder", "reason", "text"),
    [
        (replying("slow down", 429, "text/plain"), "rate_limited", "slow down"),
        (replying("oops", 500, "text/plain"), "server_error", "oops"),
        (replying("<html>Bad gateway</html>", 502, "text/html"), "server_error", "an HTML page"),
        (replying("empty ring", 503, "text/plain"), "server_error", "empty ring"),
        (HTML, "malformed", "login"),
        (replying("hello", content_type="text/plain"), "malformed", "hello"),
        (replying(""), "malformed", "0 bytes"),
        (replying({"message": "please log in"}), "malformed", "please log in"),
        (replying('{"traces":' + "[" * 100_000), "malformed", "not a Tempo response"),
        (truncating(BODY, keep=300), "malformed", "cut off"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(BODY).encode()[:300]), "malformed", "cut off"),
        (raw(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"tra'), "malformed", "cut off"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "malformed", "cut off"),
        (replying(b"\x1f\x8b not gzip", Content_Encoding="gzip"), "malformed", "damaged"),
        (replying(search_body(completedJobs=1, totalJobs=3)), "malformed", "jobs"),
        (hanging_up, "connection", "closed before"),
        (raw(b"SSH-2.0-OpenSSH_9.9\r\n"), "malformed", "does not speak HTTP"),
    ],
)
@pytest.mark.parametrize("loop", ["poll", "backfill", "api"])
def test_transient_failures_are_retried(
    tempo: FakeTempo, responder: Responder, reason: FailureReason, text: str, loop: Loop
) -> None:
    tempo.answer(responder)
    harness = Harness(tempo.url)
    error = harness.search_error(loop)
    attempts = ATTEMPTS[loop]
    assert (error.reason, error.retryable) == (reason, True)
    assert text in str(error)
    assert f"GET {tempo.url}/api/search" in str(error)
    assert len(tempo.requests) == attempts
    assert harness.telemetry.requests == [loop] * attempts
    assert harness.telemetry.failures == [(loop, reason)] * attempts
    assert harness.telemetry.answered == [reason == "rate_limited"] * attempts
    assert harness.pauses == [0.5, 1.0, 2.0][: attempts - 1]

    tempo.answer(responder, replying(BODY))
    assert len(harness.search(loop).spans) == 2
    assert harness.telemetry.answered[-1]


@pytest.mark.parametrize(
    ("responder", "reason", "text"),
    [
        (replying("no org id", 401, "text/plain"), "unauthorized", "tempo.tenant"),
        (replying("", 403), "unauthorized", "auth_token"),
        (replying("404 page not found", 404, "text/plain"), "refused", "tempo.url"),
        (replying("invalid TraceQL query: parse error", 400, "text/plain"), "refused", "parse error"),
        (replying("", 422), "refused", "422"),
        (replying("", 204), "malformed", "204"),
        (replying("limit 20000 exceeds max limit 90000", 400, "text/plain"), "refused", "max limit 90000"),
    ],
)
def test_permanent_failures_are_not_retried(
    tempo: FakeTempo, responder: Responder, reason: FailureReason, text: str
) -> None:
    tempo.answer(responder)
    harness = Harness(tempo.url, scope="root")
    error = harness.search_error("backfill")
    assert (error.reason, error.retryable) == (reason, False)
    assert text in str(error)
    assert len(tempo.requests) == 1
    assert harness.pauses == []
    assert harness.telemetry.failures == [("backfill", reason)]
    assert harness.telemetry.answered == [reason in ("unauthorized", "refused")]


def test_redirect_is_not_followed_and_leaks_no_credentials(tempo: FakeTempo) -> None:
    with fake_tempo() as elsewhere:
        target = elsewhere.url.replace("//", "//me:hunter2@") + "/login?token=hunter2"
        tempo.answer(replying("", 302, Location=target))
        harness = Harness(tempo.url, auth_token="abc")
        error = harness.search_error("backfill")
        assert (error.reason, error.retryable) == ("redirect", False)
        assert elsewhere.url + "/login" in str(error)
        assert "hunter2" not in str(error)
        assert elsewhere.requests == []
        assert len(tempo.requests) == 1


def test_connection_refused() -> None:
    harness = Harness(unused_url())
    error = harness.search_error()
    assert (error.reason, error.retryable, error.status) == ("connection", True, None)
    assert "connection refused" in str(error)
    assert harness.telemetry.answered == [False] * 3


@pytest.mark.parametrize(
    "responder",
    [
        hanging,
        dripping(b""),
        dripping(b"HTTP/1.1 200 OK\r\nX-Slow: "),
        dripping(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{"traces":[]'),
        dripping(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n{"traces":[]'),
        dripping(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"traces":[]}'),
        dripping(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 1000000\r\n\r\n"),
    ],
    ids=["hangs", "status drips", "headers drip", "body drips", "chunk drips", "body without end", "error drips"],
)
def test_request_times_out_however_slowly_the_response_arrives(tempo: FakeTempo, responder: Responder) -> None:
    tempo.answer(responder)
    harness = Harness(tempo.url, timeout_seconds=0.25)
    error = harness.search_error("api")
    assert (error.reason, error.retryable) == ("timeout", True)
    assert "tempo.timeout" in str(error)
    assert harness.telemetry.failures == [("api", "timeout")] * 2


@pytest.mark.parametrize("search", [hanging, replying("<html>", status=504), replying("<html>", status=524)])
def test_search_that_is_too_slow_is_left_to_its_caller_if_that_can_ask_for_less(
    tempo: FakeTempo, search: Responder, caplog: pytest.LogCaptureFixture
) -> None:
    tempo.answer(search)
    harness = Harness(tempo.url, timeout_seconds=0.25)
    with pytest.raises(TempoError, match=r"polling\.backfill_batch") as caught:
        harness.search("backfill", may_split=True)
    assert caught.value.is_slow
    assert len(harness.telemetry.failures) == 1
    assert "search_slow" in events(caplog)


@pytest.mark.parametrize(
    ("loop", "told", "untold"),
    [
        ("poll", "split in halves", "backfill_batch"),
        ("backfill", "backfill_batch", "shorter range"),
        ("cause", "for a shorter range or for fewer traces", "halves"),
        ("api", "for a shorter range or for fewer traces", "halves"),
    ],
)
def test_slow_search_says_what_its_loop_does_then(
    tempo: FakeTempo, caplog: pytest.LogCaptureFixture, loop: Loop, told: str, untold: str
) -> None:
    tempo.answer(replying("<html>", status=504))
    with pytest.raises(TempoError):
        Harness(tempo.url).search(loop, may_split=True)
    (message,) = [record.getMessage() for record in caplog.records if "took too long" in record.getMessage()]
    assert told in message
    assert untold not in message


def _versioned(number: int, version: str, **labels: str) -> dict[str, Any]:
    values = {"service.name": "shop", **({"service.version": version} if version else {}), **labels}
    attributes = [{"key": name, "value": {"stringValue": value}} for name, value in values.items()]
    span = a_span(number, name=f"GET /{number}", attributes=attributes)
    return a_trace(number, spanSets=[{"spans": [span], "matched": 3}])


def test_versions_of_a_service_are_sampled_regardless_of_span_names(tempo: FakeTempo) -> None:
    tempo.answer(
        replying(
            search_body(
                _versioned(1, "1.0", env="prod"),
                _versioned(2, "1.1", env="prod"),
                _versioned(3, "", env="prod"),
                # A condition on an attribute may match spans of other series as well.
                _versioned(4, "1.2", env="test"),
                _versioned(5, "1.3"),
                _versioned(6, "2\n<b>\u202e", env="prod"),
            )
        )
    )
    identity = SeriesIdentity(((Attribute("resource", "env"),),))
    harness = Harness(tempo.url, identity=identity)
    key = SeriesKey("shop", "GET /{number}", (("env", "prod"),))
    found = harness.client.sample_versions(key, 1_795_077_000, 1_795_077_060, 20, loop="version")
    assert sorted(found) == ["", "1.0", "1.1", "2\n<b>\u202e"]
    params = tempo.requests[-1].params
    assert params["limit"] == "20"
    assert "resource.env" in params["q"]
    assert "resource.service.version" in params["q"]
    assert 'name="GET' not in params["q"]
    assert harness.telemetry.requests[-1] == "version"
    # Other searches are as before.
    harness.search()
    assert "service.version" not in tempo.requests[-1].params["q"]


def test_one_version_is_searched_for_by_its_value(tempo: FakeTempo) -> None:
    tempo.answer(replying(search_body(_versioned(1, '1.0"'), _versioned(2, "1.1"))))
    harness = Harness(tempo.url)
    key = SeriesKey("shop", "GET /")
    found = harness.client.sample_versions(key, 1_795_077_000, 1_795_077_060, 1, loop="version", version='1.0"')
    assert found == ['1.0"']
    assert 'resource.service.version="1.0\\""' in tempo.requests[-1].params["q"]


def test_search_for_traces_with_certain_operations(tempo: FakeTempo, caplog: pytest.LogCaptureFixture) -> None:
    """Tempo returns the spans of the operations as well, of which there may be very many: only some are asked for."""
    called = [
        a_span(number, name="GET /items", attributes=[{"key": "service.name", "value": {"stringValue": "stock"}}])
        for number in range(2, 6)
    ]
    sets = [{"spans": [a_span(1)], "matched": 1}, {"spans": called, "matched": 900}]
    tempo.answer(replying(search_body(a_trace(1, spanSets=sets))))
    harness = Harness(tempo.url, scope="entry")
    wanted = SeriesKey("shop", "GET /")
    result = harness.search("cause", series=[wanted], operations=[OperationName("stock", "GET /items")])
    assert [span.key for span in result.spans] == [wanted]
    params = tempo.requests[-1].params
    assert '} && {resource.service.name="stock" && name="GET /items"} | by(resource.service.name) |' in params["q"]
    assert params["spss"] == "10"
    assert not [skipped for skipped in harness.telemetry.skipped if skipped[0] == "cause"]
    # Other searches are grouped as before.
    harness.search()
    assert "by(span:id)" in tempo.requests[-1].params["q"]
    assert tempo.requests[-1].params["spss"] == "100"


def test_search_may_ask_for_a_higher_limit_and_some_durations(tempo: FakeTempo) -> None:
    tempo.answer(replying(BODY), replying("limit 20001 exceeds max limit 9000", 400, "text/plain"), replying(BODY))
    harness = Harness(tempo.url)
    harness.search("backfill", durations=DurationRange(5, 9))
    assert "duration>=5ns) && (duration<9ns" in tempo.requests[-1].params["q"]
    assert harness.client.highest_limit == 262_144
    assert harness.search("backfill", limit=20_001).limit == 9000
    assert (harness.client.highest_limit, harness.client.max_limit) == (9000, 9000)


def test_other_failures_are_retried_even_if_the_caller_can_ask_for_less(tempo: FakeTempo) -> None:
    tempo.answer(replying("no", status=500), replying(BODY))
    harness = Harness(tempo.url)
    assert harness.search("backfill", may_split=True).traces == 2


def test_response_over_the_size_limit_is_rejected(tempo: FakeTempo) -> None:
    tempo.answer(replying(b" " * 3_000_000))
    harness = Harness(tempo.url, max_body_bytes=1_000_000)
    error = harness.search_error()
    assert (error.reason, error.retryable) == ("malformed", False)
    assert "tempo.limit" in str(error)
    tempo.answer(replying(b" " * 3_000_000, 503), replying(BODY))
    assert len(harness.search().spans) == 2


def test_incomplete_result_is_accepted_when_it_hit_the_limit(tempo: FakeTempo) -> None:
    tempo.answer(replying(search_body(a_trace(1), a_trace(2), completedJobs=1, totalJobs=9)))
    harness = Harness(tempo.url, limit=2)
    assert harness.search().saturated
    assert harness.client.exists(1, 2, loop="backfill")


def test_invalid_trace_does_not_fail_the_search(tempo: FakeTempo, caplog: pytest.LogCaptureFixture) -> None:
    tempo.answer(replying(search_body(a_trace(1), a_trace(2, spanSets=7), a_trace(3))))
    harness = Harness(tempo.url)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert [span.trace_id for span in harness.search().spans] == [f"{n:032x}" for n in (1, 3)]
    assert harness.telemetry.skipped == [("poll", "invalid", 1)] * 5
    assert harness.telemetry.failures == []
    assert len(caplog.records) == 1


def test_maximum_spans_per_trace_is_learned_from_the_rejection(tempo: FakeTempo) -> None:
    refusal = replying("spans per span set exceeds 20. received 100", 400, "text/plain")
    tempo.answer(refusal, replying(BODY))
    harness = Harness(tempo.url)
    assert len(harness.search().spans) == 2
    harness.search()
    assert [request.params["spss"] for request in tempo.requests] == ["100", "20", "20"]
    assert harness.pauses == []


def test_repeated_rejection_of_the_limit_fails(tempo: FakeTempo) -> None:
    tempo.answer(replying("limit 20000 exceeds max limit 400", 400, "text/plain"))
    harness = Harness(tempo.url)
    assert harness.search_error().reason == "refused"
    assert [request.params["limit"] for request in tempo.requests] == ["20000", "400"]


# Pauses


def test_retry_after_is_honoured(tempo: FakeTempo) -> None:
    tempo.answer(replying("", 429, Retry_After="7"), replying("", 503, Retry_After="3600"), replying(BODY))
    harness = Harness(tempo.url)
    harness.search()
    assert harness.pauses == [7.0, 60.0]


def test_long_wait_for_tempo_is_logged(tempo: FakeTempo, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tempo.answer(replying("", 429, Retry_After="40"), replying("", 503, Retry_After="3600"), replying(BODY))
    Harness(tempo.url).search("backfill")
    assert events(caplog) == ["tempo_asked_to_wait"]
    (record,) = caplog.records
    assert "40" in str(vars(record))


def test_pauses_grow_with_jitter(tempo: FakeTempo) -> None:
    tempo.answer(replying("", 503))
    harness = Harness(tempo.url, random=0.25)
    harness.search_error("backfill")
    assert harness.pauses == [0.125, 0.25, 0.5]


def test_no_slot_is_held_during_a_pause(tempo: FakeTempo) -> None:
    tempo.answer(replying("", 503), replying(BODY))
    harness = Harness(tempo.url, max_concurrency=1)
    traces: list[int] = []
    harness.on_pause.append(lambda: traces.append(harness.search("api").traces))
    harness.search("backfill")
    assert traces == [2]


# Concurrency


def test_poll_is_served_while_backfill_requests_hang(tempo: FakeTempo) -> None:
    hanging_requests = threading.Semaphore(0)

    def hang(handler: Any) -> None:
        hanging_requests.release()
        hanging(handler)

    tempo.answer(hang, hang, replying(BODY))
    stop = threading.Event()
    harness = Harness(tempo.url, stop=stop, max_concurrency=3)
    errors: list[BaseException] = []
    threads = [threading.Thread(target=harness.search_until_stopped, args=(errors,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    hanging_requests.acquire()
    hanging_requests.acquire()
    # Two requests hang and three are queued; the last slot is reserved for polls.
    assert len(harness.search("poll").spans) == 2
    assert len(tempo.requests) == 3
    stop.set()
    for thread in threads:
        thread.join()
    assert [type(error) for error in errors] == [StoppedError] * 5
    assert harness.telemetry.failures == []


def test_max_concurrency_is_not_exceeded(tempo: FakeTempo) -> None:
    lock = threading.Lock()
    running, peak = 0, 0
    body = replying(BODY)

    def count_running(handler: Any) -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        handler.until_closed(0.01)
        with lock:
            running -= 1
        body(handler)

    tempo.answer(count_running)
    harness = Harness(tempo.url, max_concurrency=3)
    loops: tuple[Loop, ...] = ("poll", "backfill", "api") * 8
    threads = [threading.Thread(target=harness.search, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(harness.telemetry.requests) == sorted(loops)
    assert harness.telemetry.failures == []
    assert 1 < peak <= 3


# Stopping


@pytest.mark.parametrize("responder", [hanging, dripping(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")])
def test_stopping_ends_a_running_request(tempo: FakeTempo, responder: Responder) -> None:
    tempo.answer(responder)
    stop = threading.Event()
    harness = Harness(tempo.url, stop=stop, timeout_seconds=60.0)
    errors: list[BaseException] = []
    thread = threading.Thread(target=harness.search_until_stopped, args=(errors,))
    thread.start()
    tempo.asked.wait()
    stop.set()
    thread.join()
    assert [type(error) for error in errors] == [StoppedError]
    assert harness.telemetry.failures == []


def test_no_request_is_sent_after_stopping(tempo: FakeTempo) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        Harness(tempo.url, stop=stop).search()
    assert tempo.requests == []


def test_stopping_ends_a_pause(tempo: FakeTempo) -> None:
    tempo.answer(replying("", 429, Retry_After="60"))
    stop = threading.Event()
    client = TempoClient(ClientSettings(url=tempo.url), Recorder(), get_logger("tempo"), stop=stop)

    def stop_once_asked() -> None:
        tempo.asked.wait()
        stop.set()

    threading.Thread(target=stop_once_asked).start()
    with pytest.raises(StoppedError):
        client.search(1, 2, loop="poll")


# TLS


@pytest.fixture
def material(tmp_path: Path) -> Path:
    authority = trustme.CA()
    write_authority(tmp_path, authority, "authority")
    write_combined(tmp_path, authority, "server")
    return tmp_path


@pytest.fixture
def tls_tempo(material: Path) -> Iterator[FakeTempo]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(material / "server.pem")
    context.load_verify_locations(material / "authority.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    with fake_tempo(context) as server:
        yield server


def test_tls_with_a_private_ca(tls_tempo: FakeTempo, material: Path) -> None:
    tls_tempo.answer(replying(BODY))
    assert len(Harness(tls_tempo.url, ca_file=str(material / "authority.crt")).search().spans) == 2


def test_tls_with_an_untrusted_ca_fails(tls_tempo: FakeTempo, material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Harness(tls_tempo.url).search_error()
    assert (error.reason, error.retryable) == ("tls", False)
    assert "tempo.tls.ca_file" in str(error)
    # The environment does not override the configuration.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(material / "missing.pem"))
    assert Harness(tls_tempo.url, ca_file=str(material / "authority.crt")).search().traces == 0


def test_tls_without_verification(tls_tempo: FakeTempo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/missing.pem")
    assert Harness(tls_tempo.url, insecure_skip_verify=True).search().traces == 0


def test_tls_with_a_client_certificate(tls_tempo: FakeTempo, material: Path) -> None:
    names: list[Any] = []
    body = replying(BODY)

    def note_certificate(handler: Any) -> None:
        names.append(dict(part for (part,) in handler.connection.getpeercert()["subject"])["commonName"])
        body(handler)

    tls_tempo.answer(note_certificate)
    server = str(material / "server.pem")
    Harness(tls_tempo.url, ca_file=str(material / "authority.crt"), cert_file=server, key_file=server).search()
    Harness(tls_tempo.url, ca_file=str(material / "authority.crt"), cert_file=server).search()
    assert names == ["127.0.0.1"] * 2


@pytest.mark.parametrize("settings", [{"ca_file": "/nowhere/missing.pem"}, {"cert_file": "/nowhere/missing.pem"}])
def test_missing_tls_files_fail(tls_tempo: FakeTempo, settings: dict[str, Any]) -> None:
    error = Harness(tls_tempo.url, **settings).search_error()
    assert (error.reason, error.retryable) == ("tls", False)
    assert "tempo.tls" in str(error)


def test_tls_to_a_plain_http_port_fails(tempo: FakeTempo) -> None:
    assert Harness(tempo.url.replace("http:", "https:"), timeout_seconds=2.0).search_error("api").reason in (
        "tls",
        "connection",
    )


def test_slow_tls_response_times_out(tls_tempo: FakeTempo, material: Path) -> None:
    tls_tempo.answer(dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"))
    harness = Harness(tls_tempo.url, ca_file=str(material / "authority.crt"), timeout_seconds=0.3)
    assert harness.search_error("api").reason == "timeout"


# Secrets


def test_messages_and_logs_contain_no_secrets(tempo: FakeTempo, caplog: pytest.LogCaptureFixture) -> None:
    def quote_everything(handler: Any) -> None:
        replying(str(dict(handler.headers)), 401, "text/plain")(handler)

    def quote_later(handler: Any) -> None:
        replying(str(dict(handler.headers)), 500, "text/plain")(handler)

    url = tempo.url.replace("//", "//me:url-secret@")
    tempo.answer(quote_everything)
    messages = [
        str(Harness(url).search_error()),
        str(Harness(tempo.url, auth_token="token-secret").search_error()),
        str(Harness(tempo.url, username="me", password="password-secret").search_error()),
        str(Harness(tempo.url, headers={"X-Key": "header-secret"}).search_error()),
        str(Harness(tempo.url, auth_token="line\nbreak-secret").search_error()),
        str(Harness(unused_url().replace("//", "//me:url-secret@")).search_error()),
    ]
    tempo.answer(quote_later)
    with caplog.at_level(logging.DEBUG):
        messages.append(str(Harness(tempo.url, auth_token="token-secret").search_error()))
    messages.append(caplog.text + "".join(str(vars(record)) for record in caplog.records))
    assert "Bearer <secret>" in messages[1]
    assert not [message for message in messages if "-secret" in message]
    # The password is also sent as base64.
    assert "cGFzc3dvcmQtc2VjcmV0" not in "".join(messages)
    assert "bWU6cGFzc3dvcmQtc2VjcmV0" not in "".join(messages)


def test_errors_have_no_cause_that_could_quote_secrets(tempo: FakeTempo) -> None:
    error = Harness(tempo.url, auth_token="line\nbreak-secret").search_error()
    assert error.__cause__ is None
    assert error.__context__ is None


# Counts


def test_failed_count_does_not_mean_that_tempo_is_down(tempo: FakeTempo) -> None:
    """Tempo 2 returns 500 "empty ring" if it keeps no data for counting; a retry would not help."""
    tempo.answer(replying("error querying generators: empty ring", 500, "text/plain"))
    harness = Harness(tempo.url)
    with pytest.raises(TempoError, match="empty ring"):
        harness.client.count(0, 3600, 900, loop="backfill")
    assert len(tempo.requests) == 1
    assert harness.pauses == []
    assert harness.telemetry.failures == [("backfill", "server_error")]
    assert harness.telemetry.answered == [True]


def test_count_without_a_response_means_that_tempo_is_down(tempo: FakeTempo) -> None:
    tempo.answer(hanging_up)
    harness = Harness(tempo.url)
    with pytest.raises(TempoError):
        harness.client.count(0, 3600, 900, loop="backfill")
    assert harness.telemetry.answered == [False]


def test_count_query_has_scope_and_filter(tempo: FakeTempo) -> None:
    tempo.answer(replying({"series": [], "metrics": {}}))
    harness = Harness(tempo.url, scope="entry", filter='resource.env="prod"')
    harness.client.count(3600, 7200, 900, loop="backfill")
    assert tempo.requests[0].params == {
        "q": '{(nestedSetParent<0 || kind=server || kind=consumer) && (resource.env="prod")} | count_over_time()',
        "start": "4500",
        "end": "7200",
        "step": "900s",
    }


@pytest.mark.parametrize("body", ["<html>", "{}", '{"series": 3}', ""])
def test_invalid_count_response_is_an_error(tempo: FakeTempo, body: str) -> None:
    tempo.answer(replying(body))
    with pytest.raises(TempoError):
        Harness(tempo.url).client.count(0, 3600, 900, loop="backfill")
