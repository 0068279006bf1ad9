"""What the machine is, and what processes cost on it; read from Linux's /proc."""

import os
import platform
import sqlite3
import time
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

_PROC: Final = Path("/proc")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat behind the name, which may contain anything: user and system time come 12th and 13th.
_USER_TIME: Final = 11
_IDLE_FIELDS: Final = (3, 4)


class Memory(NamedTuple):
    """Resident memory of a process in bytes: now, and the most it ever was."""

    now: int
    most: int


def memory(pid: int | None = None) -> Memory:
    """The resident memory of a process; of this one by default."""
    status = (_PROC / ("self" if pid is None else str(pid)) / "status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return Memory(int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024)


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used, its threads included."""
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[_USER_TIME]) + int(fields[_USER_TIME + 1])) / _TICKS_PER_SECOND


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def description() -> str:
    """The machine in a line."""
    return (
        f"{cores()} cores ({platform.machine()}), {platform.system()}, "
        f"{platform.python_implementation()} {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


PACE_STEPS: Final = 2_000_000
"""Of the loop that tells the pace."""


def pace_seconds() -> float:
    """What a fixed loop costs the interpreter now: a virtual machine may be half as fast as it was a minute ago."""
    began = time.process_time()
    total = 0
    for step in range(PACE_STEPS):
        total += step
    return time.process_time() - began


class Disturbance:
    """Tells what became of the machine meanwhile: figures taken on a slow one, or beside others, are worth little.

    Attributes:
        seconds: how long it was looked at.
        others: processors that other processes kept busy, on average.
        paces: what the interpreter's pace was before and after, as :func:`pace_seconds` tells.
    """

    seconds: float = 0.0
    others: float = 0.0
    paces: tuple[float, float] = (0.0, 0.0)

    def __enter__(self) -> Self:
        self._pace = pace_seconds()
        self._began = time.monotonic()
        self._busy = _busy_seconds()
        self._own = _own_seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._began
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        self.others = max(0.0, others / self.seconds)
        self.paces = self._pace, pace_seconds()


def _busy_seconds() -> float:
    """What all processors together have worked since the machine was started."""
    fields = [int(field) for field in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - sum(fields[index] for index in _IDLE_FIELDS)) / _TICKS_PER_SECOND


def _own_seconds() -> float:
    """What this process and those of its children that have ended have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
