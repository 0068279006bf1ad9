"""Turns HTTP failures into errors that say what happened and what to do. Pure functions.

The texts end up in logs and on pages, so they never quote credentials, and text from the server is shortened.
"""

import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3

from exporter.runtime.telemetry import FailureReason
from exporter.tempo.errors import LimitTooHighError, RangeTooLongError, TempoError, TooManySpansError
from exporter.tempo.proxy import EnvironmentProxy

_E = TypeVar("_E", bound=BaseException)

_EXCERPT_CHARACTERS: Final = 200
_EXCERPT_BYTES: Final = 8 * _EXCERPT_CHARACTERS
_MAX_LIST_BYTES: Final = 4 << 20
_CHECK_URL: Final = "Check that tempo.url is the base URL of Tempo's HTTP API (usually port 3200), with any path prefix"

_GATEWAY_TIMEOUTS: Final = (504, 524)
_DEADLINE: Final = re.compile(r"context deadline exceeded|query timed out", re.IGNORECASE)

# Wording of Tempo 2.10 and 3.0.
_MAX_LIMIT: Final = re.compile(r"limit \d+ exceeds max limit (\d{1,9})\b")
_MAX_SPANS: Final = re.compile(r"spans per span set exceeds (\d{1,9})\b")
_MAX_RANGE: Final = re.compile(
    r"(?:range [^.\n]{0,80} exceeds|maximum allowed duration of) (\d[\d.hmsnuµμ]*[hms])(?!\w)"
)
# Of versions before 2.5. The query of each scope begins with nestedSetParent, in a brace and maybe a parenthesis.
_TOO_OLD: Final = re.compile(
    r"(?:unknown|invalid|unexpected|unsupported)[^.{(\n]{0,60}nestedSetParent"
    r"|line 1, col [1-4]: syntax error: unexpected IDENTIFIER",
    re.IGNORECASE,
)
_GO_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|ns|us|µs|μs)")
_UNIT_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}

