"""One HTTP GET: signed, never redirected, over in time, and read to its end or not at all."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from exporter import __version__
from exporter.tempo.credentials import Credentials
from exporter.tempo.errors import StoppedError, TempoError
from exporter.tempo.failures import HttpAnswer, timed_out, too_large, transport_failure
from exporter.tempo.settings import ClientSettings
from exporter.tempo.watchdog import Line, Watchdog

Params = Mapping[str, str | int]

_CONNECT_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = 256 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
_FAILURES: Final = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)


class Transport:
    """Sends requests to one Tempo, from any number of threads.

    Connections are kept and used again. A session of requests is not made for several threads, so each request takes
    one out of a pool that grows to as many as are in use at once.

    Proxies from the environment are used; credentials from ``.netrc`` are not, and cookies are not kept.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        stop: threading.Event,
        monotonic: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._credentials = Credentials(settings)
        self._stop = stop
        self._watchdog = Watchdog(stop=stop, monotonic=monotonic)
        self._idle: deque[_Session] = deque()
        self._headers = _headers(settings)
        if settings.insecure_skip_verify:
            # The choice has been made and is in the configuration; the library would repeat it on every request.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def mask(self, text: str) -> str:
        """The text without the secrets that requests are sent with."""
        return self._credentials.mask(text)

    def get(self, path: str, params: Params) -> HttpAnswer:
        """Ask for a path below the base URL, and read the answer, whatever its status.

        Raises:
            TempoError: no whole HTTP answer came.
            StoppedError: the exporter is being stopped.
        """
        session = self._take()
        url = self._settings.base_url + path
        timeout = self._settings.timeout_seconds
        with self._watchdog.watch(session.line, timeout) as guard:
            outcome = self._outcome(session, url, params)
        if isinstance(outcome, HttpAnswer) and not guard.cut:
            self._idle.append(session)
            return outcome
        session.close()
        if guard.stopped:
            raise StoppedError("stopped while waiting for Tempo")
        # A line that was cut can look like an answer that ended, so what the watchdog did comes first.
        raise outcome if isinstance(outcome, TempoError) and not guard.expired else timed_out(url, timeout)

    def close(self) -> None:
        """Close the connections that are not in use."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _take(self) -> "_Session":
        if self._stop.is_set():
            raise StoppedError("stopped before asking Tempo")
        try:
            return self._idle.pop()
        except IndexError:
            return _Session(self._settings)

    def _outcome(self, session: "_Session", url: str, params: Params) -> HttpAnswer | TempoError:
        # Returned, not raised: a traceback would show the library's exceptions, which may quote secrets.
        try:
            return self._exchange(session, url, params)
        except TempoError as error:
            return error
        except _FAILURES as error:
            return transport_failure(url, error, self._settings.timeout_seconds)

    def _exchange(self, session: "_Session", url: str, params: Params) -> HttpAnswer:
        timeout = self._settings.timeout_seconds
        with session.get(
            url,
            params=params,
            headers=self._headers,
            auth=self._credentials,
            verify=session.verify,  # given here, or REQUESTS_CA_BUNDLE would overrule the configuration
            allow_redirects=False,
            stream=True,
            timeout=(min(timeout, _CONNECT_SECONDS), timeout),
        ) as response:
            body = self._read(response, url) if response.status_code == HTTPStatus.OK else _read_error(response)
            return HttpAnswer(url, response.status_code, response.headers, body)

    def _read(self, response: requests.Response, url: str) -> bytes:
        most = self._settings.max_body_bytes
        size = response.raw.length_remaining
        if size is not None and size <= most and "Content-Encoding" not in response.headers:
            # A length that is known needs no counting, and reading at once takes a quarter of the time.
            body: bytes = response.raw.read()
            return body
        chunks, size = [], 0
        for chunk in _chunks(response):
            size += len(chunk)
            if size > most:
                raise too_large(url, most)
            chunks.append(chunk)
        return b"".join(chunks)


def _chunks(response: requests.Response) -> Iterator[bytes]:
    chunks: Iterator[bytes] = response.iter_content(_CHUNK_BYTES)
    return chunks


def _read_error(response: requests.Response) -> bytes:
    """As much as is needed of a body that only explains the status, cut off or not."""
    body = b""
    with contextlib.suppress(*_FAILURES):
        for chunk in _chunks(response):
            body += chunk
            if len(body) > _MAX_ERROR_BYTES:
                break
    return body


def _headers(settings: ClientSettings) -> dict[str, str | bytes]:
    headers = {
        "User-Agent": f"tempo-anomaly-exporter/{__version__}",
        "Accept": "application/json",
        # Tempo would compress, and serving is what costs it most; whoever pays for the bytes sets this header.
        "Accept-Encoding": "identity",
    }
    if settings.tenant:
        headers["X-Scope-OrgID"] = settings.tenant
    given = {name.lower() for name in settings.headers}
    headers = {name: value for name, value in headers.items() if name.lower() not in given}
    # Bytes, as http.client would force text into Latin-1.
    return {name: value.encode() for name, value in {**headers, **settings.headers}.items()}


class _Session(requests.Session):
    """A session for one request at a time, whose line can be cut."""

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__()
        self.line = Line()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.verify = False if settings.insecure_skip_verify else settings.ca_file or True
        if settings.cert_file:
            self.cert = (settings.cert_file, settings.key_file) if settings.key_file else settings.cert_file
        adapter = _Adapter(self.line)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: even a redirect that is not followed would be resolved, and its whole body read for that."""


class _Adapter(HTTPAdapter):
    """Makes every connection show its socket to the line."""

    def __init__(self, line: Line) -> None:
        self._pools = _pool_classes(line)
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _pool_classes(line: Line) -> dict[str, type[HTTPConnectionPool]]:
    class Connection(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            line.socket = self.sock

    class TLSConnection(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            line.socket = self.sock

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TLSPool(HTTPSConnectionPool):
        ConnectionCls = TLSConnection

    return {"http": Pool, "https": TLSPool}
