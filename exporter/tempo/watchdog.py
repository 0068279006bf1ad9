"""Ends requests at their deadline, and all requests when the exporter stops.

A socket timeout restarts with every byte, so a server that sends a byte now and then could block a reader without end;
and a thread that waits for a socket cannot wait for an event as well. The watchdog thread shuts the socket down, which
ends the read as if the server had closed the connection.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

from exporter.runtime.locks import LockRank, new_condition

_TICK_SECONDS: Final = 0.1
_IDLE_SECONDS: Final = 5.0


class SocketHandle:
    """The current socket of an HTTP session; a reconnect replaces it."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None

    def shut_down(self) -> None:
        """End the pending read or write. May be called from any thread."""
        current = self.socket
        if current is not None:
            # Not SSLSocket.shutdown: it also clears the TLS state that the reading thread is using.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(current, socket.SHUT_RDWR)


class Deadline:
    """The deadline of one request.

    Attributes:
        handle: the socket that the request uses.
        expires_at: seconds of the monotonic clock.
        expired: whether the request was ended because its time was up.
        stopped: whether the request was ended because the exporter is stopping.
    """

    def __init__(self, handle: SocketHandle, expires_at: float) -> None:
        self.handle = handle
        self.expires_at = expires_at
        self.expired = False
        self.stopped = False

    @property
    def interrupted(self) -> bool:
        """Whether the watchdog ended the request."""
        return self.expired or self.stopped


class Watchdog:
    """Watches the deadlines of requests in a thread of its own, which runs only while there are requests."""

    def __init__(self, *, stop: threading.Event, monotonic: Callable[[], float]) -> None:
        self._stop = stop
        self._monotonic = monotonic
        self._deadlines: set[Deadline] = set()
        self._changed = new_condition(LockRank.TEMPO_WATCHDOG)
        self._running = False

    @contextlib.contextmanager
    def watch(self, handle: SocketHandle, seconds: float) -> Iterator[Deadline]:
        """Shut the socket down if the ``with`` block runs longer than this, or when the exporter stops."""
        deadline = Deadline(handle, self._monotonic() + seconds)
        with self._changed:
            self._deadlines.add(deadline)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="tempo-watchdog", daemon=True).start()
            self._changed.notify()
        try:
            yield deadline
        finally:
            with self._changed:
                self._deadlines.discard(deadline)

    def _run(self) -> None:
        with self._changed:
            while self._deadlines or self._changed.wait(_IDLE_SECONDS) or self._deadlines:
                now = self._monotonic()
                for deadline in self._deadlines:
                    deadline.stopped = deadline.stopped or self._stop.is_set()
                    deadline.expired = deadline.expired or now >= deadline.expires_at
                    if deadline.interrupted:
                        # On every tick: the request may have been between two sockets the last time.
                        deadline.handle.shut_down()
                remaining = min((deadline.expires_at - now for deadline in self._deadlines), default=_TICK_SECONDS)
                self._changed.wait(min(_TICK_SECONDS, max(0.01, remaining)))
            self._running = False
