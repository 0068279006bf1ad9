"""The lock order: every lock that may be held while another is acquired is created here, with its rank.

A thread acquires locks in ascending rank only, so no two threads can wait for each other. Ranks are checked where
``EXPORTER_CHECK_LOCKS`` is set, as it is in the tests: acquiring a lock out of order then raises
:class:`LockOrderError`. Otherwise these functions return the plain locks of :mod:`threading`.

Not part of the order, because nothing is acquired while they are held: the locks of prometheus_client and logging, the
semaphores of the web server, which never block, and the turn of a TLS connection, which is acquired after waitress' own
``outbuf_lock``.
"""

import os
import threading
from contextlib import AbstractContextManager
from enum import IntEnum, auto
from typing import Any, Final


class LockRank(IntEnum):
    """The order in which a thread acquires locks, outermost first."""

    CONFIG_RELOAD = auto()
    """The configuration in use, while it is loaded again and taken over."""
    APP = auto()
    """The running app, while it is replaced or takes over another configuration."""
    PAGE_CACHE = auto()
    """Profiles and baselines for the pages, built from the history while the lock is held."""
    AVAILABILITY = auto()
    """Availability of all series, counted in the history while the lock is held."""
    TEMPO_COUNTS = auto()
    """Counts of traces, requested from Tempo while the lock is held."""
    BACKFILL_QUEUE = auto()
    """Windows to read and their state; the ledger is read while the lock is held."""
    BASELINE_TABLES = auto()
    """The baseline tables of the current and the next hour."""
    RENDERED_PAGE = auto()
    """The samples of one snapshot, rendered once for each format."""
    SERIES_FILTER = auto()
    """Which series were admitted."""
    TIME_MARKS = auto()
    """What people know about ranges of time; written to the store while the lock is held."""
    STORE = auto()
    """The SQLite connection, held for single statements or one short transaction."""
    LARGE_SEARCH = auto()
    """Searches with an exceptionally high limit, one at a time, because of the memory for their responses."""
    SEARCH_MEMORY = auto()
    """What earlier searches of a reader have shown."""
    TEMPO_LIMITS = auto()
    """Limits that Tempo has reported: traces per search, length of a range."""
    TEMPO_DECODING = auto()
    """Decoding of responses, one at a time."""
    TEMPO_READINESS = auto()
    """What Tempo last said about itself."""
    TEMPO_THROTTLE = auto()
    """Requests under way and waiting."""
    TEMPO_WATCHDOG = auto()
    """Requests with a deadline."""
    HOLIDAYS = auto()
    """Public holidays by year."""
    PASSWORDS = auto()
    """Passwords that were checked recently."""
    RATE_LIMIT = auto()
    """When an event was last logged."""


class LockOrderError(RuntimeError):
    """A thread acquired a lock while it held one of the same or a higher rank."""


_CHECKED: Final = bool(os.environ.get("EXPORTER_CHECK_LOCKS"))


def new_lock(rank: LockRank, *, checked: bool = _CHECKED) -> AbstractContextManager[bool, None]:
    """Create a lock."""
    return _CheckedLock(rank, threading.Lock()) if checked else threading.Lock()


def new_rlock(rank: LockRank, *, checked: bool = _CHECKED) -> AbstractContextManager[bool, None]:
    """Create a lock that the thread that holds it may acquire again."""
    return _CheckedLock(rank, threading.RLock()) if checked else threading.RLock()


def new_condition(rank: LockRank, *, checked: bool = _CHECKED) -> threading.Condition:
    """Create a condition; the thread that holds its lock may acquire it again."""
    lock: Any = _CheckedLock(rank, threading.RLock()) if checked else threading.RLock()
    return threading.Condition(lock)


class _HeldLocks(threading.local):
    """The locks that the current thread holds; one that was acquired twice is listed twice."""

    def __init__(self) -> None:
        self.locks: list[_CheckedLock] = []


_held: Final = _HeldLocks()


class _CheckedLock(AbstractContextManager[bool, None]):
    """A lock that checks its rank against those that the thread holds."""

    def __init__(self, rank: LockRank, lock: Any) -> None:
        self._rank = rank
        self._lock = lock

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._check()
        acquired: bool = self._lock.acquire(blocking, timeout)
        if acquired:
            _held.locks.append(self)
        return acquired

    def release(self) -> None:
        self._lock.release()
        _held.locks.remove(self)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _check(self) -> None:
        if self in _held.locks:
            return
        highest = max((lock._rank for lock in _held.locks), default=None)  # noqa: SLF001 - its own class
        if highest is not None and highest >= self._rank:
            raise LockOrderError(f"{self._rank.name} acquired while {highest.name} is held")

    # What threading.Condition needs to release a lock however often it was acquired, and to acquire it as often again.

    def _is_owned(self) -> bool:
        return self in _held.locks

    def _release_save(self) -> tuple[object, int]:
        count = _held.locks.count(self)
        _held.locks = [lock for lock in _held.locks if lock is not self]
        return self._lock._release_save(), count  # noqa: SLF001 - the protocol of threading.Condition

    def _acquire_restore(self, saved: tuple[object, int]) -> None:
        state, count = saved
        self._lock._acquire_restore(state)  # noqa: SLF001 - as above
        _held.locks += [self] * count
