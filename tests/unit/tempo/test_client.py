"""The client against a Tempo that misbehaves in every way, over real HTTP on loopback."""

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

from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import FailureReason, Loop
from exporter.tempo import ClientSettings, StoppedError, TempoClient, TempoError
from exporter.tempo.client import ATTEMPTS, SearchAnswer
from tests.support.certificates import write_authority, write_combined
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

ANSWER = search_body(a_trace(1), a_trace(2))


class Rig:
    """A client, and what it did."""

    def __init__(self, url: str, *, stop: threading.Event | None = None, random: float = 1.0, **settings: Any) -> None:
        self.telemetry = Recorder()
        self.pauses: list[float] = []
        self.during_pause: list[Any] = []
        given = ClientSettings(**{"url": url, "requests_per_second": 10_000.0, "timeout_seconds": 10.0, **settings})
        self.client = TempoClient(
            given, self.telemetry, get_logger("tempo"), stop=stop, pause=self._pause, random=lambda: random
        )

    def _pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        for action in self.during_pause:
            action()
        return False

    def search(self, loop: Loop = "poll", **arguments: Any) -> SearchAnswer:
        return self.client.search(1_795_077_000, 1_795_077_060, loop=loop, **arguments)

    def fails(self, loop: Loop = "poll") -> TempoError:
        with pytest.raises(TempoError) as caught:
            self.search(loop)
        assert str(caught.value).isprintable()
        return caught.value

    def stopped(self, outcomes: list[BaseException]) -> None:
        """Search as the backfill does, until that is stopped or fails."""
        try:
            self.search("backfill")
        except (StoppedError, TempoError) as error:
            outcomes.append(error)


@pytest.fixture
def tempo() -> Iterator[FakeTempo]:
    with fake_tempo() as server:
        yield server


# What goes well


def test_a_search_and_what_is_reported_of_it(tempo: FakeTempo) -> None:
    tempo.answer(replying(ANSWER))
    rig = Rig(tempo.url)
    answer = rig.search("backfill")
    assert [span.trace_id for span in answer.spans] == [f"{n:032x}" for n in (1, 2)]
    assert (answer.traces, answer.limit, answer.saturated, answer.invalid, answer.missing) == (2, 5000, False, 0, 0)
    assert answer.bytes == len(json.dumps(ANSWER))
    assert rig.telemetry.requests == ["backfill"]
    assert rig.telemetry.answered == [True]
    assert rig.telemetry.read == [("backfill", 2)]
    assert not rig.telemetry.failures + rig.telemetry.saturations + rig.telemetry.skipped


def test_what_is_left_out_is_counted(tempo: FakeTempo) -> None:
    spans = [a_span(1), a_span(2, durationNanos="-1")]
    tempo.answer(replying(search_body(a_trace(1, spanSets=[{"spans": spans, "matched": 7}]), a_trace(2))))
    rig = Rig(tempo.url)
    rig.search("poll", limit=2)
    assert rig.telemetry.read == [("poll", 3)]
    assert rig.telemetry.skipped == [("poll", "invalid", 1), ("poll", "span_limit", 5)]
    assert rig.telemetry.saturations == ["poll"]


def test_a_probe_is_no_reading(tempo: FakeTempo) -> None:
    tempo.answer(replying(search_body(a_trace())))
    rig = Rig(tempo.url)
    assert rig.client.exists(1, 2, loop="backfill")
    assert rig.telemetry.requests == ["backfill"]
    assert not rig.telemetry.saturations + rig.telemetry.read


def test_the_query_has_scope_filter_and_conditions(tempo: FakeTempo) -> None:
    rig = Rig(tempo.url, scope="entry", filter='resource.env="prod"')
    rig.search(series=[SeriesKey("a", 'GET "/"'), SeriesKey("b", "x")])
    assert tempo.requests[0].params["q"] == (
        '{(nestedSetParent<0 || kind=server || kind=consumer) && (resource.env="prod") && '
        '((resource.service.name="a" && name="GET \\"/\\"") || (resource.service.name="b" && name="x"))} '
        "| select(resource.service.name, name)"
    )
    with pytest.raises(ValueError, match="braces"):
        Rig(tempo.url, filter="{}")


