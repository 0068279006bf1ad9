"""A SOCKS5 proxy on loopback (RFC 1928, RFC 1929), as small as can be."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socketserver import StreamRequestHandler, ThreadingTCPServer


@dataclass
class SocksProxy:
    """What the proxy was asked for.

    Attributes:
        port: where it listens.
        targets: host and port of each connection; the host is a name if the client did not resolve it.
        credentials: user name and password of each connection that sent them.
        refusal: reply code for every connection; 0 to connect.
        connect_to: connects there instead, for names that no resolver knows.
    """

    port: int = 0
    targets: list[tuple[str, int]] = field(default_factory=list)
    credentials: list[tuple[str, str]] = field(default_factory=list)
    refusal: int = 0
    connect_to: tuple[str, int] | None = None


class _Server(ThreadingTCPServer):
    daemon_threads = True
    proxy: SocksProxy


class _Handler(StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        proxy = self.server.proxy
        _, methods = self._read(2)
        if 2 in self._read(methods):
            self.wfile.write(b"\x05\x02")
            _, length = self._read(2)
            user = self._read(length).decode()
            proxy.credentials.append((user, self._read(self._read(1)[0]).decode()))
            self.wfile.write(b"\x01\x00")
        else:
            self.wfile.write(b"\x05\x00")
        _, _, _, kind = self._read(4)
        host = socket.inet_ntoa(self._read(4)) if kind == 1 else self._read(self._read(1)[0]).decode()
        target = (host, int.from_bytes(self._read(2)))
        proxy.targets.append(target)
        self.wfile.write(bytes((5, proxy.refusal, 0, 1, 0, 0, 0, 0, 0, 0)))
        if not proxy.refusal:
            with socket.create_connection(proxy.connect_to or target) as tempo:
                thread = threading.Thread(target=_copy, args=(tempo, self.connection), daemon=True)
                thread.start()
                _copy(self.connection, tempo)
                thread.join()

    def _read(self, size: int) -> bytes:
        return self.rfile.read(size)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def socks_proxy() -> Iterator[SocksProxy]:
    """Serve on a free port of loopback until the block ends."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        proxy = server.proxy = SocksProxy(port=server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
