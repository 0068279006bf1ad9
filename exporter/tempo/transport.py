"""Sends GET requests to Tempo: authenticated, without redirects, bounded in time, and read completely or not at all."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from exporter import __version__
from exporter.tempo.credentials import Credentials
from exporter.tempo.errors import StoppedError, TempoError
from exporter.tempo.failures import HttpResponse, timed_out, too_large, transport_failure
from exporter.tempo.proxy import bypasses_proxy, environment_proxy
from exporter.tempo.settings import ClientSettings
from exporter.tempo.watchdog import SocketHandle, Watchdog

Params = Mapping[str, str | int]

_CONNECT_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = 256 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
_FAILURES: Final = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)


class Transport:
    """Sends requests to one Tempo. Thread-safe.

    Connections are reused. A ``requests.Session`` is not thread-safe, so each request takes one from a pool, which
    grows to the number of concurrent requests.

    Proxies from the environment are used, SOCKS proxies too. Credentials from ``.netrc`` are not, and cookies are not
    kept.

    Attributes:
        proxy: the proxy from the environment that requests go through; None without one.
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
        self._monotonic = monotonic
        self._watchdog = Watchdog(stop=stop, monotonic=monotonic)
        self._idle: deque[_Session] = deque()
        self._headers = _headers(settings)
        self.proxy = environment_proxy(settings.base_url)
        host = urlsplit(settings.base_url).hostname or ""
        self._proxies = {"no_proxy": host} if bypasses_proxy(settings.base_url) else None
        if settings.insecure_skip_verify:
            # The user chose this in the configuration; urllib3 would warn on every request.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def mask(self, text: str) -> str:
        """Replace the secrets of the credentials in a text."""
        return self._credentials.mask(text)

    def get(self, path: str, params: Params, timeout_seconds: float | None = None) -> HttpResponse:
        """Request a path below the base URL and read the whole response, of any status.

        Args:
            path: below the base URL, with a leading slash.
            params: query parameters.
            timeout_seconds: a shorter timeout than the configured one.

        Raises:
            TempoError: no complete HTTP response arrived.
            StoppedError: the exporter is stopping.
        """
        session = self._acquire_session()
        url = self._settings.base_url + path
        timeout = min(self._settings.timeout_seconds, timeout_seconds or self._settings.timeout_seconds)
        with self._watchdog.watch(session.handle, timeout) as deadline:
            result = self._response_or_error(session, url, params, timeout)
        if isinstance(result, HttpResponse) and not deadline.interrupted:
            self._idle.append(session)
            return result
        session.close()
        if deadline.stopped:
            raise StoppedError("the exporter is stopping; a request to Tempo was abandoned")
        # An interrupted connection can look like a complete response, so what the watchdog did is checked first.
        raise result if isinstance(result, TempoError) and not deadline.expired else timed_out(url, timeout, self.proxy)

    def close(self) -> None:
        """Close idle connections."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _acquire_session(self) -> "_Session":
        if self._stop.is_set():
            raise StoppedError("the exporter is stopping; a request to Tempo was not sent")
        try:
            return self._idle.pop()
        except IndexError:
            return _Session(self._settings)

    def _response_or_error(
        self, session: "_Session", url: str, params: Params, timeout: float
    ) -> HttpResponse | TempoError:
        # Returned, not raised here: a traceback would include the library's exceptions, which may quote secrets.
        started = self._monotonic()
        try:
            return self._exchange(session, url, params, timeout)
        except TempoError as error:
            return error
        except _FAILURES as error:
            elapsed = self._monotonic() - started
            return transport_failure(url, error, timeout, self.proxy, elapsed_seconds=elapsed)

    def _exchange(self, session: "_Session", url: str, params: Params, timeout: float) -> HttpResponse:
        with session.get(
            url,
            params=params,
            headers=self._headers,
            auth=self._credentials,
            proxies=self._proxies,
            verify=session.verify,  # explicitly, or REQUESTS_CA_BUNDLE would override the configuration
            allow_redirects=False,
            stream=True,
            timeout=(min(timeout, _CONNECT_SECONDS), timeout),
        ) as response:
            body = self._read(response, url) if response.status_code == HTTPStatus.OK else _read_error(response)
            return HttpResponse(url, response.status_code, response.headers, body)

    def _read(self, response: requests.Response, url: str) -> bytes:
        max_bytes = self._settings.max_body_bytes
        size = response.raw.length_remaining
        if size is not None and size <= max_bytes and "Content-Encoding" not in response.headers:
            # With a known length nothing has to be counted, and reading in one call takes a quarter of the time.
            body: bytes = response.raw.read()
            return body
        chunks, size = [], 0
        for chunk in _chunks(response):
            size += len(chunk)
            if size > max_bytes:
                raise too_large(url, max_bytes)
            chunks.append(chunk)
        return b"".join(chunks)


def _chunks(response: requests.Response) -> Iterator[bytes]:
    chunks: Iterator[bytes] = response.iter_content(_CHUNK_BYTES)
    return chunks


def _read_error(response: requests.Response) -> bytes:
    """Read the start of an error body, which only explains the status; read errors are ignored."""
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
        # Compression would cost Tempo CPU. Users for whom bandwidth matters more can set this header.
        "Accept-Encoding": "identity",
    }
    if settings.tenant:
        headers["X-Scope-OrgID"] = settings.tenant
    configured = {name.lower() for name in settings.headers}
    headers = {name: value for name, value in headers.items() if name.lower() not in configured}
    # Bytes, because http.client encodes text as Latin-1.
    return {name: value.encode() for name, value in {**headers, **settings.headers}.items()}


class _Session(requests.Session):
    """A session for one request at a time, whose socket the watchdog can shut down."""

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__()
        self.handle = SocketHandle()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.verify = False if settings.insecure_skip_verify else settings.ca_file or True
        if settings.cert_file:
            self.cert = (settings.cert_file, settings.key_file) if settings.key_file else settings.cert_file
        adapter = _Adapter(self.handle)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: otherwise requests would read the whole body of a redirect even without following it."""


class _Adapter(HTTPAdapter):
    """Stores the socket of every new connection in the handle."""

    def __init__(self, handle: SocketHandle) -> None:
        self._handle = handle
        self._pools = _pool_classes(handle, HTTPConnection, HTTPSConnection)
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        if proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _socks_pool_classes(self._handle)
        return manager


def _socks_pool_classes(handle: SocketHandle) -> dict[str, type[HTTPConnectionPool]]:
    # Few use such a proxy, and the import takes memory.
    from urllib3.contrib.socks import SOCKSConnection, SOCKSHTTPSConnection  # noqa: PLC0415

    return _pool_classes(handle, SOCKSConnection, SOCKSHTTPSConnection)


def _pool_classes(
    handle: SocketHandle, plain: type[HTTPConnection], encrypted: type[HTTPSConnection]
) -> dict[str, type[HTTPConnectionPool]]:
    def watched(kind: type[HTTPConnection]) -> Any:
        class Connection(kind):  # type: ignore[misc, valid-type] # a class that is only known at runtime
            def connect(self) -> None:
                super().connect()
                handle.socket = self.sock

        return Connection

    class Pool(HTTPConnectionPool):
        ConnectionCls = watched(plain)

    class TLSPool(HTTPSConnectionPool):
        ConnectionCls = watched(encrypted)

    return {"http": Pool, "https": TLSPool}
