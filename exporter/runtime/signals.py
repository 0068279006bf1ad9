"""Requests to stop: SIGTERM, SIGINT, or a part of the process that cannot go on."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from typing import NoReturn


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """While the body runs, SIGTERM and SIGINT end it as Ctrl-C does: with a :class:`KeyboardInterrupt`."""
    # SIGINT too: a shell that starts a command in the background has it ignored.
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


class StopRequest:
    """Waits, in the main thread, until somebody asks the process to stop.

    A pipe, to which the signal itself writes (:func:`signal.set_wakeup_fd`). Python runs a handler only between two
    instructions of the main thread: one that comes while that thread is about to wait for a lock, an event or a queue
    would not be run until the wait is over, which is never.
    """

    def __init__(self) -> None:
        self._asked, self._ask = os.pipe()
        os.set_blocking(self._ask, False)

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as requests; only the main thread may do this."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._ask, warn_on_full_buffer=False)

    def make(self) -> None:
        """Ask the process to stop; from any thread."""
        # A full pipe says it already.
        with contextlib.suppress(BlockingIOError):
            os.write(self._ask, b"\0")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a request, for so long at most; says whether there was one."""
        asked, _, _ = select.select([self._asked], [], [], seconds)
        return bool(asked)
