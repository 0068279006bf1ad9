"""A sleep that other threads can end early."""

import threading
import time
from typing import Final

_CHECK_SECONDS: Final = 0.1


class Wakeup:
    """Ends the sleep of one thread early. Any thread may call :meth:`set`.

    A wake-up that arrives while the sleeper works ends its next sleep, unless the sleeper clears it first.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Wake the sleeper."""
        self._event.set()

    def clear(self) -> None:
        """Discard a wake-up that has already been handled."""
        self._event.clear()

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Sleep until woken or stopped; returns whether a wake-up ended the sleep, and discards it.

        A stop is noticed at once, a wake-up within 0.1 s: Python cannot wait for two events.
        """
        deadline = time.monotonic() + seconds
        while not self._event.is_set():
            remaining = deadline - time.monotonic()
            if remaining <= 0 or stop.wait(min(remaining, _CHECK_SECONDS)):
                return False
        self._event.clear()
        return True