def test_connections_are_kept(tempo: FakeTempo) -> None:
    ports = set()
    body = replying(ANSWER)

    def note_port(handler: Any) -> None:
        ports.add(handler.client_address[1])
        body(handler)

    tempo.answer(note_port)
    rig = Rig(tempo.url)
    for _ in range(5):
        rig.search()
    assert len(ports) == 1
    rig.client.close()
    rig.search()
    assert len(ports) == 2


@pytest.mark.parametrize(
    "responder",
    [
        chunked(ANSWER),
        replying(gzip.compress(json.dumps(ANSWER).encode()), Content_Encoding="gzip"),
        chunked(gzip.compress(json.dumps(ANSWER).encode()), Content_Encoding="gzip"),
        replying(ANSWER, content_type="text/plain"),
        raw(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(ANSWER).encode()),
    ],
    ids=["chunked", "gzip", "chunked gzip", "no json type", "until closed"],
)
def test_however_the_body_comes(tempo: FakeTempo, responder: Responder) -> None:
    tempo.answer(responder)
    assert len(Rig(tempo.url).search().spans) == 2


def test_a_path_prefix_stays(tempo: FakeTempo) -> None:
    Rig(tempo.url + "/tempo/").search()
    assert tempo.requests[0].path == "/tempo/api/search"


# What is sent


def test_headers(tempo: FakeTempo) -> None:
    Rig(tempo.url, tenant="prod-ä", headers={"X-Team": "shop", "accept-encoding": "gzip"}).search()
    headers = tempo.requests[0].headers
    assert headers["x-scope-orgid"].encode("latin-1").decode() == "prod-ä"
    assert headers["x-team"] == "shop"
    assert headers["accept-encoding"] == "gzip"
    assert headers["accept"] == "application/json"
    assert headers["user-agent"].startswith("tempo-anomaly-exporter/")
    assert "authorization" not in headers
    assert "cookie" not in headers


def test_tempo_is_not_made_to_compress(tempo: FakeTempo) -> None:
    Rig(tempo.url).search()
    assert tempo.requests[0].headers["accept-encoding"] == "identity"


