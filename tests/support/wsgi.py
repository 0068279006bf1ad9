"""Requests to a WSGI application, without a server."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication


class WsgiResponse(NamedTuple):
    status: str
    headers: dict[str, str]
    body: bytes


def ask(site: "WSGIApplication", path: str, method: str = "GET", query: str = "", **headers: str) -> WsgiResponse:
    """Send a request; the validator of the standard library checks that both sides keep to WSGI."""
    environ: dict[str, object] = {"PATH_INFO": path, "SCRIPT_NAME": "", "REQUEST_METHOD": method, "QUERY_STRING": query}
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    setup_testing_defaults(environ)
    started: list[tuple[str, dict[str, str]]] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: "OptExcInfo | None" = None
    ) -> Callable[[bytes], object]:
        assert exc_info is None
        assert len({name.lower() for name, _ in headers}) == len(headers)
        started.append((status, dict(headers)))
        return lambda data: None

    chunks: Iterable[bytes] = validator(site)(environ, start_response)
    body = b"".join(chunks)
    chunks.close()  # type: ignore[attr-defined]
    ((status, found),) = started
    return WsgiResponse(status, found, body)
