"""Errors say what happened, to which URL, what to do, and whether a retry makes sense."""

import http.client
import socket
import ssl
from email.utils import formatdate

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from exporter.runtime.telemetry import FAILURE_REASONS, FailureReason
from exporter.tempo.errors import LimitTooHighError, RangeTooLongError, TempoError, TooManySpansError
from exporter.tempo.failures import (
    HttpResponse,
    excerpt,
    go_duration_seconds,
    not_json,
    retry_after_seconds,
    status_failure,
    transport_failure,
)

URL = "http://tempo:3200/api/search"
NOW = 1_795_077_000.0


def failure(status: int, body: bytes | str = b"", **headers: str) -> TempoError:
    data = body.encode() if isinstance(body, str) else body
    named = CaseInsensitiveDict({name.replace("_", "-"): value for name, value in headers.items()})
    error = status_failure(HttpResponse(URL, status, named, data), NOW, lambda text: text.replace("hunter2", "***"))
    assert error is not None
    return error


def test_status_200_is_not_a_failure() -> None:
    assert status_failure(HttpResponse(URL, 200, {}, b""), NOW, str) is None


@pytest.mark.parametrize(
    ("status", "reason", "retryable", "answered"),
    [
        (204, "malformed", False, False),
        (302, "redirect", False, False),
        (400, "refused", False, True),
        (401, "unauthorized", False, True),
        (403, "unauthorized", False, True),
        (404, "refused", False, True),
        (408, "refused", False, True),
        (422, "refused", False, True),
        (429, "rate_limited", True, True),
        (500, "server_error", True, False),
        (502, "server_error", True, False),
        (503, "server_error", True, False),
        (504, "server_error", True, False),
        (599, "server_error", True, False),
    ],
)
def test_status_failure_by_status(status: int, reason: FailureReason, retryable: bool, answered: bool) -> None:
    error = failure(status, "no org id")
    assert (error.reason, error.retryable, error.answered, error.status) == (reason, retryable, answered, status)
    assert URL in str(error)
    assert str(status) in str(error)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "tempo.tenant"),
        (404, "tempo.url"),
        (400, "tempo.filter"),
        (429, "tempo.requests_per_second"),
        (503, "log"),
    ],
)
def test_status_failure_gives_advice(status: int, advice: str) -> None:
    assert advice in str(failure(status))


def test_status_failure_quotes_the_body_shortened_and_masked() -> None:
    message = str(failure(400, "first line\r\n\tsecond \x1b[31mhunter2 " + "x" * 5000))
    assert "first line second [31m*** xxx" in message
    assert len(message) < 500
    assert message.isprintable()
    assert "an HTML page" in str(failure(502, "<html><body>Bad gateway</body></html>"))


def test_redirect_error_names_the_target_without_secrets() -> None:
    error = failure(302, Location="https://me:hunter2@login.example:8443/sign/in?token=abc#x")
    assert "https://login.example:8443/sign/in" in str(error)
    assert "hunter2" not in str(error)
    assert "abc" not in str(error)
    assert "tempo.url" in str(error)


@pytest.mark.parametrize("location", ["", "http://[broken", "\x00"])
def test_redirect_error_without_a_valid_target(location: str) -> None:
    assert "no valid address" in str(failure(301, Location=location))


def test_refusal_with_a_known_limit_becomes_a_specific_error() -> None:
    limit = failure(400, "limit 300000 exceeds max limit 262144")
    assert isinstance(limit, LimitTooHighError)
    assert limit.max_limit == 262_144
    spans = failure(400, "spans per span set exceeds 20. received 100")
    assert isinstance(spans, TooManySpansError)
    assert spans.max_spans == 20
    duration = failure(400, "range specified by start and end exceeds 168h0m0s. received start=1 end=2")
    assert isinstance(duration, RangeTooLongError)
    assert duration.max_seconds == 168 * 3600
    metrics = failure(400, "metrics query time range exceeds the maximum allowed duration of 3h0m0s")
    assert isinstance(metrics, RangeTooLongError)
    assert metrics.max_seconds == 3 * 3600


