"""How threads wake each other: a sleep that ends early, a loop of such sleeps, and the news of a changed history."""

import threading
import time
from collections.abc import Callable
from typing import Final

from exporter.tempo.errors import StoppedError

_CHECK_SECONDS: Final = 0.1
_IDLE_SECONDS: Final = 60.0


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


def run_steps(step: Callable[[], float], wakeup: Wakeup, stop: threading.Event, log_crash: Callable[[], None]) -> None:
    """Run the steps of a loop that asks Tempo, until stopped. Between them it sleeps for a minute at most.

    Args:
        step: does one piece of work; returns the seconds until the next one is due, 0 if one is due now.
        wakeup: ends a sleep.
        stop: ends the loop once set, and the step under way with a :class:`StoppedError`.
        log_crash: logs the exception of a step that failed unexpectedly.
    """
    while not stop.is_set():
        try:
            seconds = step()
        except StoppedError:
            return
        except Exception:  # noqa: BLE001 - a bug must neither end the loop nor go unnoticed
            if stop.is_set():
                return
            log_crash()
            seconds = _IDLE_SECONDS
        if seconds > 0:
            wakeup.wait(min(seconds, _IDLE_SECONDS), stop)


class HistorySignal:
    """Tells the thread that builds baselines that the stored history has changed. Thread-safe.

    It exists before both sides, so that neither the backfill nor the baselines need to know the other.
    """

    def __init__(self, wakeup: Wakeup | None = None) -> None:
        # The history may have changed since a stored table was built.
        self._has_news = threading.Event()
        self._has_news.set()
        self._is_urgent = threading.Event()
        self.wakeup: Final = Wakeup() if wakeup is None else wakeup

    @property
    def has_news(self) -> bool:
        """Whether the history has changed since :meth:`take`."""
        return self._has_news.is_set()

    @property
    def is_urgent(self) -> bool:
        """Whether the change should be evaluated without waiting for the regular pace."""
        return self._is_urgent.is_set()

    def notify_windows_written(self) -> None:
        """Announce new windows, to be evaluated at the regular pace."""
        self._has_news.set()

    def notify_backfill_complete(self) -> None:
        """Announce that no settled window is left unread, to be evaluated at once."""
        self._is_urgent.set()
        self._has_news.set()
        self.wakeup.set()

    def notify_marks_changed(self) -> None:
        """Announce other marks on time, by which history is to be evaluated again at once."""
        self.notify_backfill_complete()

    def take(self) -> bool:
        """Take the news before reading the history; returns whether they were urgent."""
        is_urgent = self._is_urgent.is_set()
        self._has_news.clear()
        self._is_urgent.clear()
        return is_urgent

    def put_back(self, *, is_urgent: bool) -> None:
        """Restore the news after a failure to handle them."""
        self._has_news.set()
        if is_urgent:
            self._is_urgent.set()
