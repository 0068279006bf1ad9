"""Ends requests that take too long as a whole, and all of them when the exporter stops.

A socket's timeout starts anew with every byte, so a server that sends one byte now and then keeps a reader busy for
ever; and nothing else wakes a thread that waits for a socket. A second thread can: it shuts the socket down, and the
read ends as if the server had gone.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

from exporter.runtime.locks import LockRank, new_condition

_TICK_SECONDS: Final = 0.1
_IDLE_SECONDS: Final = 5.0


class Line:
    """The connection that a request runs over; its socket may change as it is renewed."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None

    def cut(self) -> None:
        """End whatever is being read or written, from any thread."""
        current = self.socket
        if current is not None:
            # Not the method of a TLS socket: that one also takes its state from under the thread that reads.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(current, socket.SHUT_RDWR)


class Deadline:
    """A request that is being watched.

    Attributes:
        expired: whether it was ended because its time was up.
        stopped: whether it was ended because the exporter stops.
    """

    def __init__(self, line: Line, deadline: float) -> None:
        self.line = line
        self.deadline = deadline
        self.expired = False
        self.stopped = False

    @property
    def cut(self) -> bool:
        """Whether it was ended before its time."""
        return self.expired or self.stopped


class Watchdog:
    """Watches requests from a thread of its own, which runs only while there are any."""

    def __init__(self, *, stop: threading.Event, monotonic: Callable[[], float]) -> None:
        self._stop = stop
        self._monotonic = monotonic
        self._guards: set[Deadline] = set()
        self._changed = new_condition(LockRank.TEMPO_WATCHDOG)
        self._running = False

    @contextlib.contextmanager
    def watch(self, line: Line, seconds: float) -> Iterator[Deadline]:
        """Cut the line if the body has not ended after so many seconds, or when the exporter stops."""
        guard = Deadline(line, self._monotonic() + seconds)
        with self._changed:
            self._guards.add(guard)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="tempo-watchdog", daemon=True).start()
            self._changed.notify()
        try:
            yield guard
        finally:
            with self._changed:
                self._guards.discard(guard)

    def _run(self) -> None:
        with self._changed:
            while self._guards or self._changed.wait(_IDLE_SECONDS) or self._guards:
                now = self._monotonic()
                for guard in self._guards:
                    guard.stopped = guard.stopped or self._stop.is_set()
                    guard.expired = guard.expired or now >= guard.deadline
                    if guard.cut:
                        # Again and again: the line may have been between two sockets the last time.
                        guard.line.cut()
                until = min((guard.deadline - now for guard in self._guards), default=_TICK_SECONDS)
                self._changed.wait(min(_TICK_SECONDS, max(0.01, until)))
            self._running = False