@pytest.mark.parametrize(
    "body",
    [
        "invalid limit: must be a positive number",
        "limit 5 exceeds max limit 0",
        "spans per span set exceeds 0. received 100",
        "range specified by start and end exceeds 1e9",
        "range specified by start and end exceeds 0s. received",
        "http parameter start must be before end. received start=2 end=1",
        "range " * 1000,
    ],
)
def test_refusal_without_a_usable_limit_is_a_plain_error(body: str) -> None:
    assert type(failure(400, body)) is TempoError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("168h0m0s", 604_800),
        ("1m30s", 90),
        ("1.5s", 1.5),
        ("100ms", 0.1),
        ("2h", 7200),
        ("1h0m0.5s", 3600.5),
        ("3µs", 3e-6),
        ("", 0),
        ("7d", 0),
        ("h", 0),
        ("1h extra", 0),
    ],
)
def test_go_duration_seconds(text: str, seconds: float) -> None:
    assert go_duration_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("9" * 500, 999_999_999.0),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW - 30, usegmt=True), 0.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
    ],
)
def test_retry_after_seconds(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


@given(st.text())
def test_any_retry_after_is_parsed_or_ignored(value: str) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or seconds >= 0


def test_retry_after_is_kept_for_429_and_503() -> None:
    assert failure(429, Retry_After="7").retry_after_seconds == 7
    assert failure(503, Retry_After="8").retry_after_seconds == 8
    assert failure(503).retry_after_seconds is None


@given(st.integers(201, 599), st.binary(max_size=300), st.text(max_size=50))
def test_status_failure_message_is_one_short_line(status: int, body: bytes, header: str) -> None:
    error = failure(status, body, Location=header, Retry_After=header)
    assert str(error).isprintable()
    assert len(str(error)) < 800
    assert error.reason in FAILURE_REASONS


@given(st.text())
def test_excerpt_is_one_short_line(text: str) -> None:
    assert excerpt(text).isprintable()
    assert len(excerpt(text)) <= 200


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"<!doctype html><title>Sign in</title>", "text/html", "login"),
        (b"hello", "text/plain", "tempo.url"),
        (b'{"traces": [', "application/json", "cut off"),
        (b"", "", "no content type"),
    ],
)
def test_not_json_gives_advice_by_content(body: bytes, content_type: str, text: str) -> None:
    error = not_json(HttpResponse(URL, 200, {"Content-Type": content_type}, body), str)
    assert (error.reason, error.retryable) == ("malformed", True)
    assert text in str(error)
    assert URL in str(error)


def _wrapped(cause: Exception) -> Exception:
    """Wrap an exception of the socket as urllib3 and requests do."""
    pool = urllib3.HTTPConnectionPool("tempo")
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/?secret", cause))


def _no_connection(cause: Exception) -> Exception:
    connection = urllib3.connection.HTTPConnection("tempo")
    error = urllib3.exceptions.NewConnectionError(connection, "secret")
    error.__cause__ = cause
    return _wrapped(error)


def _untrusted_certificate() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "reason", "retryable", "text"),
    [
        (_no_connection(ConnectionRefusedError(111, "refused")), "connection", True, "connection refused"),
        (_no_connection(socket.gaierror(-2, "secret")), "connection", True, "host name"),
        (_no_connection(OSError(113, "No route to host")), "connection", True, "No route to host"),
        (_no_connection(TimeoutError("secret")), "timeout", True, "tempo.timeout"),
        (_wrapped(ConnectionResetError(104, "reset")), "connection", True, "closed before"),
        (_wrapped(http.client.RemoteDisconnected("secret")), "connection", True, "closed before"),
        (_wrapped(http.client.BadStatusLine("secret")), "malformed", True, "does not speak HTTP"),
        (_wrapped(urllib3.exceptions.ProxyError("secret", OSError())), "connection", True, "proxy"),
        (requests.exceptions.ProxyError("http://me:secret@proxy"), "connection", True, "proxy"),
        (requests.ConnectTimeout("secret"), "timeout", True, "tempo.timeout"),
        (requests.ReadTimeout("secret"), "timeout", True, "tempo.timeout"),
        (_wrapped(TimeoutError("secret")), "timeout", True, "tempo.timeout"),
        (requests.exceptions.SSLError(_untrusted_certificate()), "tls", False, "self-signed certificate"),
        (_wrapped(ssl.SSLError(1, "[SSL] secret")), "tls", True, "tempo.tls"),
        (requests.exceptions.SSLError("secret"), "tls", True, "tempo.tls"),
        (requests.exceptions.ChunkedEncodingError("secret"), "malformed", True, "cut off"),
        (requests.exceptions.ContentDecodingError("secret"), "malformed", True, "damaged"),
        (urllib3.exceptions.ProtocolError("secret", ConnectionResetError()), "malformed", True, "cut off"),
        (urllib3.exceptions.ReadTimeoutError(urllib3.HTTPConnectionPool("tempo"), "/", "secret"), "timeout", True, "s"),
        (requests.exceptions.InvalidHeader("secret"), "connection", False, "tempo.headers"),
        (requests.exceptions.InvalidURL("secret"), "connection", False, "tempo.url"),
        (UnicodeEncodeError("ascii", "secret", 0, 1, "secret"), "connection", False, "credentials"),
        (OSError("Could not find secret"), "tls", False, "tempo.tls"),
        (FileNotFoundError(2, "secret"), "tls", False, "tempo.tls"),
        (requests.RequestException("secret"), "connection", True, "no connection"),
    ],
)
def test_transport_failure_by_exception(error: Exception, reason: FailureReason, retryable: bool, text: str) -> None:
    result = transport_failure(URL, error, 15.0)
    assert (result.reason, result.retryable) == (reason, retryable)
    assert text in str(result)
    assert URL in str(result)
    assert "secret" not in str(result)
    assert not result.answered


