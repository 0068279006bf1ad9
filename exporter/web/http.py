"""A WSGI application small enough to read: exact paths, GET and HEAD, and the headers that every answer has."""

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
"""A page is made of what this exporter serves as files, and of nothing that stands inside of it: a name from Tempo that
found its way into a page as markup would still be no script and no style."""

_SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
)
API_PATHS = "/api/"
"""What begins so is for programs."""
_CACHE_CONTROL = ("Cache-Control", "no-store")
"""Unless a page says otherwise: what is served is true for seconds, and may be for those with a password only."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a page needs of a request."""

    path: str
    query: Mapping[str, list[str]]
    accept: str
    accepts_gzip: bool


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer; the length is added.

    Attributes:
        content: the answer, or what comes after ``before``.
        content_type: what it is.
        status: the HTTP status.
        headers: further headers.
        before: what comes first of a large answer and is kept for all who ask: none of them is sent a copy.
    """

    content: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = field(default=())
    before: bytes = b""

    @property
    def body(self) -> bytes:
        """The whole answer in one piece."""
        return self.before + self.content


def text(message: str, status: HTTPStatus = HTTPStatus.OK) -> HttpResponse:
    """A line for people and probes."""
    return HttpResponse(f"{message}\n".encode(), status=status)


def problem(
    status: HTTPStatus, detail: str, *, headers: tuple[tuple[str, str], ...] = (), **members: object
) -> HttpResponse:
    """An error for programs: problem details in JSON (RFC 9457).

    Args:
        status: the HTTP status.
        detail: what happened and what to do.
        headers: further headers.
        members: what programs may want to know besides.
    """
    document = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail, **members}
    return HttpResponse(json.dumps(document).encode(), "application/problem+json", status, headers)


def refusal(path: str, status: HTTPStatus, message: str, headers: tuple[tuple[str, str], ...] = ()) -> HttpResponse:
    """An error as whoever asks for a path expects it: programs below ``/api/``, people elsewhere."""
    if path.startswith(API_PATHS):
        return problem(status, message, headers=headers)
    return replace(text(message, status), headers=headers)


def deliver(response: HttpResponse, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Send an answer, with the headers that every answer has."""
    given = {name.lower() for name, _ in response.headers}
    headers = [
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.before) + len(response.content))),
        *response.headers,
        *(header for header in (*_SECURITY_HEADERS, _CACHE_CONTROL) if header[0].lower() not in given),
    ]
    start_response(f"{response.status.value} {response.status.phrase}", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [part for part in (response.before, response.content) if part]


Page = Callable[[HttpRequest], HttpResponse]


class Site:
    """Serves pages by their exact path."""

    def __init__(self, pages: Mapping[str, Page], log: Log) -> None:
        self._pages = dict(pages)
        self._log = log

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request; a page that raises is a 500 and a line in the log, never a dead worker."""
        return deliver(self._answer(environ["REQUEST_METHOD"], environ), environ, start_response)

    def _answer(self, method: str, environ: "WSGIEnvironment") -> HttpResponse:
        path = environ.get("PATH_INFO", "")
        page = self._pages.get(path)
        if page is None:
            return refusal(path, HTTPStatus.NOT_FOUND, "There is nothing here; the status page is at /")
        if method not in ("GET", "HEAD"):
            allowed = (("Allow", "GET, HEAD"),)
            return refusal(path, HTTPStatus.METHOD_NOT_ALLOWED, "This address can only be read", allowed)
        request = HttpRequest(
            path=path,
            query=parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True),
            accept=environ.get("HTTP_ACCEPT", ""),
            accepts_gzip=_accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")),
        )
        try:
            return page(request)
        except Exception:  # noqa: BLE001 - whatever it is, the next request must be answered
            self._log.exception("page_failed", "a page failed", path=path)
            said = "This page failed; the exporter's log says why"
            return refusal(path, HTTPStatus.INTERNAL_SERVER_ERROR, said)


class Accepted(NamedTuple):
    """Something that a client accepts.

    Attributes:
        name: an encoding or a media type, in lower case.
        parameters: what stands behind it, names in lower case.
        weight: how much it is preferred; 0 refuses it.
    """

    name: str
    parameters: Mapping[str, str]
    weight: float


def accepted(header: str) -> list[Accepted]:
    """What a header of the ``Accept`` kind says (RFC 9110, 12.4.2); what has no valid weight is refused."""
    items = []
    for item in header.split(","):
        name, *rest = (part.strip() for part in item.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip().lower(): value.strip() for key, _, value in pairs}
        weight = parameters.pop("q", "1")
        valid = re.fullmatch(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", weight)
        items.append(Accepted(name.lower(), parameters, float(weight) if valid else 0.0))
    return items


def _accepts_gzip(accept_encoding: str) -> bool:
    """Whether gzip is among the encodings accepted (RFC 9110, 12.5.3)."""
    weights = {item.name: item.weight for item in accepted(accept_encoding)}
    return weights.get("gzip", weights.get("*", 0.0)) > 0
