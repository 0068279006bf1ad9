"""Requests to stop (SIGTERM, SIGINT, or a failure of the exporter's own) and to reload the configuration (SIGHUP)."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from typing import NoReturn


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGINT raise :class:`KeyboardInterrupt` while the body runs."""
    # SIGINT too: a shell ignores it in commands that it starts in the background.
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Let SIGINT end the process at once while the body runs, without a traceback; for imports.

    SIGINT that is ignored, as in commands that a shell starts in the background, stays ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


class StopRequest:
    """Lets the main thread wait until a signal or another thread requests a stop.

    The request is a byte in a pipe, which :func:`signal.set_wakeup_fd` writes as soon as the signal arrives. Python
    runs a signal handler only between two instructions of the main thread. If the signal arrives just before that
    thread blocks on a lock, an event or a queue, the handler does not run until the wait is over, which may be never.
    """

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._is_made = False

    def listen(self, *, reloads: bool = False) -> None:
        """Treat SIGTERM and SIGINT as requests; call this in the main thread.

        Args:
            reloads: SIGHUP is a request to reload, for :meth:`is_reload`; otherwise it keeps its meaning.
        """
        for number in (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if reloads else ())):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def make(self) -> None:
        """Request a stop, from any thread."""
        # A full pipe holds requests already.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_end, b"\0")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a request, at most for ``seconds``; returns whether there is one."""
        if self._is_made:
            return True
        ready, _, _ = select.select([self._read_end], [], [], seconds)
        return bool(ready)

    def is_reload(self) -> bool:
        """Wait for a request to reload or to stop; returns whether it is one to reload."""
        if self._is_made:
            return False
        requested = os.read(self._read_end, 1)
        self._is_made = requested != bytes((signal.SIGHUP,))
        return not self._is_made
