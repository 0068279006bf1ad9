"""Serves the site with waitress, which reads and writes in one loop and lends a thread only to whole requests.

A client that is slow, silent, or never reads its answer therefore holds a buffer and not a thread.
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
from exporter.web.server.tls import TlsChannel, encrypted
from exporter.web.server.workers import Workers, workers_for

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_MOST_CONNECTIONS: Final = 512
_SILENT_SECONDS: Final = 30
_SWEEP_SECONDS: Final = 10
_LONGEST_BODY_BYTES: Final = 64 << 10
"""Nothing here takes a body; a longer one is refused before it is stored."""
_BUFFERED_BYTES: Final = 32 << 20
_HIGH_WATERMARK_BYTES: Final = 1 << 30
_LOOK_SECONDS: Final = 1
_BREATH_SECONDS: Final = 1.0
"""Without a free file descriptor nobody can be let in, and asking again at once would only burn a processor."""
_SAY_AGAIN_SECONDS: Final = 600
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Context = Callable[[], ssl.SSLContext]
"""Gives what a new connection is encrypted with."""


class Server:
    """The listening socket and the threads behind it."""

    def __init__(
        self,
        application: "WSGIApplication",
        host: str,
        port: int,
        *,
        log: Log | None = None,
        context: Context | None = None,
    ) -> None:
        """Bind.

        Args:
            application: the site.
            host: name or address to listen on, every IPv4 one if empty; an IPv6 address without brackets. Of a name
                that stands for several addresses one is taken, of IPv4 if there is one.
            port: port to listen on, 0 for any free one.
            log: is told when nobody can be let in; the web side's own where it is absent.
            context: asked for every connection; absent to serve without TLS.

        Raises:
            OSError: the name is unknown, or the address is in use or not ours.
        """
        # Every request beyond the number of threads would be worth a warning to waitress.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._socket = _bound_socket(host or "0.0.0.0", port)  # noqa: S104 - what the user asked for
        self._open: dict[int, socket.socket] = {}
        self._server = _Listener(
            application,
            log or get_logger("web"),
            context,
            self._open,
            self._socket,
            connection_limit=_MOST_CONNECTIONS,
            max_request_body_size=_LONGEST_BODY_BYTES,
            outbuf_overflow=_BUFFERED_BYTES,
            # Above this a worker would wait for its client; what is large enough for that is not kept for it alone.
            outbuf_high_watermark=_HIGH_WATERMARK_BYTES,
            clear_untrusted_proxy_headers=True,
            ident="tempo-anomaly-exporter",
            url_scheme="http" if context is None else "https",
        )
        self._thread: threading.Thread | None = None
        self._stopping = False

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every socket that is listened on."""
        host, port = self._socket.getsockname()[:2]
        return [(str(host), int(port))]

    def start(self, on_failure: Callable[[BaseException], None]) -> None:
        """Begin to serve, in a thread of its own.

        Args:
            on_failure: is told if serving ends other than by :meth:`stop`.
        """

        def serve() -> None:
            try:
                while not self._stopping:
                    # Unlike select(), poll() does not fail where the process has many files open.
                    wasyncore.loop(_LOOK_SECONDS, use_poll=True, map=self._open, count=1)
                    self._server.close_overdue()
            except BaseException as error:  # noqa: BLE001 - nobody else would hear of it
                on_failure(error)

        self._thread = threading.Thread(target=serve, name="web", daemon=True)
        self._thread.start()

    def stop(self, budget: StopBudget | None = None) -> None:
        """Stop listening and end all connections; answers that are not written by then are lost."""
        budget = budget or StopBudget()
        # The workers first: what they have finished they announce through a pipe that closing takes away.
        self._server.shut_down_workers(budget)
        self._stopping = True
        self._server.pull_trigger()
        if self._thread is not None:
            self._thread.join(budget.seconds_for("web_loop"))
        wasyncore.close_all(self._open, ignore_all=True)


class _Listener(TcpWSGIServer):
    """Lets connections in, with TLS where that is wanted."""

    def __init__(
        self,
        application: "WSGIApplication",
        log: Log,
        context: Context | None,
        map_: dict[int, Any],
        bound: socket.socket,
        **adjustments: Any,
    ) -> None:
        self._log = log.limited(_SAY_AGAIN_SECONDS, time.monotonic)
        self._context = context
        self._connections = map_
        self._closed_until = 0.0
        self._sweep_at = 0.0
        sockinfo = (bound.family, bound.type, bound.proto, bound.getsockname())
        self._workers = {group: _started(group) for group in Workers}
        adj = Adjustments(sockets=[bound], **adjustments)
        super().__init__(
            application, map_, True, bound, self._workers[Workers.PROMPT], adj, sockinfo, bind_socket=False
        )

    def add_task(self, task: Any) -> None:
        """Have workers answer the first request of a connection."""
        self._workers[workers_for(getattr(task.requests[0], "path", ""))].add_task(task)

    def shut_down_workers(self, budget: StopBudget) -> None:
        """Let the workers finish what they are at, for a moment altogether."""
        for workers in self._workers.values():
            workers.set_thread_count(0)
        until = time.monotonic() + budget.seconds_for("web_workers")
        for workers in self._workers.values():
            workers.shutdown(timeout=max(0, until - time.monotonic()))  # type: ignore[arg-type] # any number

    def maintenance(self, now: Any) -> None:
        """Nothing: it would come by the clock on the wall, and not reach whom nothing can be sent to."""

    def close_overdue(self) -> None:
        """End the connections of those who are silent, or much too slow; called between two turns of the loop."""
        now = time.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + _SWEEP_SECONDS
        channels: Mapping[int, Channel] = self.active_channels  # type: ignore[assignment] # it is declared wrongly
        for channel in [channel for channel in channels.values() if channel.overdue(now, _SILENT_SECONDS)]:
            # The socket is gone even if that fails.
            with suppress(OSError):
                channel.handle_close()

    def readable(self) -> bool:
        """Whether to let somebody in."""
        return bool(super().readable()) and time.monotonic() >= self._closed_until

    def handle_accept(self) -> None:
        """Let somebody in who waits."""
        try:
            accepted = self.accept()
            if accepted is None:
                return
            connection, address = accepted
            self.set_socket_options(connection)
            if self._context is None:
                Channel(self, connection, address, self.adj, map=self._connections)
            else:
                TlsChannel(self, encrypted(connection, self._context()), address, self.adj, map=self._connections)
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._closed_until = time.monotonic() + _BREATH_SECONDS
                self._log.error(
                    "accept_failed",
                    "cannot accept new connections; clients wait. Raise the limit of open files",
                    error=error,
                )
            # Else the client is gone already.


def _started(group: Workers) -> ThreadedTaskDispatcher:
    workers = ThreadedTaskDispatcher()
    workers.set_thread_count(group.threads)
    return workers


def _bound_socket(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        # Python's text names the address, and so does whoever tells of it.
        raise OSError(error.errno, os.strerror(error.errno or 0)) from error
