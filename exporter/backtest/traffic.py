"""Recorded traffic from a CSV file, one request a row: ``series,unix_seconds,duration_ms``, the time being its start.

Files come from anywhere. A row that is none is counted by what is wrong with it, and the rest is used; a file that is
no such file at all, or is damaged, is refused.
"""

import csv
import gzip
import io
import math
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, TextIO

COLUMNS: Final = ("series", "unix_seconds", "duration_ms")

_GZIP_MAGIC: Final = b"\x1f\x8b"
_LONGEST_LINE: Final = 64 * 1024
_LATEST: Final = 4_102_444_800
"""2100-01-01: whatever lies behind is no time in seconds, most likely it is one in milliseconds."""
_LONGEST_MS: Final = 1e12
_REPORT_ROWS: Final = 10_000
_SHOWN: Final = 60


class TrafficError(Exception):
    """The file is no recorded traffic, or cannot be read; the message says why."""


class RequestSample(NamedTuple):
    """One request; nanoseconds, the start since the Unix epoch."""

    start_ns: int
    duration_ns: int


class Requests:
    """The requests of one series, sixteen bytes each."""

    __slots__ = ("_durations_ns", "_starts_ns")

    def __init__(self) -> None:
        self._starts_ns = array("q")
        self._durations_ns = array("q")

    def __len__(self) -> int:
        return len(self._starts_ns)

    def __iter__(self) -> Iterator[RequestSample]:
        """In the order in which they were added."""
        return map(RequestSample, self._starts_ns, self._durations_ns)

    def add(self, start_ns: int, duration_ns: int) -> None:
        """Add a request; they may come in any order."""
        self._starts_ns.append(start_ns)
        self._durations_ns.append(duration_ns)

    def in_order(self) -> list[RequestSample]:
        """All of them by start."""
        return sorted(self)


def median_step_seconds(requests: list[RequestSample]) -> float:
    """The usual distance of requests in time order; 0 where there is at most one."""
    if len(requests) < 2:
        return 0.0
    return median(after.start_ns - before.start_ns for before, after in pairwise(requests)) / 1e9


@dataclass
class Traffic:
    """What a file holds.

    Attributes:
        series: the requests by series.
        rows: rows read, the header aside.
        bad: how many of them could not be used, by what is wrong with them.
        first_bad_line: the first of those, counted from 1 with the header.
    """

    series: dict[str, Requests] = field(default_factory=dict)
    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    first_bad_line: int | None = None

    def bad_rows_message(self, path: Path) -> str | None:
        """What is to be said about the rows that could not be used; nothing where there are none."""
        if not self.bad:
            return None
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.bad.items()))
        return (
            f"{path}: {self.bad.total():,} of {self.rows:,} rows could not be used and were left out "
            f"({reasons}); the first is line {self.first_bad_line:,}"
        )


class _BadRowError(Exception):
    """A row that cannot be used; the argument says why, in words that follow a number of rows."""


def read_traffic(path: Path, on_rows: Callable[[int], None] = lambda rows: None) -> Traffic:  # noqa: ARG005
    """Read a file, which may be compressed with gzip.

    Args:
        path: the file.
        on_rows: is told now and then how many rows were read.

    Raises:
        TrafficError: the file cannot be read to its end, or its first line is not the header.
    """
    traffic = Traffic()
    with _opened(path) as file:
        header = _fields(file.readline(_LONGEST_LINE))
        if header is None or tuple(name.strip() for name in header) != COLUMNS:
            shown = ",".join(header or ())[:_SHOWN]
            raise TrafficError(f"{path} line 1: the header must be {','.join(COLUMNS)}, not {shown!r}")
        for number, fields in _rows(file, after=1):
            traffic.rows += 1
            if traffic.rows % _REPORT_ROWS == 0:
                on_rows(traffic.rows)
            try:
                series, request = _request(fields)
            except _BadRowError as error:
                traffic.bad[str(error)] += 1
                if traffic.first_bad_line is None:
                    traffic.first_bad_line = number
                continue
            if series not in traffic.series:
                traffic.series[series] = Requests()
            traffic.series[series].add(*request)
    return traffic


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("rb") as file:
            compressed = file.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
            content = gzip.GzipFile(fileobj=file) if compressed else file
            # What is no UTF-8 stays visible, and two series that differ in it stay apart.
            yield io.TextIOWrapper(content, "utf-8-sig", "backslashreplace", newline="\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TrafficError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise TrafficError(f"{path} cannot be read: {error.strerror or error}") from error


def _rows(file: TextIO, *, after: int) -> Iterator[tuple[int, list[str] | None]]:
    """The number and the fields of each line that is not empty; no fields where it is no CSV or has no end.

    A row is a line: with line breaks in quotes, one stray quote would swallow the rest of the file.
    """
    number = after
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE and not line.endswith("\n"):
            while (rest := file.readline(_LONGEST_LINE)) and not rest.endswith("\n"):
                pass
            yield number, None
        elif not line.isspace():
            yield number, _fields(line)


def _fields(line: str) -> list[str] | None:
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader((line,), strict=True))
    except csv.Error:
        return None


def _request(fields: list[str] | None) -> tuple[str, RequestSample]:
    if fields is None or len(fields) != len(COLUMNS):
        raise _BadRowError("without exactly three fields")
    series, start, duration = fields
    if not series:
        raise _BadRowError("without a series")
    seconds = _number(start)
    if seconds is None or not 0 <= seconds < _LATEST:
        raise _BadRowError("with a time that is not in Unix seconds")
    milliseconds = _number(duration)
    if milliseconds is None or not 0 <= milliseconds <= _LONGEST_MS:
        raise _BadRowError("with a duration that is not in milliseconds")
    return series, RequestSample(round(seconds * 1e9), round(milliseconds * 1e6))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
