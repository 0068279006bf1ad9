"""The least that sending a page can cost: a process that answers whatever is asked with the same bytes, no more."""

import multiprocessing
import socket
import threading
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Final, Self

_REQUEST_BYTES: Final = 64 << 10


class Bare:
    """Serves one page as it is, with a thread for each connection.

    Attributes:
        port: where it serves.
    """

    def __init__(self, page: bytes) -> None:
        """Begin to serve a page."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.send_bytes(page)
        self.port: int = self._connection.recv()

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _run(connection: Connection) -> None:
    """Serve until the other end of the connection is closed."""
    page = connection.recv_bytes()
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
