"""The machine, and processor time and memory of processes, from Linux's /proc."""

import os
import platform
import sqlite3
import time
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

_PROC: Final = Path("/proc")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat after the process name, which may contain spaces: user time is the 12th, system time next.
_USER_TIME: Final = 11
_IDLE_FIELDS: Final = (3, 4)


class Memory(NamedTuple):
    """Resident memory of a process in bytes: current and peak."""

    now: int
    most: int


def memory(pid: int | None = None) -> Memory:
    """Return the resident memory of a process, by default of this one."""
    status = (_PROC / ("self" if pid is None else str(pid)) / "status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return Memory(int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, all threads included."""
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[_USER_TIME]) + int(fields[_USER_TIME + 1])) / _TICKS_PER_SECOND


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def description() -> str:
    """Describe the machine in one line."""
    return (
        f"{cores()} cores ({platform.machine()}), {platform.system()}, "
        f"{platform.python_implementation()} {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


PACE_STEPS: Final = 2_000_000
"""Iterations of the loop that measures the interpreter's speed."""


def pace_seconds() -> float:
    """Return the processor time of a fixed loop; a virtual machine's speed can halve within a minute."""
    began = time.process_time()
    total = 0
    for step in range(PACE_STEPS):
        total += step
    return time.process_time() - began


class Disturbance:
    """Records the conditions of a measurement: figures from a slow or busy machine mean little.

    Attributes:
        seconds: duration of the measurement.
        others: processors busy with other processes, on average.
        paces: :func:`pace_seconds` before and after.
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
    """Return the busy time of all processors since boot."""
    fields = [int(field) for field in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - sum(fields[index] for index in _IDLE_FIELDS)) / _TICKS_PER_SECOND


def _own_seconds() -> float:
    """Return the processor time of this process and of its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
