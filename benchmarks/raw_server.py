"""The lower bound of serving a page: a process that answers every request with the same bytes."""

import socket
import threading
from multiprocessing.connection import Connection
from typing import Final

from benchmarks.child_process import ChildProcess

_REQUEST_BYTES: Final = 64 << 10


class RawServer(ChildProcess):
    """Serves one page with a thread for each connection, without parsing requests.

    Attributes:
        port: the port it listens on.
    """

    def __init__(self, page: bytes) -> None:
        """Start to serve a page."""
        super().__init__(_run, page, daemon=True)
        self.port: int = self.connection.recv()


def _run(page: bytes, connection: Connection) -> None:
    """Serve until the other end of the pipe is closed."""
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
        # The benchmark's requests are small enough to arrive in one piece.
        while client.recv(_REQUEST_BYTES):
            client.sendall(head)
            client.sendall(page)
