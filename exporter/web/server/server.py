"""The HTTP server: waitress, with one loop for all connections and worker threads for complete requests.

A client that is slow, silent or never reads its response occupies a buffer, never a thread.
"""

import errno
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from exporter.runtime.logs import Log, get_logger
from exporter.runtime.stop_budget import StopBudget
from exporter.web.server.channel import Channel
from exporter.web.server.tls import TlsChannel, wrap_tls
from exporter.web.server.workers import WorkerGroup, worker_group

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_MAX_CONNECTIONS: Final = 512
_SILENT_SECONDS: Final = 30.0
_MAX_RESPONSE_SECONDS: Final = 300.0
"""Longer than any scrape timeout: a client that has not read its response by then no longer waits for it."""
_SWEEP_SECONDS: Final = 10.0
_MAX_BODY_BYTES: Final = 64 << 10
"""The only body is that of a mark; a longer one is refused before it is stored."""
_BUFFERED_BYTES: Final = 32 << 20
_HIGH_WATERMARK_BYTES: Final = 1 << 30
_LOOP_SECONDS: Final = 1
_ACCEPT_PAUSE_SECONDS: Final = 1.0
"""Without a free file descriptor no connection can be accepted; retrying at once would only burn CPU."""
_LOG_INTERVAL_SECONDS: Final = 600
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

TlsContext = Callable[[], ssl.SSLContext]
"""Returns the TLS context for a new connection."""


