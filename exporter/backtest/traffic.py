"""Reads recorded traffic from a CSV file with a request per row: ``series,unix_seconds,duration_ms``, and ``failed``.

``unix_seconds`` is the start of the request; ``failed`` says whether it failed, and may be missing. Invalid rows are
counted by reason and left out; a file without the header, or a damaged one, is rejected.
"""

import csv
import gzip
import io
import math
import zlib
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, TextIO

from exporter.model.span import SeriesKey

COLUMNS: Final = ("series", "unix_seconds", "duration_ms")
FAILED_COLUMNS: Final = ("failed", "status")
"""Names that a fourth column may have."""
_FAILED: Final = {
    "": None,
    **dict.fromkeys(("0", "false", "ok", "unset"), False),
    **dict.fromkeys(("1", "true", "error"), True),
}
_UNKNOWN: Final = -1

_GZIP_MAGIC: Final = b"\x1f\x8b"
_MAX_LINE_CHARACTERS: Final = 64 * 1024
_MAX_LINES_OF_ROW: Final = 20
"""Lines of a row after its first one: a name of a series hardly has more."""
_MAX_UNIX_SECONDS: Final = 4_102_444_800
"""2100-01-01. A larger number is most likely a time in milliseconds."""
_MAX_DURATION_MS: Final = 1e12
_ROWS_PER_REPORT: Final = 10_000
_MAX_SHOWN_CHARACTERS: Final = 60


class TrafficError(Exception):
    """The file is not recorded traffic, or cannot be read; the message says why."""


class RequestSample(NamedTuple):
    """Start and duration of one request in nanoseconds, and whether it failed; None if that is unknown."""

    start_ns: int
    duration_ns: int
    failed: bool | None = None


class Requests:
    """The requests of one series, in 17 bytes each."""

    __slots__ = ("_durations_ns", "_failed", "_starts_ns")

    def __init__(self) -> None:
        self._starts_ns = array("q")
        self._durations_ns = array("q")
        self._failed = array("b")

    def __len__(self) -> int:
        return len(self._starts_ns)

    def __iter__(self) -> Iterator[RequestSample]:
        """Iterate in the order in which requests were added."""
        failed = (None if each == _UNKNOWN else bool(each) for each in self._failed)
        return map(RequestSample, self._starts_ns, self._durations_ns, failed)

    def add(self, start_ns: int, duration_ns: int, failed: bool | None = None) -> None:
        """Add a request; the order is arbitrary."""
        self._starts_ns.append(start_ns)
        self._durations_ns.append(duration_ns)
        self._failed.append(_UNKNOWN if failed is None else failed)

    def in_order(self) -> list[RequestSample]:
        """Return the requests by start."""
        return sorted(self, key=lambda each: each[:2])


def key_of(series: str) -> SeriesKey:
    """Return the names of a series in a CSV file: the service before the first slash, and the span behind it."""
    service_name, _, span_name = series.partition("/")
    return SeriesKey(service_name, span_name)


def median_step_seconds(requests: list[RequestSample]) -> float:
    """Return the median time between requests in time order; 0 for fewer than two."""
    if len(requests) < 2:
        return 0.0
    return median(after.start_ns - before.start_ns for before, after in pairwise(requests)) / 1e9


@dataclass
class Traffic:
    """Content of a file.

    Attributes:
        series: requests by series.
        rows: number of rows, without the header.
        bad_rows: number of invalid rows, by reason.
        first_bad_line: line number of the first invalid row; the header is line 1.
    """

    series: dict[str, Requests] = field(default_factory=dict)
    rows: int = 0
    bad_rows: Counter[str] = field(default_factory=Counter)
    first_bad_line: int | None = None

    def bad_rows_message(self, path: Path) -> str | None:
        """Describe the invalid rows; None if there are none."""
        if not self.bad_rows:
            return None
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.bad_rows.items()))
        return (
            f"{path}: {self.bad_rows.total():,} of {self.rows:,} rows are invalid and were left out "
            f"({reasons}); the first is line {self.first_bad_line:,}"
        )


class _BadRowError(Exception):
    """An invalid row; the argument gives the reason, as text that follows the number of rows."""