@pytest.mark.parametrize("cause", [http.client.RemoteDisconnected("secret"), ConnectionResetError(104, "reset")])
@pytest.mark.parametrize(("elapsed", "is_slow"), [(0.1, False), (9.9, False), (10.0, True), (30.2, True)])
def test_connection_closed_late_means_that_the_search_was_too_slow(
    cause: Exception, elapsed: float, is_slow: bool
) -> None:
    result = transport_failure(URL, _wrapped(cause), 60.0, elapsed_seconds=elapsed)
    assert (result.reason, result.retryable, result.is_slow) == ("connection", True, is_slow)
    assert ("http_server_write_timeout" in str(result)) is is_slow


def test_connection_refused_late_is_no_slow_search() -> None:
    error = _no_connection(ConnectionRefusedError(111, "refused"))
    assert not transport_failure(URL, error, 60.0, elapsed_seconds=30.0).is_slow


def test_transport_failure_with_circular_causes() -> None:
    error = requests.ConnectionError()
    error.args = (error,)
    assert transport_failure(URL, error, 1.0).reason == "connection"


GRAFANA_SEARCH = b'[{"id":1,"uid":"x","title":"Home","type":"dash-db"}]'
GRAFANA_ERROR = b'{"extra":null,"message":"Unauthorized","messageId":"auth.unauthorized","statusCode":401,"traceID":""}'
GRAFANA_ADVICE = (
    "this is Grafana, not Tempo. Set tempo.url to Tempo itself, or to http://tempo:3200/api/datasources/proxy/uid/<uid>"
)


@pytest.mark.parametrize("body", [GRAFANA_SEARCH, b"[]", b" [\n]"])
def test_grafanas_own_search_is_recognised(body: bytes) -> None:
    error = not_json(HttpResponse(URL, 200, {"Content-Type": "application/json"}, body), str)
    assert (error.reason, error.retryable) == ("malformed", False)
    assert GRAFANA_ADVICE in str(error)


@pytest.mark.parametrize(("status", "reason"), [(401, "unauthorized"), (403, "unauthorized"), (404, "refused")])
def test_grafanas_errors_are_recognised(status: int, reason: FailureReason) -> None:
    error = failure(status, GRAFANA_ERROR)
    assert (error.reason, error.retryable) == (reason, False)
    assert GRAFANA_ADVICE in str(error)


def test_what_comes_through_grafanas_proxy_is_not_grafanas_own() -> None:
    url = "http://grafana/api/datasources/proxy/uid/x/api/search"
    error = not_json(HttpResponse(url, 200, {}, b"[]"), str)
    refused = status_failure(HttpResponse(url, 401, {}, GRAFANA_ERROR), NOW, str)
    assert "not Tempo. Set" not in f"{error} {refused}"
    assert "this is Grafana" not in str(failure(500, b"[]"))


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[1]", b"[{", b"{}", b"[" + b" " * 5_000_000 + b"]"])
def test_what_is_no_list_of_objects_is_not_grafanas(body: bytes) -> None:
    assert "this is Grafana" not in str(not_json(HttpResponse(URL, 200, {}, body), str))


@pytest.mark.parametrize(
    "text",
    [
        "invalid TraceQL query: parse error at line 1, col 2: syntax error: unexpected IDENTIFIER",
        "invalid TraceQL query: parse error at line 1, col 3: syntax error: unexpected IDENTIFIER",
        "unknown intrinsic nestedSetParent",
    ],
)
def test_an_old_tempo_is_named(text: str) -> None:
    error = failure(400, text)
    assert (error.reason, error.retryable) == ("refused", False)
    assert "The exporter needs Tempo 2.5 or newer: older versions do not know nestedSetParent." in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "invalid TraceQL query: parse error at line 1, col 24: syntax error: unexpected IDENTIFIER",
        "bad request: {nestedSetParent<0 && (name=~)}",
    ],
)
def test_another_refusal_is_not_a_matter_of_the_version(text: str) -> None:
    assert "2.5" not in str(failure(400, text))
