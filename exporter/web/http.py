"""A minimal WSGI application: exact paths, GET and HEAD, and the headers that every response has."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

from exporter.runtime.logs import Log

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Allows files served by this exporter and nothing inline: even if a span name got into a page as markup, the browser
would run no script and apply no style of it."""

_SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
)
API_PATHS = "/api/"
"""Prefix of the paths whose errors are JSON."""
_CACHE_CONTROL = ("Cache-Control", "no-store")
"""Default of all responses: they are valid for seconds, and may be restricted to authenticated users."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The parts of a request that handlers use.

    Attributes:
        path: its path.
        query: parameters of the query string.
        accept: the header ``Accept``.
        accepts_gzip: whether the client accepts gzip.
        content_type: media type of the body, in lower case; empty without one.
        body: the body of a request that writes.
        accept_language: the header ``Accept-Language``.
    """

    path: str
    query: Mapping[str, list[str]]
    accept: str
    accepts_gzip: bool
    content_type: str = ""
    body: bytes = b""
    accept_language: str = ""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response; its length header is added when it is sent.

    Attributes:
        content: the body, or the rest of it after ``prefix``.
        content_type: media type.
        status: status code.
        headers: further headers.
        prefix: first parts of a large body, shared by the responses to all clients without copying them.
    """

    content: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = field(default=())
    prefix: tuple[bytes, ...] = ()

    @property
    def body(self) -> bytes:
        """The whole body as one copy."""
        return b"".join((*self.prefix, self.content))


Handler = Callable[[HttpRequest], HttpResponse]


def text_response(message: str, status: HTTPStatus = HTTPStatus.OK) -> HttpResponse:
    """Build a response of one line of text."""
    return HttpResponse(f"{message}\n".encode(), status=status)


def problem_response(
    status: HTTPStatus, detail: str, *, headers: tuple[tuple[str, str], ...] = (), **members: object
) -> HttpResponse:
    """Build a JSON error: problem details (RFC 9457).

    Args:
        status: status code.
        detail: what happened, and what the client can do.
        headers: further headers.
        members: further members of the document.
    """
    document = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail, **members}
    return HttpResponse(json.dumps(document).encode(), "application/problem+json", status, headers)


def error_response(
    path: str, status: HTTPStatus, message: str, headers: tuple[tuple[str, str], ...] = ()
) -> HttpResponse:
    """Build an error in the format of the path: JSON below ``/api/``, text elsewhere."""
    if path.startswith(API_PATHS):
        return problem_response(status, message, headers=headers)
    return replace(text_response(message, status), headers=headers)


def send_response(
    response: HttpResponse, environ: "WSGIEnvironment", start_response: "StartResponse"
) -> Iterable[bytes]:
    """Send a response by WSGI, with the headers that every response has."""
    given = {name.lower() for name, _ in response.headers}
    headers = [
        ("Content-Type", response.content_type),
        ("Content-Length", str(sum(map(len, response.prefix)) + len(response.content))),
        *response.headers,
        *(header for header in (*_SECURITY_HEADERS, _CACHE_CONTROL) if header[0].lower() not in given),
    ]
    start_response(f"{response.status.value} {response.status.phrase}", headers)
    if environ["REQUEST_METHOD"] == "HEAD":
        return []
    return [chunk for chunk in (*response.prefix, response.content) if chunk]


class Site:
    """The WSGI application: calls the handler of an exact path."""

    def __init__(
        self, handlers: Mapping[str, Handler], log: Log, writers: Mapping[tuple[str, str], Handler] | None = None
    ) -> None:
        """Take the handlers.

        Args:
            handlers: handlers of GET and HEAD by path.
            log: receives failures.
            writers: handlers of other methods, by method and path, of paths that have one for GET.
        """
        self._handlers = dict(handlers)
        self._writers = dict(writers or {})
        self._log = log

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Handle one request. If the handler raises, log the traceback and respond with status 500."""
        return send_response(self._respond(environ["REQUEST_METHOD"], environ), environ, start_response)

    def _respond(self, method: str, environ: "WSGIEnvironment") -> HttpResponse:
        path = environ.get("PATH_INFO", "")
        handler = self._handlers.get(path)
        if handler is None:
            return error_response(path, HTTPStatus.NOT_FOUND, "Not found; the status page is at /")
        is_writing = method not in ("GET", "HEAD")
        if is_writing:
            writer = self._writers.get((method, path))
            if writer is None:
                methods = ["GET", "HEAD", *(each for each, of_path in self._writers if of_path == path)]
                allowed = (("Allow", ", ".join(methods)),)
                message = f"Method not allowed; this path supports {', '.join(methods[:-1])} and {methods[-1]}"
                return error_response(path, HTTPStatus.METHOD_NOT_ALLOWED, message, allowed)
            handler = writer
        request = HttpRequest(
            path=path,
            query=parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True),
            accept=environ.get("HTTP_ACCEPT", ""),
            accepts_gzip=_accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")),
            content_type=environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower(),
            # The server limits its length.
            body=_body(environ) if is_writing else b"",
            accept_language=environ.get("HTTP_ACCEPT_LANGUAGE", ""),
        )
        try:
            return handler(request)
        except Exception:  # noqa: BLE001 - any error: the worker must survive it
            self._log.exception("page_failed", "a page failed", path=path)
            message = "Internal error; see the exporter's log"
            return error_response(path, HTTPStatus.INTERNAL_SERVER_ERROR, message)


def _body(environ: "WSGIEnvironment") -> bytes:
    length = environ.get("CONTENT_LENGTH") or "0"
    body: bytes = environ["wsgi.input"].read(int(length)) if length.isdecimal() else b""
    return body


class AcceptItem(NamedTuple):
    """One item of an ``Accept`` header.

    Attributes:
        name: encoding, media type or language range, in lower case.
        parameters: its parameters except the weight, names in lower case.
        weight: preference from 0 (not acceptable) to 1.
    """

    name: str
    parameters: Mapping[str, str]
    weight: float


def parse_accept(header: str) -> list[AcceptItem]:
    """Parse a header of the ``Accept`` family (RFC 9110, 12.4.2); an item with an invalid weight gets weight 0."""
    items = []
    for item in header.split(","):
        name, *rest = (part.strip() for part in item.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip().lower(): value.strip() for key, _, value in pairs}
        weight = parameters.pop("q", "1")
        valid = re.fullmatch(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", weight)
        items.append(AcceptItem(name.lower(), parameters, float(weight) if valid else 0.0))
    return items


def _accepts_gzip(accept_encoding: str) -> bool:
    """Whether an ``Accept-Encoding`` header (RFC 9110, 12.5.3) accepts gzip."""
    weights = {item.name: item.weight for item in parse_accept(accept_encoding)}
    return weights.get("gzip", weights.get("*", 0.0)) > 0