def read_traffic(path: Path, on_rows: Callable[[int], None] = lambda rows: None) -> Traffic:  # noqa: ARG005
    """Read a file, which may be compressed with gzip.

    Args:
        path: the file.
        on_rows: called regularly with the number of rows read so far.

    Raises:
        TrafficError: the file cannot be read completely, or its first line is not the header.
    """
    traffic = Traffic()
    with _open(path) as file:
        header = _fields(file.readline(_MAX_LINE_CHARACTERS))
        columns = tuple(name.strip() for name in header or ())
        if columns != COLUMNS and columns not in [(*COLUMNS, name) for name in FAILED_COLUMNS]:
            shown = ",".join(header or ())[:_MAX_SHOWN_CHARACTERS]
            raise TrafficError(
                f"{path} line 1: the header must be {','.join(COLUMNS)}, with {' or '.join(FAILED_COLUMNS)} behind it "
                f"if that is known, not {shown!r}"
            )
        for number, fields in _rows(file, after=1, columns=len(columns)):
            traffic.rows += 1
            if traffic.rows % _ROWS_PER_REPORT == 0:
                on_rows(traffic.rows)
            try:
                series, request = _request(fields, len(columns))
            except _BadRowError as error:
                traffic.bad_rows[str(error)] += 1
                if traffic.first_bad_line is None:
                    traffic.first_bad_line = number
                continue
            if series not in traffic.series:
                traffic.series[series] = Requests()
            traffic.series[series].add(*request)
    return traffic


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("rb") as file:
            compressed = file.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
            content = gzip.GzipFile(fileobj=file) if compressed else file
            # backslashreplace keeps invalid UTF-8 visible, and series that differ in it distinct.
            yield io.TextIOWrapper(content, "utf-8-sig", "backslashreplace", newline="\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TrafficError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise TrafficError(f"{path} cannot be read: {error.strerror or error}") from error


class _Lines:
    """The lines of a file, cut off at a maximum length, with their numbers; lines can be put back."""

    def __init__(self, file: TextIO, number: int) -> None:
        self.number = number
        self._file = file
        self._put_back: deque[str] = deque()

    def next(self) -> str:
        """Return the next line; empty at the end of the file."""
        line = self._put_back.popleft() if self._put_back else self._file.readline(_MAX_LINE_CHARACTERS)
        self.number += bool(line)
        return line

    def put_back(self, lines: Sequence[str]) -> None:
        """Return these lines again, in this order."""
        self._put_back.extendleft(reversed(lines))
        self.number -= len(lines)

    def skip_rest(self) -> None:
        """Skip the rest of a line that was cut off."""
        while (rest := self._file.readline(_MAX_LINE_CHARACTERS)) and not rest.endswith("\n"):
            pass


def _rows(file: TextIO, *, after: int, columns: int) -> Iterator[tuple[int, list[str] | None]]:
    """Yield the number of the first line and the fields of each row that is not empty.

    The fields are None for lines that are too long or not valid CSV.
    """
    lines = _Lines(file, after)
    while line := lines.next():
        number = lines.number
        if _is_cut_off(line):
            lines.skip_rest()
            yield number, None
        elif not line.isspace():
            yield number, _fields(line) or _fields_of_lines(line, lines, columns)


def _is_cut_off(line: str) -> bool:
    return len(line) == _MAX_LINE_CHARACTERS and not line.endswith("\n")


def _fields_of_lines(first: str, lines: _Lines, columns: int) -> list[str] | None:
    """Return the fields of a row that continues on further lines inside quotes; None if it does not become valid.

    The number of lines is limited, and so is that of the fields: one stray quote does not consume the rest of the file.
    """
    taken: list[str] = []
    text = first
    while len(taken) < _MAX_LINES_OF_ROW and len(text) < _MAX_LINE_CHARACTERS:
        line = lines.next()
        if not line:
            break
        taken.append(line)
        if _is_cut_off(line):
            break
        text += line
        fields = _fields(text) if '"' in line else None
        if fields is not None:
            if len(fields) == columns:
                return fields
            break
    lines.put_back(taken)
    return None


def _fields(line: str) -> list[str] | None:
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader((line,), strict=True))
    except csv.Error:
        return None


def _request(fields: list[str] | None, columns: int) -> tuple[str, RequestSample]:
    if fields is None or len(fields) != columns:
        raise _BadRowError(f"without exactly {'three' if columns == len(COLUMNS) else 'four'} fields")
    series, start, duration, *rest = fields
    if not series:
        raise _BadRowError("without a series")
    seconds = _number(start)
    if seconds is None or not 0 <= seconds < _MAX_UNIX_SECONDS:
        raise _BadRowError("with a time that is not in Unix seconds")
    milliseconds = _number(duration)
    if milliseconds is None or not 0 <= milliseconds <= _MAX_DURATION_MS:
        raise _BadRowError("with a duration that is not in milliseconds")
    failed = rest[0].strip().lower() if rest else ""
    if failed not in _FAILED:
        raise _BadRowError("with neither 0 nor 1 as failed")
    return series, RequestSample(round(seconds * 1e9), round(milliseconds * 1e6), _FAILED[failed])


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
