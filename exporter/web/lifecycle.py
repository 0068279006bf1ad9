"""``POST /-/reload``: reloads the configuration, as in Prometheus."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from exporter.web.http import error_response, send_response, text_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_PATH: Final = "/-/reload"


class LifecycleMiddleware:
    """Answers requests to reload the configuration, and passes on all others.

    It stands before the site, because a reload replaces that.
    """

    def __init__(self, application: "WSGIApplication", reload: Callable[[], str] | None) -> None:
        """Wrap an application.

        Args:
            application: answers all other requests.
            reload: reloads the configuration and returns what has changed; raises an exception with a message for
                people if that fails. None if it is not allowed.
        """
        self._application = application
        self._reload = reload

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        if environ.get("PATH_INFO") != _PATH:
            return self._application(environ, start_response)
        if self._reload is None:
            message = "Reloading over HTTP is off: set web.enable_lifecycle to true and restart, or send SIGHUP"
            response = error_response(_PATH, HTTPStatus.FORBIDDEN, message)
        elif environ["REQUEST_METHOD"] not in ("POST", "PUT"):
            allowed = (("Allow", "POST, PUT"),)
            message = "Method not allowed; reload with POST or PUT"
            response = error_response(_PATH, HTTPStatus.METHOD_NOT_ALLOWED, message, allowed)
        else:
            try:
                response = text_response(self._reload())
            except Exception as error:  # noqa: BLE001 - the client learns why any reload failed
                message = f"The configuration was not reloaded; the previous one stays in use. {error}"
                response = error_response(_PATH, HTTPStatus.INTERNAL_SERVER_ERROR, message)
        return send_response(response, environ, start_response)
