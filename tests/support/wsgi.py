"""Requests to a WSGI application, without a server or with one on the loopback interface."""

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication


class WsgiResponse(NamedTuple):
    status: str
    headers: dict[str, str]
    body: bytes


def ask(
    site: "WSGIApplication",
    path: str,
    method: str = "GET",
    query: str = "",
    body: bytes = b"",
    content_type: str = "",
    **headers: str,
) -> WsgiResponse:
    """Send a request; the validator of the standard library checks that both sides keep to WSGI."""
    environ: dict[str, object] = {"PATH_INFO": path, "SCRIPT_NAME": "", "REQUEST_METHOD": method, "QUERY_STRING": query}
    if body:
        environ |= {
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": content_type,
        }
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


class _QuietHandler(WSGIRequestHandler):
    """Writes no log."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(site: "WSGIApplication") -> Iterator[str]:
    """Serve an application on the loopback interface; yields its URL."""
    with make_server("127.0.0.1", 0, site, handler_class=_QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
