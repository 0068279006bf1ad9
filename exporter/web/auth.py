"""WSGI middleware for basic authentication, and for the response headers of ``web.config_file``."""

import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from exporter.runtime.logs import Log
from exporter.web.config_reload import WebConfigReloader
from exporter.web.http import HttpResponse, error_response, send_response
from exporter.web.passwords import PasswordCheck
from exporter.web.server.workers import worker_group

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OPEN_PATHS: Final = frozenset({"/-/healthy", "/-/ready"})
"""Served without a password: probes rarely have one, and these reveal only that the process works."""

_LOG_INTERVAL_SECONDS: Final = 600
_REALM: Final = 'Basic realm="tempo-anomaly-exporter", charset="UTF-8"'


class BasicAuthMiddleware:
    """Passes on requests with valid credentials, or all requests if no users are configured."""

    def __init__(
        self,
        application: "WSGIApplication",
        reloader: WebConfigReloader,
        log: Log,
        *,
        on_refused: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wrap an application.

        Args:
            application: handles the requests that are passed on.
            reloader: holds the users and headers in use.
            log: receives refused requests, rate-limited.
            on_refused: called for each request without valid credentials.
            monotonic: the clock of the rate limit.
        """
        self._application = application
        self._reloader = reloader
        self._log = log.limited(_LOG_INTERVAL_SECONDS, monotonic)
        self._on_refused = on_refused

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Handle one request."""
        state = self._reloader.state
        start = _replacing_headers(start_response, state.headers) if state.headers else start_response
        path = environ.get("PATH_INFO", "")
        if state.passwords is None or path in OPEN_PATHS:
            return self._application(environ, start)
        result = state.passwords.check(environ.get("HTTP_AUTHORIZATION", ""), worker_group(path))
        if result is PasswordCheck.ACCEPTED:
            return self._application(environ, start)
        return send_response(self._refusal(result, environ), environ, start)

    def _refusal(self, result: PasswordCheck, environ: "WSGIEnvironment") -> HttpResponse:
        path = environ.get("PATH_INFO", "")
        if result is PasswordCheck.BUSY:
            message = "Too many passwords are being checked; try again in a moment"
            return error_response(path, HTTPStatus.SERVICE_UNAVAILABLE, message, (("Retry-After", "1"),))
        self._on_refused()
        # The user name is not logged: people mistype their password there.
        self._log.warning(
            "auth_failed", "refused a request without valid credentials", client=environ.get("REMOTE_ADDR", "")
        )
        message = "A valid user name and password are required"
        return error_response(path, HTTPStatus.UNAUTHORIZED, message, (("WWW-Authenticate", _REALM),))


def _replacing_headers(start_response: "StartResponse", headers: Mapping[str, str]) -> "StartResponse":
    """Wrap ``start_response`` so that these headers replace those of the response; an empty one is removed."""
    replaced = {name.lower() for name in headers}
    added = [(name, value) for name, value in headers.items() if value]

    def start(
        status: str, headers: list[tuple[str, str]], exc_info: "OptExcInfo | None" = None, /
    ) -> Callable[[bytes], object]:
        kept = [header for header in headers if header[0].lower() not in replaced]
        return start_response(status, [*kept, *added], exc_info)

    return start
