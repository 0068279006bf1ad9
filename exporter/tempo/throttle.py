"""Limits concurrency and rate of requests to Tempo, over all loops together.

The rate is limited by spacing: two requests start at least ``1 / requests_per_second`` apart, so bursts do not occur.

Polls have priority. Among waiting requests the order is poll, then API, then causes, then backfill, then
versions. With more than one slot, the last one is reserved for polls, so that a poll does not wait for slow backfill
requests to finish.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final, NamedTuple

from exporter.runtime.locks import LockRank, new_condition
from exporter.runtime.telemetry import Loop
from exporter.tempo.errors import StoppedError

_PRIORITY: Final[dict[Loop, int]] = {"poll": 0, "api": 1, "cause": 2, "backfill": 3, "version": 4}
_STOP_CHECK_SECONDS: Final = 0.1


class QueuedRequest(NamedTuple):
    """A request's place in the queue; the smallest starts next."""

    priority: int
    number: int

    @property
    def is_poll(self) -> bool:
        """Whether the request belongs to a poll."""
        return self.priority == _PRIORITY["poll"]


class RequestQueue:
    """Decides which request may start, and when. Pure: no threads, and the caller passes the time.

    Times are in seconds of a monotonic clock.
    """

    def __init__(self, max_concurrency: int, requests_per_second: float) -> None:
        if max_concurrency < 1 or not requests_per_second > 0:
            raise ValueError("max_concurrency must be at least 1, requests_per_second more than 0")
        self._slots = max_concurrency
        self._slots_for_others = max(1, max_concurrency - 1)
        self._spacing_seconds = 1 / requests_per_second
        self._numbers = count()
        self._waiting: list[QueuedRequest] = []
        self._running = 0
        self._running_others = 0
        self._next_start = -math.inf

    def enqueue(self, loop: Loop) -> QueuedRequest:
        """Add a request to the queue."""
        request = QueuedRequest(_PRIORITY[loop], next(self._numbers))
        self._waiting.append(request)
        return request

    def cancel(self, request: QueuedRequest) -> None:
        """Remove a waiting request from the queue."""
        self._waiting.remove(request)

    def try_start(self, request: QueuedRequest, now: float) -> float:
        """Start a request if it is its turn.

        Returns:
            0 if the request started; it occupies a slot until :meth:`finish`. Otherwise the seconds after which to try
            again; infinity means once another request has started, finished or been cancelled.
        """
        # If the first request in the queue cannot get a slot, those behind it cannot either: they have at most the same
        # slots.
        if request != min(self._waiting) or self._running >= self._slots:
            return math.inf
        if not request.is_poll and self._running_others >= self._slots_for_others:
            return math.inf
        if now < self._next_start:
            return self._next_start - now
        self._waiting.remove(request)
        self._running += 1
        self._running_others += not request.is_poll
        self._next_start = now + self._spacing_seconds
        return 0.0

    def finish(self, request: QueuedRequest) -> None:
        """Free the slot of a started request."""
        self._running -= 1
        self._running_others -= not request.is_poll


class Throttle:
    """Blocks threads until their request may start."""

    def __init__(self, queue: RequestQueue, *, stop: threading.Event, monotonic: Callable[[], float]) -> None:
        self._queue = queue
        self._stop = stop
        self._monotonic = monotonic
        self._changed = new_condition(LockRank.TEMPO_THROTTLE)

    @contextmanager
    def slot(self, loop: Loop) -> Iterator[None]:
        """Wait for a slot, and hold it while the ``with`` block runs.

        Raises:
            StoppedError: the exporter is stopping.
        """
        request = self._wait_for_start(loop)
        try:
            yield
        finally:
            with self._changed:
                self._queue.finish(request)
                self._changed.notify_all()

    def _wait_for_start(self, loop: Loop) -> QueuedRequest:
        with self._changed:
            request = self._queue.enqueue(loop)
            try:
                while not self._stop.is_set():
                    seconds = self._queue.try_start(request, self._monotonic())
                    if not seconds:
                        return request
                    # Setting the event does not notify the condition, so the event is checked regularly.
                    self._changed.wait(min(seconds, _STOP_CHECK_SECONDS))
                self._queue.cancel(request)
                raise StoppedError("the exporter is stopping; a queued request to Tempo was not sent")
            finally:
                self._changed.notify_all()
