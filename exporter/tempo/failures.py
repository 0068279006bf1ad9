"""Turns what came instead of an answer into an error that says what to do. Pure functions."""

import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from exporter.runtime.telemetry import FailureReason
from exporter.tempo.errors import LimitTooHighError, RangeTooLongError, TempoError, TooManySpansError

_E = TypeVar("_E", bound=BaseException)

_EXCERPT_CHARACTERS: Final = 200
_EXCERPT_BYTES: Final = 8 * _EXCERPT_CHARACTERS
_CHECK_URL: Final = "Check that tempo.url is the base of Tempo's HTTP API (usually port 3200), prefix included"

# Tempo's refusals, worded the same in 2.10 and 3.0.
_MAX_LIMIT: Final = re.compile(r"limit \d+ exceeds max limit (\d{1,9})\b")
_MAX_SPANS: Final = re.compile(r"spans per span set exceeds (\d{1,9})\b")
_MAX_RANGE: Final = re.compile(
    r"(?:range [^.\n]{0,80} exceeds|maximum allowed duration of) (\d[\d.hmsnuµμ]*[hms])(?!\w)"
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
"""What reading a body ends with: by requests where it comes in chunks, by urllib3 where it comes at once."""
_NO_TIMEOUT: Final = urllib3.exceptions.NewConnectionError
"""A kind of timeout to urllib3, but it stands for every way in which a connection cannot be made."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An HTTP response that was read to its end.

    Attributes:
        url: what was asked, without query and credentials.
        status: the HTTP status.
        headers: the response's headers; lookup does not mind case.
        body: the body, decompressed.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


def excerpt(text: str) -> str:
    """The beginning of a text that somebody else wrote: short, on one line, printable."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _EXCERPT_CHARACTERS else line[: _EXCERPT_CHARACTERS - 1] + "…"


def _beginning(answer: HttpAnswer) -> str:
    return answer.body[:_EXCERPT_BYTES].decode("utf-8", "replace")


def status_failure(answer: HttpAnswer, now: float, mask: Callable[[str], str]) -> TempoError | None:
    """The failure that an HTTP status stands for, or None for 200.

    Args:
        answer: the response.
        now: unix seconds, for a ``Retry-After`` that names a date.
        mask: takes the secrets out of a text.
    """
    status = answer.status
    if status == HTTPStatus.OK:
        return None
    if 300 <= status < 400:
        return _redirect(answer, mask)
    said = excerpt(mask(_beginning(answer)))
    if said.startswith("<"):
        said = "an HTML page"
    what = f"GET {answer.url} answered {status}" + (f": {said}" if said else "")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        advice = "Check tempo.tenant (Tempo with multitenancy wants one) and tempo.auth_token or tempo.basic_auth"
        return TempoError(f"{what}. {advice}.", reason="unauthorized", status=status)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TempoError(
            f"{what}. Lower tempo.requests_per_second or tempo.max_concurrency if this goes on.",
            reason="rate_limited",
            retryable=True,
            status=status,
            retry_after_seconds=retry_after_seconds(answer.headers.get("Retry-After"), now),
        )
    if status >= 500:
        return TempoError(
            f"{what}. Tempo, or a gateway before it, is in trouble: see its log.",
            reason="server_error",
            retryable=True,
            status=status,
            retry_after_seconds=retry_after_seconds(answer.headers.get("Retry-After"), now),
        )
    if 400 <= status < 500:
        return _refusal(answer, what)
    return TempoError(f"{what}, which is no answer to a search. {_CHECK_URL}.", reason="malformed", status=status)


def _redirect(answer: HttpAnswer, mask: Callable[[str], str]) -> TempoError:
    try:
        target = urlsplit(answer.headers.get("Location", ""))
        # Neither credentials nor a query: they are not for a log.
        where = target._replace(netloc=target.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        where = ""
    message = (
        f"GET {answer.url} answered {answer.status}, a redirect to {excerpt(mask(where)) or 'nowhere'}. Redirects "
        f"are not followed, as that would give credentials away. Set tempo.url to the final address, or, where that "
        f"is a login page, set the credentials that it wants."
    )
    return TempoError(message, reason="redirect", status=answer.status)


def _refusal(answer: HttpAnswer, what: str) -> TempoError:
    status = answer.status
    text = _beginning(answer)
    if status == HTTPStatus.NOT_FOUND:
        return TempoError(f"{what}. {_CHECK_URL}.", reason="refused", status=status)
    if (found := _MAX_LIMIT.search(text)) and int(found[1]):
        message = f"{what}. Set tempo.limit to {found[1]} or less."
        return LimitTooHighError(message, max_limit=int(found[1]), status=status)
    if (found := _MAX_SPANS.search(text)) and int(found[1]):
        return TooManySpansError(f"{what}.", max_spans=int(found[1]), status=status)
    if (found := _MAX_RANGE.search(text)) and (seconds := go_duration_seconds(found[1])) >= 1:
        return RangeTooLongError(f"{what}. Ask for less at once.", max_seconds=int(seconds), status=status)
    return TempoError(f"{what}. If Tempo cannot read the query, check tempo.filter.", reason="refused", status=status)


def go_duration_seconds(text: str) -> float:
    """The seconds of a duration as Go prints it, e.g. ``168h0m0s``; 0 where it is none."""
    parts = _GO_DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        return 0.0
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """What a ``Retry-After`` header asks for: seconds, or a date (RFC 9110, 10.2.3); None if it is unreadable.

    Args:
        value: the header.
        now: unix seconds.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def not_json(answer: HttpAnswer, mask: Callable[[str], str]) -> TempoError:
    """The failure of a body with status 200 that is not what was asked for."""
    kind = excerpt(mask(answer.headers.get("Content-Type", ""))) or "no content type"
    start = answer.body.lstrip()[:1]
    if start == b"<" or "html" in kind.lower():
        advice = f"A proxy's login or error page? {_CHECK_URL}, and that the credentials are right"
    elif start == b"{" or "json" in kind.lower():
        advice = "It was cut off or damaged on the way, or is no answer to a search"
    else:
        advice = _CHECK_URL
    said = excerpt(mask(_beginning(answer)))
    return TempoError(
        f"GET {answer.url} answered 200 with {len(answer.body)} bytes ({kind}) that are not a Tempo answer: "
        f"{said or 'nothing'}. {advice}.",
        reason="malformed",
        retryable=True,
        status=answer.status,
    )


def timed_out(url: str, seconds: float) -> TempoError:
    """The failure of a request that took too long as a whole."""
    message = f"GET {url} was not answered in full within {seconds:g} s. Raise tempo.timeout if Tempo is just slow."
    return TempoError(message, reason="timeout", retryable=True)


def too_large(url: str, max_bytes: int) -> TempoError:
    """The failure of an answer that is longer than is reasonable."""
    message = f"GET {url} answered with more than {max_bytes} bytes, which are not read. Lower tempo.limit."
    return TempoError(message, reason="malformed", status=200)


def transport_failure(url: str, error: Exception, timeout_seconds: float) -> TempoError:
    """The failure that an exception from the HTTP library stands for.

    The exception's own text is not used: it may quote headers and proxies with credentials.
    """
    causes = list(_causes(error))
    if found := _first(causes, ssl.SSLCertVerificationError):
        message = (
            f"GET {url}: the server's certificate is not trusted ({excerpt(found.verify_message)}). Set "
            f"tempo.tls.ca_file to the authority that signed it."
        )
        return TempoError(message, reason="tls")
    if any(isinstance(cause, _TIMEOUTS) and not isinstance(cause, _NO_TIMEOUT) for cause in causes):
        return timed_out(url, timeout_seconds)
    if _first(causes, requests.exceptions.SSLError, ssl.SSLError, urllib3.exceptions.SSLError):
        reasons = (getattr(cause, "reason", None) for cause in causes if isinstance(cause, ssl.SSLError))
        detail = next(filter(None, reasons), "no details")
        message = f"GET {url}: TLS failed ({excerpt(detail)}). Check tempo.tls, and that this port speaks TLS."
        return TempoError(message, reason="tls", retryable=True)
    if isinstance(error, _DAMAGED):
        message = f"GET {url}: the answer was cut off or damaged on the way."
        return TempoError(message, reason="malformed", retryable=True)
    if isinstance(error, ValueError):
        message = (
            f"GET {url} could not be sent ({type(error).__name__}). Check tempo.url, tempo.tenant, tempo.headers and "
            f"the credentials for characters that cannot be part of them."
        )
        return TempoError(message, reason="connection")
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        message = f"GET {url} could not be sent: a file named in tempo.tls is missing or cannot be read."
        return TempoError(message, reason="tls")
    detail, reason = why_no_connection(error)
    message = f"GET {url}: {detail}. Is Tempo running, and is tempo.url right?"
    return TempoError(message, reason=reason, retryable=True)


def why_no_connection(error: Exception) -> tuple[str, FailureReason]:
    """Why no answer came, in words and as a reason; the exception's own text is not used."""
    causes = list(_causes(error))
    if _first(causes, socket.gaierror):
        return "the host name is not known", "connection"
    if _first(causes, requests.exceptions.ProxyError, urllib3.exceptions.ProxyError):
        return "the proxy that the environment names does not answer as it should", "connection"
    if _first(causes, ConnectionRefusedError):
        return "connection refused", "connection"
    if _first(causes, ConnectionError):
        return "the connection was closed before the answer came", "connection"
    system = next((e for e in causes if isinstance(e, OSError) and e.strerror and e.errno), None)
    if system is not None:
        return excerpt(system.strerror or ""), "connection"
    if any(type(e).__module__ == "http.client" for e in causes):
        return "what answers there does not speak HTTP", "malformed"
    return f"no connection ({type(causes[0]).__name__})", "connection"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it wraps: urllib3 and requests put causes into arguments and ``reason``, too."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]


def _first(causes: list[BaseException], *kinds: type[_E]) -> _E | None:
    return next((cause for cause in causes if isinstance(cause, kinds)), None)