def test_a_rotated_token_is_used_at_once(tempo: FakeTempo, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    rig = Rig(tempo.url, auth_token_file=str(file))
    rig.search()
    file.write_text("second one")
    rig.search()
    assert [request.headers["authorization"] for request in tempo.requests] == ["Bearer first", "Bearer second one"]


def test_a_token_file_that_is_missing_for_a_moment(tempo: FakeTempo, tmp_path: Path) -> None:
    file = tmp_path / "token"
    rig = Rig(tempo.url, auth_token_file=str(file))
    error = rig.fails()
    assert (error.reason, tempo.requests) == ("unauthorized", [])
    rig.during_pause.append(lambda: file.write_text("abc"))
    rig.search()
    assert tempo.requests[0].headers["authorization"] == "Bearer abc"


def test_netrc_does_not_sign_requests(tempo: FakeTempo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password pw\n")
    monkeypatch.setenv("NETRC", str(netrc))
    Rig(tempo.url).search()
    assert "authorization" not in tempo.requests[0].headers


def test_cookies_are_not_kept(tempo: FakeTempo) -> None:
    tempo.answer(replying(ANSWER, Set_Cookie="session=1; Path=/"))
    rig = Rig(tempo.url)
    rig.search()
    rig.search()
    assert "cookie" not in tempo.requests[1].headers


def test_a_proxy_from_the_environment_is_used(tempo: FakeTempo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", tempo.url)
    monkeypatch.setenv("no_proxy", "")
    assert len(Rig("http://tempo.invalid:3200").search().spans) == 0
    assert tempo.requests[0].headers["host"] == "tempo.invalid:3200"


# What fails

HTML = replying("<!doctype html><html><title>Sign in</title></html>", content_type="text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("responder", "reason", "said"),
    [
        (replying("slow down", 429, "text/plain"), "rate_limited", "slow down"),
        (replying("oops", 500, "text/plain"), "server_error", "oops"),
        (replying("<html>Bad gateway</html>", 502, "text/html"), "server_error", "an HTML page"),
        (replying("empty ring", 503, "text/plain"), "server_error", "empty ring"),
        (HTML, "malformed", "login"),
        (replying("hello", content_type="text/plain"), "malformed", "hello"),
        (replying(""), "malformed", "0 bytes"),
        (replying("[]"), "malformed", "not a Tempo answer"),
        (replying({"message": "please log in"}), "malformed", "please log in"),
        (replying('{"traces":' + "[" * 100_000), "malformed", "not a Tempo answer"),
        (truncating(ANSWER, keep=300), "malformed", "cut off"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(ANSWER).encode()[:300]), "malformed", "cut off"),
        (raw(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"tra'), "malformed", "cut off"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "malformed", "cut off"),
        (replying(b"\x1f\x8b not gzip", Content_Encoding="gzip"), "malformed", "damaged"),
        (replying(search_body(completedJobs=1, totalJobs=3)), "malformed", "jobs"),
        (hanging_up, "connection", "closed before"),
        (raw(b"SSH-2.0-OpenSSH_9.9\r\n"), "malformed", "does not speak HTTP"),
    ],
)
@pytest.mark.parametrize("loop", ["poll", "backfill", "api"])
def test_what_may_be_over_soon_is_tried_again(
    tempo: FakeTempo, responder: Responder, reason: FailureReason, said: str, loop: Loop
) -> None:
    tempo.answer(responder)
    rig = Rig(tempo.url)
    error = rig.fails(loop)
    attempts = ATTEMPTS[loop]
    assert (error.reason, error.retryable) == (reason, True)
    assert said in str(error)
    assert f"GET {tempo.url}/api/search" in str(error)
    assert len(tempo.requests) == attempts
    assert rig.telemetry.requests == [loop] * attempts
    assert rig.telemetry.failures == [(loop, reason)] * attempts
    assert rig.telemetry.answered == [reason == "rate_limited"] * attempts
    assert rig.pauses == [0.5, 1.0, 2.0][: attempts - 1]

    tempo.answer(responder, replying(ANSWER))
    assert len(rig.search(loop).spans) == 2
    assert rig.telemetry.answered[-1]


@pytest.mark.parametrize(
    ("responder", "reason", "said"),
    [
        (replying("no org id", 401, "text/plain"), "unauthorized", "tempo.tenant"),
        (replying("", 403), "unauthorized", "auth_token"),
        (replying("404 page not found", 404, "text/plain"), "refused", "tempo.url"),
        (replying("invalid TraceQL query: parse error", 400, "text/plain"), "refused", "parse error"),
        (replying("", 422), "refused", "422"),
        (replying("", 204), "malformed", "204"),
        (replying("limit 5000 exceeds max limit 9000", 400, "text/plain"), "refused", "max limit 9000"),
    ],
)
def test_what_will_not_be_over_is_not_tried_again(
    tempo: FakeTempo, responder: Responder, reason: FailureReason, said: str
) -> None:
    tempo.answer(responder)
    rig = Rig(tempo.url)
    error = rig.fails("backfill")
    assert (error.reason, error.retryable) == (reason, False)
    assert said in str(error)
    assert len(tempo.requests) == 1
    assert rig.pauses == []
    assert rig.telemetry.failures == [("backfill", reason)]
    assert rig.telemetry.answered == [reason in ("unauthorized", "refused")]


def test_a_redirect_is_not_followed_and_gives_nothing_away(tempo: FakeTempo) -> None:
    with fake_tempo() as elsewhere:
        target = elsewhere.url.replace("//", "//me:hunter2@") + "/login?token=hunter2"
        tempo.answer(replying("", 302, Location=target))
        rig = Rig(tempo.url, auth_token="abc")
        error = rig.fails("backfill")
        assert (error.reason, error.retryable) == ("redirect", False)
        assert elsewhere.url + "/login" in str(error)
        assert "hunter2" not in str(error)
        assert elsewhere.requests == []
        assert len(tempo.requests) == 1


def test_nobody_listens() -> None:
    rig = Rig(unused_url())
    error = rig.fails()
    assert (error.reason, error.retryable, error.status) == ("connection", True, None)
    assert "connection refused" in str(error)
    assert rig.telemetry.answered == [False] * 3


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
def test_a_request_ends_in_time_whatever_comes(tempo: FakeTempo, responder: Responder) -> None:
    tempo.answer(responder)
    rig = Rig(tempo.url, timeout_seconds=0.25)
    error = rig.fails("api")
    assert (error.reason, error.retryable) == ("timeout", True)
    assert "tempo.timeout" in str(error)
    assert rig.telemetry.failures == [("api", "timeout")] * 2


def test_an_answer_without_end_is_not_read_to_its_end(tempo: FakeTempo) -> None:
    tempo.answer(replying(b" " * 3_000_000))
    rig = Rig(tempo.url, max_body_bytes=1_000_000)
    error = rig.fails()
    assert (error.reason, error.retryable) == ("malformed", False)
    assert "tempo.limit" in str(error)
    tempo.answer(replying(b" " * 3_000_000, 503), replying(ANSWER))
    assert len(rig.search().spans) == 2


def test_an_incomplete_answer_is_fine_when_tempo_stopped_at_the_limit(tempo: FakeTempo) -> None:
    tempo.answer(replying(search_body(a_trace(1), a_trace(2), completedJobs=1, totalJobs=9)))
    rig = Rig(tempo.url, limit=2)
    assert rig.search().saturated
    assert rig.client.exists(1, 2, loop="backfill")


def test_one_bad_trace_does_not_fail_the_search(tempo: FakeTempo, caplog: pytest.LogCaptureFixture) -> None:
    tempo.answer(replying(search_body(a_trace(1), a_trace(2, spanSets=7), a_trace(3))))
    rig = Rig(tempo.url)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert [span.trace_id for span in rig.search().spans] == [f"{n:032x}" for n in (1, 3)]
    assert rig.telemetry.skipped == [("poll", "invalid", 1)] * 5
    assert rig.telemetry.failures == []
    assert len(caplog.records) == 1


def test_fewer_spans_a_trace_than_asked_for_are_learned(tempo: FakeTempo) -> None:
    refusal = replying("spans per span set exceeds 20. received 100", 400, "text/plain")
    tempo.answer(refusal, replying(ANSWER))
    rig = Rig(tempo.url)
    assert len(rig.search().spans) == 2
    rig.search()
    assert [request.params["spss"] for request in tempo.requests] == ["100", "20", "20"]
    assert rig.pauses == []


def test_a_refusal_that_is_not_heeded_is_not_repeated_for_ever(tempo: FakeTempo) -> None:
    tempo.answer(replying("limit 5000 exceeds max limit 400", 400, "text/plain"))
    rig = Rig(tempo.url)
    assert rig.fails().reason == "refused"
    assert [request.params["limit"] for request in tempo.requests] == ["5000", "400"]


# Pauses


def test_retry_after_is_honoured(tempo: FakeTempo) -> None:
    tempo.answer(replying("", 429, Retry_After="7"), replying("", 503, Retry_After="3600"), replying(ANSWER))
    rig = Rig(tempo.url)
    rig.search()
    assert rig.pauses == [7.0, 60.0]


def test_pauses_are_random_within_growing_bounds(tempo: FakeTempo) -> None:
    tempo.answer(replying("", 503))
    rig = Rig(tempo.url, random=0.25)
    rig.fails("backfill")
    assert rig.pauses == [0.125, 0.25, 0.5]


def test_no_slot_is_held_during_a_pause(tempo: FakeTempo) -> None:
    tempo.answer(replying("", 503), replying(ANSWER))
    rig = Rig(tempo.url, max_concurrency=1)
    seen: list[int] = []
    rig.during_pause.append(lambda: seen.append(rig.search("api").traces))
    rig.search("backfill")
    assert seen == [2]


# Concurrency


def test_a_poll_is_answered_while_a_backfill_hangs(tempo: FakeTempo) -> None:
    inside = threading.Semaphore(0)

    def hang(handler: Any) -> None:
        inside.release()
        hanging(handler)

    tempo.answer(hang, hang, replying(ANSWER))
    stop = threading.Event()
    rig = Rig(tempo.url, stop=stop, max_concurrency=3)
    outcomes: list[BaseException] = []
    threads = [threading.Thread(target=rig.stopped, args=(outcomes,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    inside.acquire()
    inside.acquire()
    # Two hang, three wait for a turn; one slot is left, and it is the poller's.
    assert len(rig.search("poll").spans) == 2
    assert len(tempo.requests) == 3
    stop.set()
    for thread in threads:
        thread.join()
    assert [type(outcome) for outcome in outcomes] == [StoppedError] * 5
    assert rig.telemetry.failures == []


def test_never_more_at_once_than_allowed(tempo: FakeTempo) -> None:
    lock = threading.Lock()
    running, peak = 0, 0
    body = replying(ANSWER)

    def counted(handler: Any) -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        handler.until_closed(0.01)
        with lock:
            running -= 1
        body(handler)

    tempo.answer(counted)
    rig = Rig(tempo.url, max_concurrency=3)
    loops: tuple[Loop, ...] = ("poll", "backfill", "api") * 8
    threads = [threading.Thread(target=rig.search, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rig.telemetry.requests) == sorted(loops)
    assert rig.telemetry.failures == []
    assert 1 < peak <= 3


# Stopping


@pytest.mark.parametrize("responder", [hanging, dripping(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")])
def test_stopping_ends_a_request_under_way(tempo: FakeTempo, responder: Responder) -> None:
    tempo.answer(responder)
    stop = threading.Event()
    rig = Rig(tempo.url, stop=stop, timeout_seconds=60.0)
    outcomes: list[BaseException] = []
    thread = threading.Thread(target=rig.stopped, args=(outcomes,))
    thread.start()
    tempo.asked.wait()
    stop.set()
    thread.join()
    assert [type(outcome) for outcome in outcomes] == [StoppedError]
    assert rig.telemetry.failures == []


def test_nothing_is_sent_once_stopped(tempo: FakeTempo) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        Rig(tempo.url, stop=stop).search()
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


def test_tls_with_an_authority_of_ones_own(tls_tempo: FakeTempo, material: Path) -> None:
    tls_tempo.answer(replying(ANSWER))
    assert len(Rig(tls_tempo.url, ca_file=str(material / "authority.crt")).search().spans) == 2


def test_tls_without_a_trusted_authority(tls_tempo: FakeTempo, material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Rig(tls_tempo.url).fails()
    assert (error.reason, error.retryable) == ("tls", False)
    assert "tempo.tls.ca_file" in str(error)
    # The environment does not overrule the configuration.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(material / "missing.pem"))
    assert Rig(tls_tempo.url, ca_file=str(material / "authority.crt")).search().traces == 0


def test_tls_unverified(tls_tempo: FakeTempo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/missing.pem")
    assert Rig(tls_tempo.url, insecure_skip_verify=True).search().traces == 0


def test_tls_with_a_client_certificate(tls_tempo: FakeTempo, material: Path) -> None:
    names: list[Any] = []
    body = replying(ANSWER)

    def note_certificate(handler: Any) -> None:
        names.append(dict(part for (part,) in handler.connection.getpeercert()["subject"])["commonName"])
        body(handler)

    tls_tempo.answer(note_certificate)
    server = str(material / "server.pem")
    Rig(tls_tempo.url, ca_file=str(material / "authority.crt"), cert_file=server, key_file=server).search()
    Rig(tls_tempo.url, ca_file=str(material / "authority.crt"), cert_file=server).search()
    assert names == ["127.0.0.1"] * 2


@pytest.mark.parametrize("settings", [{"ca_file": "/nowhere/missing.pem"}, {"cert_file": "/nowhere/missing.pem"}])
def test_tls_files_that_are_missing(tls_tempo: FakeTempo, settings: dict[str, Any]) -> None:
    error = Rig(tls_tempo.url, **settings).fails()
    assert (error.reason, error.retryable) == ("tls", False)
    assert "tempo.tls" in str(error)


def test_tls_asked_of_a_port_that_does_not_speak_it(tempo: FakeTempo) -> None:
    assert Rig(tempo.url.replace("http:", "https:"), timeout_seconds=2.0).fails("api").reason in ("tls", "connection")


def test_a_tls_connection_that_drips_ends_in_time(tls_tempo: FakeTempo, material: Path) -> None:
    tls_tempo.answer(dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"))
    rig = Rig(tls_tempo.url, ca_file=str(material / "authority.crt"), timeout_seconds=0.3)
    assert rig.fails("api").reason == "timeout"


# Secrets


def test_secrets_are_in_no_message(tempo: FakeTempo, caplog: pytest.LogCaptureFixture) -> None:
    def quote_everything(handler: Any) -> None:
        replying(str(dict(handler.headers)), 401, "text/plain")(handler)

    def quote_later(handler: Any) -> None:
        replying(str(dict(handler.headers)), 500, "text/plain")(handler)

    url = tempo.url.replace("//", "//me:url-secret@")
    tempo.answer(quote_everything)
    messages = [
        str(Rig(url).fails()),
        str(Rig(tempo.url, auth_token="token-secret").fails()),
        str(Rig(tempo.url, username="me", password="password-secret").fails()),
        str(Rig(tempo.url, headers={"X-Key": "header-secret"}).fails()),
        str(Rig(tempo.url, auth_token="line\nbreak-secret").fails()),
        str(Rig(unused_url().replace("//", "//me:url-secret@")).fails()),
    ]
    tempo.answer(quote_later)
    with caplog.at_level(logging.DEBUG):
        messages.append(str(Rig(tempo.url, auth_token="token-secret").fails()))
    messages.append(caplog.text + "".join(str(vars(record)) for record in caplog.records))
    assert "Bearer <secret>" in messages[1]
    assert not [message for message in messages if "-secret" in message]
    # The password also travels as base64.
    assert "cGFzc3dvcmQtc2VjcmV0" not in "".join(messages)
    assert "bWU6cGFzc3dvcmQtc2VjcmV0" not in "".join(messages)


def test_no_traceback_shows_what_the_library_said(tempo: FakeTempo) -> None:
    error = Rig(tempo.url, auth_token="line\nbreak-secret").fails()
    assert error.__cause__ is None
    assert error.__context__ is None


# Counts


def test_that_tempo_cannot_count_does_not_mean_that_it_is_down(tempo: FakeTempo) -> None:
    """Tempo 2 answers 500 "empty ring" where it keeps nothing to count; asking again would not help."""
    tempo.answer(replying("error querying generators: empty ring", 500, "text/plain"))
    rig = Rig(tempo.url)
    with pytest.raises(TempoError, match="empty ring"):
        rig.client.count(0, 3600, 900, loop="backfill")
    assert len(tempo.requests) == 1
    assert rig.pauses == []
    assert rig.telemetry.failures == [("backfill", "server_error")]
    assert rig.telemetry.answered == [True]


def test_that_nobody_answers_does(tempo: FakeTempo) -> None:
    tempo.answer(hanging_up)
    rig = Rig(tempo.url)
    with pytest.raises(TempoError):
        rig.client.count(0, 3600, 900, loop="backfill")
    assert rig.telemetry.answered == [False]


def test_counting_is_within_scope_and_filter(tempo: FakeTempo) -> None:
    tempo.answer(replying({"series": [], "metrics": {}}))
    rig = Rig(tempo.url, scope="entry", filter='resource.env="prod"')
    rig.client.count(3600, 7200, 900, loop="backfill")
    assert tempo.requests[0].params == {
        "q": '{(nestedSetParent<0 || kind=server || kind=consumer) && (resource.env="prod")} | count_over_time()',
        "start": "4500",
        "end": "7200",
        "step": "900s",
    }


@pytest.mark.parametrize("body", ["<html>", "{}", '{"series": 3}', ""])
def test_an_answer_that_counts_nothing_is_an_error(tempo: FakeTempo, body: str) -> None:
    tempo.answer(replying(body))
    with pytest.raises(TempoError):
        Rig(tempo.url).client.count(0, 3600, 900, loop="backfill")
