"""A waitress connection that shares large responses between clients and closes clients that stop reading.

For every client, waitress copies a response into a buffer, and copies again from that buffer for each ``send``. Four
clients that read a 17 MB page at once would cost hundreds of megabytes and most of their waiting time. Here a large
response is queued as it is, and all clients are sent the same bytes.

waitress also closes a connection only once it can be written to. A client that has stopped reading would keep its
connection, and the response queued for it, for as long as it likes. :meth:`Channel.is_overdue` finds such clients.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_LARGE_BYTES: Final = 64 << 10
"""Copying less than this costs less than another buffer."""


_TLS_HANDSHAKE: Final = b"\x16"
"""How a TLS connection begins (RFC 8446, 5.1), and no HTTP request does."""


class Channel(HTTPChannel):
    """A connection.

    It keeps its own times of activity, on a monotonic clock: ``last_activity``, which waitress sets, is wall-clock time
    and jumps when the clock is set.
    """

    def __init__(
        self,
        server: Any,
        sock: Any,
        addr: Any,
        adj: Any,
        map: Any = None,  # noqa: A002 - the name that waitress gave it
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._active_at = monotonic()
        self._response_since = 0.0
        self._has_received = False
        super().__init__(server, sock, addr, adj, map=map)

    def is_overdue(self, now: float, silent_seconds: float, max_response_seconds: float) -> bool:
        """Whether to close the connection, dropping anything still queued for the client.

        A connection whose request is still being handled is never overdue.

        Args:
            now: monotonic time.
            silent_seconds: longest time without a byte received or sent.
            max_response_seconds: longest time that a client may take to read what is queued for it.
        """
        if self.requests:
            return False
        slow = self.total_outbufs_len > 0 and now - self._response_since > max_response_seconds
        return slow or now - self._active_at > silent_seconds

    def recv(self, buffer_size: int) -> bytes:
        """Read from the client; empty at the end of the connection."""
        data: bytes = super().recv(buffer_size)
        if data:
            self._mark_active()
        return data

    def received(self, data: bytes) -> bool:
        """Take what the client sent; a client that speaks TLS is disconnected, as it would wait for a reply."""
        if not self._has_received:
            self._has_received = True
            if data.startswith(_TLS_HANDSHAKE):
                self.handle_close()
                return False
        return bool(super().received(data))

    def send(self, data: Any, do_close: bool = True) -> int:
        """Send as much as the socket takes now, and return how much; called by the loop and by workers."""
        sent: int = super().send(data, do_close)
        if sent:
            self._mark_active()
        return sent

    def service(self) -> None:
        """Handle the first request; called by a worker. The client's silence counts from the end of that."""
        super().service()
        self._mark_active()

    def write_soon(self, data: Any) -> int:
        """Send data now or queue it; called by workers."""
        if not self.total_outbufs_len:
            self._response_since = self._monotonic()
        large = isinstance(data, bytes) and len(data) >= _LARGE_BYTES
        written: int = super().write_soon(_SharedBuffer(data) if large else data)  # type: ignore[arg-type] # any buffer
        return written

    def _mark_active(self) -> None:
        self._active_at = self._monotonic()


class _SharedBuffer(ReadOnlyFileBasedBuffer):
    """A buffer that serves bytes without copying them.

    waitress queues a read-only buffer as it is. Of that class it uses only the methods defined here.
    """

    def __init__(self, data: "ReadableBuffer") -> None:
        self._left = memoryview(data)

    def __len__(self) -> int:
        return len(self._left)

    def get(self, numbytes: int = -1, skip: bool = False) -> memoryview:  # type: ignore[override] # is only sent
        """Return up to ``numbytes`` of what is left (-1: all of it)."""
        found = self._left if numbytes < 0 else self._left[:numbytes]
        if skip:
            self.skip(len(found))
        return found

    def skip(self, numbytes: int, allow_prune: int = 0) -> None:  # noqa: ARG002 - there is nothing to prune
        """Drop bytes that were sent."""
        self._left = self._left[numbytes:]

    def close(self) -> None:
        """Release the bytes."""
        self._left = memoryview(b"")