_TIMEOUTS: Final = (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
_DAMAGED: Final = (
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.DecodeError,
)
"""Errors while reading a body: of requests when it is read in chunks, of urllib3 when it is read at once."""
_NO_TIMEOUT: Final = urllib3.exceptions.NewConnectionError
"""A subclass of urllib3's timeouts, but raised for every failure to connect."""

_CLOSED: Final = "the connection was closed before a response arrived"
_CLOSED_LATE_SECONDS: Final = 10.0
"""Tempo closes the connection of a search that exceeds its write timeout; a crash or restart mostly shows earlier."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete HTTP response.

    Attributes:
        url: the requested URL without query and credentials.
        status: the HTTP status.
        headers: response headers; lookup ignores case.
        body: the decompressed body.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


def excerpt(text: str) -> str:
    """Shorten a text from outside to one printable line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _EXCERPT_CHARACTERS else line[: _EXCERPT_CHARACTERS - 1] + "…"


def _body_start(response: HttpResponse) -> str:
    return response.body[:_EXCERPT_BYTES].decode("utf-8", "replace")


def status_failure(response: HttpResponse, now: float, mask: Callable[[str], str]) -> TempoError | None:
    """Return the error for an HTTP status, or None for 200.

    Args:
        response: the response.
        now: Unix seconds, for a ``Retry-After`` header with a date.
        mask: removes secrets from a text.
    """
    status = response.status
    if status == HTTPStatus.OK:
        return None
    if 300 <= status < 400:
        return _redirect(response, mask)
    if grafana := _grafana(response):
        reason: FailureReason = "unauthorized" if status in (401, 403) else "refused"
        return TempoError(f"GET {response.url} returned {status}: {grafana}.", reason=reason, status=status)
    text = excerpt(mask(_body_start(response)))
    if text.startswith("<"):
        text = "an HTML page"
    summary = f"GET {response.url} returned {status}" + (f": {text}" if text else "")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        advice = "Check tempo.tenant (required by a multitenant Tempo) and tempo.auth_token or tempo.basic_auth"
        return TempoError(f"{summary}. {advice}.", reason="unauthorized", status=status)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TempoError(
            f"{summary}. If this persists, lower tempo.requests_per_second or tempo.max_concurrency.",
            reason="rate_limited",
            retryable=True,
            status=status,
            retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After"), now),
        )
    if status in _GATEWAY_TIMEOUTS or (status >= 500 and _DEADLINE.search(text)):
        return TempoError(
            f"{summary}. Tempo took too long for the gateway in front of it, or for its own time-out: raise that, or "
            f"lower polling.backfill_batch, so that a search is shorter.",
            reason="server_error",
            retryable=True,
            status=status,
            retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After"), now),
            is_slow=True,
        )
    if status >= 500:
        return TempoError(
            f"{summary}. Tempo, or a gateway in front of it, has a problem: see its log.",
            reason="server_error",
            retryable=True,
            status=status,
            retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After"), now),
        )
    if 400 <= status < 500:
        return _refusal(response, summary)
    return TempoError(f"{summary}, which is not a search response. {_CHECK_URL}.", reason="malformed", status=status)


def _grafana(response: HttpResponse) -> str:
    """Return what to do if Grafana itself responded; empty if it did not.

    Grafana has an ``/api/search`` of its own, which returns a list of dashboards; its errors have a ``messageId``.
    """
    is_ok = response.status == HTTPStatus.OK
    is_list = response.url.endswith("/api/search") and _is_list_of_objects(response.body)
    if not (is_list if is_ok else b'"messageId"' in response.body[:_EXCERPT_BYTES]):
        return ""
    base, found, _ = response.url.partition("/api/")
    if not found or "/api/datasources/" in response.url:
        return ""
    return (
        f"this is Grafana, not Tempo. Set tempo.url to Tempo itself, or to {base}/api/datasources/proxy/uid/<uid> with "
        f"the uid of the Tempo data source, and tempo.auth_token to the token of a service account"
    )


def _is_list_of_objects(body: bytes) -> bool:
    if len(body) > _MAX_LIST_BYTES:
        return False
    try:
        msgspec.json.decode(body, type=list[dict[str, msgspec.Raw]])
    except (ValueError, RecursionError):
        return False
    return True


def _redirect(response: HttpResponse, mask: Callable[[str], str]) -> TempoError:
    try:
        location = urlsplit(response.headers.get("Location", ""))
        # Credentials and query do not belong in a log.
        target = location._replace(netloc=location.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        target = ""
    message = (
        f"GET {response.url} returned {response.status}, a redirect to {excerpt(mask(target)) or 'no valid address'}. "
        f"Redirects are not followed, because that could send credentials to another host. Set tempo.url to the final "
        f"address; if that is a login page, configure the credentials that it requires."
    )
    return TempoError(message, reason="redirect", status=response.status)


def _refusal(response: HttpResponse, summary: str) -> TempoError:
    status = response.status
    text = _body_start(response)
    if status == HTTPStatus.NOT_FOUND:
        return TempoError(f"{summary}. {_CHECK_URL}.", reason="refused", status=status)
    if (match := _MAX_LIMIT.search(text)) and int(match[1]):
        message = f"{summary}. Set tempo.limit to {match[1]} or less."
        return LimitTooHighError(message, max_limit=int(match[1]), status=status)
    if (match := _MAX_SPANS.search(text)) and int(match[1]):
        return TooManySpansError(f"{summary}.", max_spans=int(match[1]), status=status)
    if (match := _MAX_RANGE.search(text)) and (seconds := go_duration_seconds(match[1])) >= 1:
        return RangeTooLongError(f"{summary}. Request a shorter range.", max_seconds=int(seconds), status=status)
    if status == HTTPStatus.BAD_REQUEST and _TOO_OLD.search(text):
        message = f"{summary}. The exporter needs Tempo 2.5 or newer: older versions do not know nestedSetParent."
        return TempoError(message, reason="refused", status=status)
    return TempoError(f"{summary}. If Tempo rejects the query, check tempo.filter.", reason="refused", status=status)


def go_duration_seconds(text: str) -> float:
    """Parse a duration as Go prints it, such as ``168h0m0s``; 0 if it is not one."""
    parts = _GO_DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        return 0.0
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Parse a ``Retry-After`` header, which holds seconds or a date (RFC 9110, 10.2.3); None if it is invalid.

    Args:
        value: the header.
        now: Unix seconds.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def not_json(response: HttpResponse, mask: Callable[[str], str]) -> TempoError:
    """Return the error for a body with status 200 that cannot be decoded."""
    if grafana := _grafana(response):
        return TempoError(f"GET {response.url} returned a list: {grafana}.", reason="malformed", status=response.status)
    content_type = excerpt(mask(response.headers.get("Content-Type", ""))) or "no content type"
    first = response.body.lstrip()[:1]
    if first == b"<" or "html" in content_type.lower():
        advice = f"It may be the login or error page of a proxy. {_CHECK_URL}, and check the credentials"
    elif first == b"{" or "json" in content_type.lower():
        advice = "It was cut off or damaged in transit, or is not the response to this request"
    else:
        advice = _CHECK_URL
    text = excerpt(mask(_body_start(response)))
    return TempoError(
        f"GET {response.url} returned 200 with {len(response.body)} bytes ({content_type}) that are not a Tempo "
        f"response: {text or 'empty'}. {advice}.",
        reason="malformed",
        retryable=True,
        status=response.status,
    )


def timed_out(
    url: str, seconds: float, proxy: EnvironmentProxy | None = None, *, was_connected: bool = True
) -> TempoError:
    """Return the error for a request that exceeded the timeout as a whole, or for connecting."""
    message = (
        f"GET {url} timed out: no complete response within {seconds:g} s. If Tempo is just slow, raise tempo.timeout, "
        f"or lower polling.backfill_batch."
    )
    if proxy is not None:
        message += f" {proxy.advice}."
    return TempoError(message, reason="timeout", retryable=True, is_slow=was_connected)


def too_large(url: str, max_bytes: int) -> TempoError:
    """Return the error for a body that exceeds the size limit."""
    message = f"GET {url} returned more than {max_bytes} bytes, and reading stopped there. Lower tempo.limit."
    return TempoError(message, reason="malformed", status=200)


def transport_failure(
    url: str,
    error: Exception,
    timeout_seconds: float,
    proxy: EnvironmentProxy | None = None,
    *,
    elapsed_seconds: float = 0.0,
) -> TempoError:
    """Return the error for an exception of the HTTP library.

    The exception's own text is not used: it may quote headers and proxy URLs with credentials.

    Args:
        url: the requested URL without query and credentials.
        error: the exception.
        timeout_seconds: how long the request was allowed to take.
        proxy: the proxy that the request was sent through.
        elapsed_seconds: how long the request took until it failed.
    """
    causes = list(_causes(error))
    if untrusted := _first(causes, ssl.SSLCertVerificationError):
        message = (
            f"GET {url} failed: the server's certificate is not trusted ({excerpt(untrusted.verify_message)}). Set "
            f"tempo.tls.ca_file to the CA that signed it."
        )
        return TempoError(message, reason="tls")
    if any(isinstance(cause, _TIMEOUTS) and not isinstance(cause, _NO_TIMEOUT) for cause in causes):
        was_connected = _first(causes, requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError) is None
        return timed_out(url, timeout_seconds, proxy, was_connected=was_connected)
    if _first(causes, requests.exceptions.SSLError, ssl.SSLError, urllib3.exceptions.SSLError):
        reasons = (getattr(cause, "reason", None) for cause in causes if isinstance(cause, ssl.SSLError))
        detail = next(filter(None, reasons), "no details")
        message = f"GET {url} failed: TLS error ({excerpt(detail)}). Check tempo.tls, and that this port uses TLS."
        return TempoError(message, reason="tls", retryable=True)
    if isinstance(error, _DAMAGED):
        message = f"GET {url} failed: the response was cut off or damaged in transit."
        return TempoError(message, reason="malformed", retryable=True)
    is_missing = isinstance(error, requests.exceptions.InvalidSchema)  # requests needs another package for SOCKS
    if isinstance(error, ValueError) and proxy is not None and (proxy.problem or is_missing):
        problem = proxy.problem or "the Python package PySocks is not installed"
        message = (
            f"GET {url} could not be sent: the proxy in {proxy.variable} ({proxy.address}) cannot be used, because "
            f"{problem}. Set another one, or list Tempo's host in NO_PROXY to connect without it."
        )
        return TempoError(message, reason="connection")
    if isinstance(error, ValueError):
        message = (
            f"GET {url} could not be sent ({type(error).__name__}). Check tempo.url, tempo.tenant, tempo.headers and "
            f"the credentials for invalid characters."
        )
        return TempoError(message, reason="connection")
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        message = f"GET {url} could not be sent: a file configured in tempo.tls is missing or unreadable."
        return TempoError(message, reason="tls")
    detail, reason = connection_problem(error)
    if detail == _CLOSED and elapsed_seconds >= _CLOSED_LATE_SECONDS:
        message = (
            f"GET {url} failed: the connection was closed after {elapsed_seconds:.0f} s without a response. Tempo may "
            f"have taken longer than its server.http_server_write_timeout (30 s by default) or than a gateway allows: "
            f"raise that, or lower polling.backfill_batch, so that a search is shorter."
        )
        return TempoError(message, reason=reason, retryable=True, is_slow=True)
    advice = "Check that Tempo is running and that tempo.url is correct" + (f". {proxy.advice}" if proxy else "")
    return TempoError(f"GET {url} failed: {detail}. {advice}.", reason=reason, retryable=True)


def connection_problem(error: Exception) -> tuple[str, FailureReason]:
    """Return why no response arrived, in words and as a reason; the exception's own text is not used."""
    causes = list(_causes(error))
    if _first(causes, socket.gaierror):
        return "the host name cannot be resolved", "connection"
    is_proxy = _first(causes, requests.exceptions.ProxyError, urllib3.exceptions.ProxyError)
    if is_proxy or any(type(cause).__module__ == "socks" for cause in causes):
        return "the proxy from the environment did not work", "connection"
    if _first(causes, ConnectionRefusedError):
        return "connection refused", "connection"
    if _first(causes, ConnectionError):
        return _CLOSED, "connection"
    system = next((e for e in causes if isinstance(e, OSError) and e.strerror and e.errno), None)
    if system is not None:
        return excerpt(system.strerror or ""), "connection"
    if any(type(e).__module__ == "http.client" for e in causes):
        return "the server does not speak HTTP", "malformed"
    return f"no connection ({type(causes[0]).__name__})", "connection"


def is_untrusted(error: Exception) -> bool:
    """Whether no connection was made because the server's certificate is not trusted."""
    return _first(list(_causes(error)), ssl.SSLCertVerificationError) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and everything it wraps; urllib3 and requests also keep causes in ``args`` and ``reason``."""
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        cause = pending.pop(0)
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        pending += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def _first(causes: list[BaseException], *kinds: type[_E]) -> _E | None:
    return next((cause for cause in causes if isinstance(cause, kinds)), None)
