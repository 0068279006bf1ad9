"""The least that sending a page can cost: a process that answers whatever is asked with the same bytes, no more."""

import socket
import threading
from multiprocessing.connection import Connection
from typing import Final

from benchmarks.told import Told

_REQUEST_BYTES: Final = 64 << 10


class Bare(Told):
    """Serves one page as it is, with a thread for each connection.

    Attributes:
        port: where it serves.
    """

    def __init__(self, page: bytes) -> None:
        """Begin to serve a page."""
        super().__init__(_run, page, daemon=True)
        self.port: int = self.connection.recv()


def _run(page: bytes, connection: Connection) -> None:
    """Serve until the other end of the connection is closed."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, head, page), daemon=True).start()
    connection.send(listener.getsockname()[1])
    connection.poll(None)


def _accept(listener: socket.socket, head: bytes, page: bytes) -> None:
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(client, head, page), daemon=True).start()


def _answer(client: socket.socket, head: bytes, page: bytes) -> None:
    with client:
        # A request is small enough to come in one piece.
        while client.recv(_REQUEST_BYTES):
            client.sendall(head)
            client.sendall(page)
