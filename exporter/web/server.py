"""Serves the site with waitress, which reads and writes in one loop and lends a thread only to whole requests.

A client that is slow, silent, or never reads its answer therefore holds a buffer and not a thread.
"""

import logging
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from waitress import wasyncore
from waitress.server import BaseWSGIServer, create_server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_THREADS: Final = 4
_MOST_CONNECTIONS: Final = 512
_SILENT_SECONDS: Final = 30
_LONGEST_BODY_BYTES: Final = 64 << 10
"""Nothing here takes a body; a longer one is refused before it is stored."""
_BUFFERED_BYTES: Final = 32 << 20
_HIGH_WATERMARK_BYTES: Final = 1 << 30
_LOOK_SECONDS: Final = 1
_STOP_SECONDS: Final = 1


class Server:
    """The listening socket and the threads behind it."""

    def __init__(self, application: "WSGIApplication", host: str, port: int) -> None:
        """Bind.

        Args:
            application: the site.
            host: name or address to listen on, every IPv4 one if empty; an IPv6 address without brackets. Of a name
                that stands for several addresses one is taken, of IPv4 if there is one.
            port: port to listen on, 0 for any free one.

        Raises:
            OSError: the name is unknown, or the address is in use or not ours.
        """
        # Every request beyond the number of threads would be worth a warning to waitress.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._socket = _bound_socket(host or "0.0.0.0", port)  # noqa: S104 - what the user asked for
        self._open: dict[int, socket.socket] = {}
        server = create_server(
            application,
            map=self._open,
            sockets=[self._socket],
            threads=_THREADS,
            connection_limit=_MOST_CONNECTIONS,
            channel_timeout=_SILENT_SECONDS,
            cleanup_interval=_SILENT_SECONDS // 3,
            max_request_body_size=_LONGEST_BODY_BYTES,
            outbuf_overflow=_BUFFERED_BYTES,
            # Above this a worker would wait for its client; what a client does not read spills to disk long before.
            outbuf_high_watermark=_HIGH_WATERMARK_BYTES,
            clear_untrusted_proxy_headers=True,
            ident="tempo-anomaly-exporter",
        )
        assert isinstance(server, BaseWSGIServer)  # noqa: S101 - as it is for a single socket
        self._server = server
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
            except BaseException as error:  # noqa: BLE001 - nobody else would hear of it
                on_failure(error)

        self._thread = threading.Thread(target=serve, name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and end all connections; answers that are not written by then are lost."""
        # The workers first: what they have finished they announce through a pipe that closing takes away.
        self._server.task_dispatcher.shutdown(timeout=_STOP_SECONDS)
        self._stopping = True
        self._server.pull_trigger()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
        wasyncore.close_all(self._open, ignore_all=True)


def _bound_socket(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return socket.create_server(address[:2], family=family)
