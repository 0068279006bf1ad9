"""Limits on how hard Tempo is asked, shared by everything that asks it.

Two limits hold over all loops together: requests under way at once, and requests begun per second. The second is kept
by spacing: two requests begin at least ``1 / requests_per_second`` apart, so that no second ever sees a burst.

The live edge goes first. Of several requests that wait, the poller's is next, then one that a person waits for, then
the backfill's; and the last slot is the poller's alone (where there is more than one), so that it need not even wait
until one of many slow requests of a backfill ends.
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

_RANK: Final[dict[Loop, int]] = {"poll": 0, "api": 1, "backfill": 2}
_STOP_CHECK_SECONDS: Final = 0.1


class Ticket(NamedTuple):
    """A place in the queue; the smallest is next."""

    rank: int
    number: int

    @property
    def is_poll(self) -> bool:
        """Whether it is the poller's."""
        return self.rank == 0


class Turns:
    """Decides which request may begin and when. Knows no clock, no threads: the caller says what time it is.

    Times are in seconds on any clock that does not go back.
    """

    def __init__(self, max_concurrency: int, requests_per_second: float) -> None:
        if max_concurrency < 1 or not requests_per_second > 0:
            raise ValueError("max_concurrency must be at least 1, requests_per_second more than 0")
        self._slots = max_concurrency
        self._slots_for_others = max(1, max_concurrency - 1)
        self._spacing_seconds = 1 / requests_per_second
        self._numbers = count()
        self._waiting: list[Ticket] = []
        self._running = 0
        self._running_others = 0
        self._next_start = -math.inf

    def enqueue(self, loop: Loop) -> Ticket:
        """Join the queue."""
        ticket = Ticket(_RANK[loop], next(self._numbers))
        self._waiting.append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give up waiting."""
        self._waiting.remove(ticket)

    def admit(self, ticket: Ticket, now: float) -> float:
        """Try to begin: 0 means the request has begun and must be ended with :meth:`end`.

        Otherwise nothing has changed, and the answer says in how many seconds to ask again: infinity means after
        another request has begun, ended or left.
        """
        # The others' room is part of the whole, so where the first in the queue has none, nobody behind it has.
        if ticket != min(self._waiting) or self._running >= self._slots:
            return math.inf
        if not ticket.is_poll and self._running_others >= self._slots_for_others:
            return math.inf
        if now < self._next_start:
            return self._next_start - now
        self._waiting.remove(ticket)
        self._running += 1
        self._running_others += not ticket.is_poll
        self._next_start = now + self._spacing_seconds
        return 0.0

    def end(self, ticket: Ticket) -> None:
        """A request that had begun has ended."""
        self._running -= 1
        self._running_others -= not ticket.is_poll


class Throttle:
    """Makes threads wait for their turn."""

    def __init__(self, turns: Turns, *, stop: threading.Event, monotonic: Callable[[], float]) -> None:
        self._turns = turns
        self._stop = stop
        self._monotonic = monotonic
        self._changed = new_condition(LockRank.TEMPO_THROTTLE)

    @contextmanager
    def slot(self, loop: Loop) -> Iterator[None]:
        """Wait for a turn, and hold a slot for as long as the body runs.

        Raises:
            StoppedError: the exporter is being stopped.
        """
        ticket = self._begin(loop)
        try:
            yield
        finally:
            with self._changed:
                self._turns.end(ticket)
                self._changed.notify_all()

    def _begin(self, loop: Loop) -> Ticket:
        with self._changed:
            ticket = self._turns.enqueue(loop)
            try:
                while not self._stop.is_set():
                    seconds = self._turns.admit(ticket, self._monotonic())
                    if not seconds:
                        return ticket
                    # The event cannot wake a condition, so it is looked at every now and then.
                    self._changed.wait(min(seconds, _STOP_CHECK_SECONDS))
                self._turns.leave(ticket)
                raise StoppedError("stopped while waiting for a turn to ask Tempo")
            finally:
                self._changed.notify_all()
