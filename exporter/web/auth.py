"""Stands before the site: lets those in who may read, and puts the headers on that ``web.config_file`` asks for."""

import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from exporter.runtime.logs import Log
from exporter.web.config_reload import WebConfigReloader
from exporter.web.http import HttpResponse, deliver, refusal
from exporter.web.passwords import PasswordCheck
from exporter.web.server.workers import workers_for

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OPEN_PATHS: Final = frozenset({"/-/healthy", "/-/ready"})
"""Probes have no password, and learn nothing but that the process works."""

_SAY_AGAIN_SECONDS: Final = 600
_REALM: Final = 'Basic realm="tempo-anomaly-exporter", charset="UTF-8"'


class BasicAuthMiddleware:
    """The site behind the rules in force."""

    def __init__(
        self,
        site: "WSGIApplication",
        protection: WebConfigReloader,
        log: Log,
        *,
        on_refused: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Guard a site.

        Args:
            site: what is served.
            protection: holds the rules.
            log: is told of refusals, once in a while.
            on_refused: is told of each request without a right password.
            monotonic: seconds that never jump.
        """
        self._site = site
        self._protection = protection
        self._log = log.limited(_SAY_AGAIN_SECONDS, monotonic)
        self._on_refused = on_refused

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        rules = self._protection.rules
        begin = _with_headers(start_response, rules.headers) if rules.headers else start_response
        path = environ.get("PATH_INFO", "")
        if rules.passwords is None or path in OPEN_PATHS:
            return self._site(environ, begin)
        verdict = rules.passwords.judge(environ.get("HTTP_AUTHORIZATION", ""), workers_for(path))
        if verdict is PasswordCheck.WELCOME:
            return self._site(environ, begin)
        return deliver(self._refusal(verdict, environ), environ, begin)

    def _refusal(self, verdict: PasswordCheck, environ: "WSGIEnvironment") -> HttpResponse:
        path = environ.get("PATH_INFO", "")
        if verdict is PasswordCheck.BUSY:
            message = "Too many passwords are being checked; come again"
            return refusal(path, HTTPStatus.SERVICE_UNAVAILABLE, message, (("Retry-After", "1"),))
        self._on_refused()
        # Not the user's name: people type passwords there.
        self._log.warning(
            "auth_failed", "refused a request without valid credentials", client=environ.get("REMOTE_ADDR", "")
        )
        message = "This needs a user and a password"
        return refusal(path, HTTPStatus.UNAUTHORIZED, message, (("WWW-Authenticate", _REALM),))


def _with_headers(start_response: "StartResponse", wanted: Mapping[str, str]) -> "StartResponse":
    """The same, with some headers in place of those that an answer would have."""
    replaced = {name.lower() for name in wanted}
    added = [(name, value) for name, value in wanted.items() if value]

    def begin(
        status: str, headers: list[tuple[str, str]], exc_info: "OptExcInfo | None" = None, /
    ) -> Callable[[bytes], object]:
        kept = [header for header in headers if header[0].lower() not in replaced]
        return start_response(status, [*kept, *added], exc_info)

    return begin