class Server:
    """The listening socket and the threads behind it."""

    def __init__(
        self,
        application: "WSGIApplication",
        host: str,
        port: int,
        *,
        log: Log | None = None,
        context: TlsContext | None = None,
        silent_seconds: float = _SILENT_SECONDS,
        max_response_seconds: float = _MAX_RESPONSE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bind the socket; :meth:`start` serves.

        Args:
            application: the WSGI application to serve.
            host: name or address to listen on, every IPv4 address if empty; an IPv6 address without brackets. A name
                that resolves to several addresses is bound to one of them, preferably IPv4.
            port: port to listen on, 0 for any free one.
            log: receives connection errors; the log ``web`` if absent.
            context: called for every new connection; absent to serve without TLS.
            silent_seconds: a connection that neither receives nor sends a byte for this long is closed.
            max_response_seconds: a client that takes longer than this to read a response is disconnected.
            monotonic: the clock of these timeouts.

        Raises:
            OSError: the name is unknown, or the address is in use or not one of this machine.
        """
        # waitress warns about every request that has to wait for a thread.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._socket = _bound_socket(host or "0.0.0.0", port)  # noqa: S104 - the documented meaning of an empty host
        self._socket_map: dict[int, socket.socket] = {}
        self._listener = _Listener(
            application,
            log or get_logger("web"),
            context,
            self._socket_map,
            self._socket,
            silent_seconds,
            max_response_seconds,
            monotonic,
            connection_limit=_MAX_CONNECTIONS,
            max_request_body_size=_MAX_BODY_BYTES,
            outbuf_overflow=_BUFFERED_BYTES,
            # Above this mark a worker would wait for its client. Responses that large are shared, not buffered.
            outbuf_high_watermark=_HIGH_WATERMARK_BYTES,
            clear_untrusted_proxy_headers=True,
            ident="tempo-anomaly-exporter",
            url_scheme="http" if context is None else "https",
        )
        self._thread: threading.Thread | None = None
        self._stopping = False

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every listening socket."""
        host, port = self._socket.getsockname()[:2]
        return [(str(host), int(port))]

    def start(self, on_failure: Callable[[BaseException], None]) -> None:
        """Serve in a background thread.

        Args:
            on_failure: called if that thread ends other than by :meth:`stop`.
        """

        def serve() -> None:
            try:
                while not self._stopping:
                    # Unlike select(), poll() also works when the process has many open files.
                    wasyncore.loop(_LOOP_SECONDS, use_poll=True, map=self._socket_map, count=1)
                    self._listener.close_overdue()
            except BaseException as error:  # noqa: BLE001 - otherwise the thread would die unnoticed
                on_failure(error)

        self._thread = threading.Thread(target=serve, name="web", daemon=True)
        self._thread.start()

    def stop(self, budget: StopBudget | None = None) -> None:
        """Stop listening and close all connections; responses that are not sent by then are lost."""
        budget = budget or StopBudget()
        # Workers first: they announce finished responses through a pipe that closing takes away.
        self._listener.stop_workers(budget)
        self._stopping = True
        self._listener.pull_trigger()
        if self._thread is not None:
            self._thread.join(budget.seconds_for("web_loop"))
        wasyncore.close_all(self._socket_map, ignore_all=True)


class _Listener(TcpWSGIServer):
    """Accepts connections, with TLS if configured, and closes overdue ones."""

    def __init__(
        self,
        application: "WSGIApplication",
        log: Log,
        context: TlsContext | None,
        map_: dict[int, Any],
        bound: socket.socket,
        silent_seconds: float,
        max_response_seconds: float,
        monotonic: Callable[[], float],
        **adjustments: Any,
    ) -> None:
        self._log = log.limited(_LOG_INTERVAL_SECONDS, monotonic)
        self._context = context
        self._socket_map = map_
        self._silent_seconds = silent_seconds
        self._max_response_seconds = max_response_seconds
        self._monotonic = monotonic
        self._accept_paused_until = float("-inf")
        self._next_sweep_at = float("-inf")
        sockinfo = (bound.family, bound.type, bound.proto, bound.getsockname())
        self._workers = {group: _start_workers(group) for group in WorkerGroup}
        adj = Adjustments(sockets=[bound], **adjustments)
        super().__init__(
            application, map_, True, bound, self._workers[WorkerGroup.PROMPT], adj, sockinfo, bind_socket=False
        )

    def add_task(self, task: Any) -> None:
        """Queue the first request of a channel for the workers of its path."""
        self._workers[worker_group(getattr(task.requests[0], "path", ""))].add_task(task)

    def stop_workers(self, budget: StopBudget) -> None:
        """Stop all workers; those that are busy get a moment, shared by all, to finish."""
        for workers in self._workers.values():
            workers.set_thread_count(0)
        until = time.monotonic() + budget.seconds_for("web_workers")
        for workers in self._workers.values():
            workers.shutdown(timeout=max(0, until - time.monotonic()))  # type: ignore[arg-type] # any number

    def maintenance(self, now: Any) -> None:
        """Do nothing: waitress's own sweep uses the wall clock, and misses clients that have stopped reading."""

    def close_overdue(self) -> None:
        """Close the connections of silent and of much too slow clients; called between two turns of the loop."""
        now = self._monotonic()
        if now < self._next_sweep_at:
            return
        self._next_sweep_at = now + _SWEEP_SECONDS
        channels: Mapping[int, Channel] = self.active_channels  # type: ignore[assignment] # the stub is wrong
        overdue = [
            channel
            for channel in channels.values()
            if channel.is_overdue(now, self._silent_seconds, self._max_response_seconds)
        ]
        for channel in overdue:
            # Even if this fails, the socket is closed.
            with suppress(OSError):
                channel.handle_close()

    def readable(self) -> bool:
        """Whether to accept connections."""
        return bool(super().readable()) and self._monotonic() >= self._accept_paused_until

    def handle_accept(self) -> None:
        """Accept a waiting connection."""
        try:
            accepted = self.accept()
            if accepted is None:
                return
            connection, address = accepted
            self.set_socket_options(connection)
            if self._context is None:
                Channel(self, connection, address, self.adj, map=self._socket_map, monotonic=self._monotonic)
            else:
                encrypted = wrap_tls(connection, self._context())
                TlsChannel(self, encrypted, address, self.adj, map=self._socket_map, monotonic=self._monotonic)
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._accept_paused_until = self._monotonic() + _ACCEPT_PAUSE_SECONDS
                self._log.error(
                    "accept_failed",
                    "cannot accept new connections; clients wait. Raise the limit of open files",
                    error=error,
                )
            # Any other error means that the client is gone already.


def _start_workers(group: WorkerGroup) -> ThreadedTaskDispatcher:
    workers = ThreadedTaskDispatcher()
    workers.set_thread_count(group.threads)
    return workers


def _bound_socket(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        # Python's message repeats the address, which the caller reports anyway.
        raise OSError(error.errno, os.strerror(error.errno or 0)) from error
