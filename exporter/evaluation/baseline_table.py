"""The baselines in force in one hour of the local clock: worked out once, then only read.

The books that are there: one thread works them out and puts them here, another asks for them.

Whoever asks waits for a moment at most, and goes without otherwise.
"""

import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from exporter.baseline.levels import Baseline
from exporter.detection.schedule import HourThresholds, Schedule
from exporter.detection.thresholds import Thresholds
from exporter.model.span import SeriesKey


@dataclass(frozen=True, slots=True)
class SeriesBaseline:
    """What is usual for one series in one hour.

    Attributes:
        last_seen: end of the latest stored hour with traffic, Unix seconds; 0 where none is stored.
        baseline: what is published; absent at level 5.
        outlier_threshold_seconds: a single trace slower than this is an outlier; absent at level 5.
        thresholds: what the shift test compares with; absent at level 5 and while the series is learning.
        changepoint: since when it has behaved as it does, where a lasting change was accepted.
    """

    last_seen: float = 0.0
    baseline: Baseline | None = None
    outlier_threshold_seconds: float | None = None
    thresholds: Thresholds | None = None
    changepoint: int | None = None


UNKNOWN = SeriesBaseline()
"""What is usual for a series of which nothing is stored."""


@dataclass(frozen=True)
class BaselineTable:
    """All baselines for one hour.

    Attributes:
        start: when the hour begins, Unix seconds.
        series: what is usual for each series that has a history.
        before: the hour before, where the current window may reach into it; only its thresholds are known.
        known: whether it says what is usual. If not, that a series is missing from it says nothing about the series.
        judged: whether the past was judged far enough for verdicts. If not, that there are no thresholds says nothing
            about a flag that is up.
    """

    start: int
    series: Mapping[SeriesKey, SeriesBaseline] = field(default_factory=dict, repr=False)
    before: "BaselineTable | None" = field(default=None, repr=False)
    known: bool = field(default=True, repr=False)
    judged: bool = field(default=True, repr=False)

    def of(self, key: SeriesKey) -> SeriesBaseline:
        """What is usual for a series."""
        return self.series.get(key, UNKNOWN)

    def schedule(self, key: SeriesKey) -> Schedule:
        """The thresholds for the current window of a series: this hour's, then earlier ones as far as there are any."""
        schedule = []
        book: BaselineTable | None = self
        while book is not None:
            thresholds = book.of(key).thresholds
            if thresholds is None:
                break
            schedule.append(HourThresholds(book.start, thresholds))
            book = book.before
        return schedule


NOT_KNOWN_YET = BaselineTable(0, known=False, judged=False)
"""The book of any hour as long as nobody has worked out what is usual."""


class _StoredHour(NamedTuple):
    start: int
    series: list[tuple[SeriesKey, SeriesBaseline]]


class _Stored(NamedTuple):
    basis: str
    pages: list[_StoredHour]


def encode_table(book: BaselineTable, basis: str) -> bytes:
    """A book as bytes, with the hours before it.

    Args:
        book: the book, made of a past that was judged.
        basis: what else it depends on besides the history: the settings, and what they mean to this version.
    """
    pages = []
    page: BaselineTable | None = book
    while page is not None:
        pages.append(_StoredHour(page.start, list(page.series.items())))
        page = page.before
    # The lowest level: ten thousand series are much alike, and this is on the way of other work.
    return zlib.compress(msgspec.msgpack.encode(_Stored(basis, pages)), level=1)


def decode_table(data: bytes, basis: str) -> BaselineTable | None:
    """The book of some bytes; nothing where it rests on another basis, or where the bytes are none."""
    try:
        stored = msgspec.msgpack.decode(zlib.decompress(data), type=_Stored)
    except (zlib.error, msgspec.DecodeError):
        return None
    if stored.basis != basis:
        return None
    book: BaselineTable | None = None
    for page in reversed(stored.pages):
        book = BaselineTable(page.start, dict(page.series), before=book)
    return book


class BaselineCache:
    """Holds the book in force, and the next one once it is prepared; for any number of threads."""

    def __init__(
        self, patience_seconds: float, monotonic: Callable[[], float], on_missed: Callable[[BaselineTable], None]
    ) -> None:
        """Begin without any book.

        Args:
            patience_seconds: how long to wait for a book that is asked for and not there, once for each hour.
            monotonic: seconds that never jump.
            on_missed: is told, once for each hour, that its book was not there, and which one stays in force.
        """
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._on_missed = on_missed
        # Guards what follows; notified when a book comes, and when none will any more.
        self._changed = threading.Condition()
        self._book = NOT_KNOWN_YET
        self._next: BaselineTable | None = None
        self._asked: int | None = None
        self._wait_until = 0.0
        self._missed: int | None = None
        self._closed = False

    # For those who ask

    def get(self, hour_start: int) -> BaselineTable:
        """The book in force in an hour: its own, if that is there or comes within the patience, or else the last one.

        At the start, where there is none yet, it is not known what is usual.
        """
        with self._changed:
            if not self._has(hour_start):
                self._changed.wait_for(lambda: self._closed or self._has(hour_start), self._patience(hour_start))
            if self._next is not None and self._next.start == hour_start:
                self._book, self._next = self._next, None
            book = self._book
            missed = None if book.start == hour_start else hour_start
            newly_missed = missed is not None and missed != self._missed
            self._missed = missed
        if newly_missed:
            self._on_missed(book)
        return book

    def wait_for_missed(self, seconds: float) -> bool:
        """Wait, at most for so long, for the book that was asked for last and was not there; whether it has come."""
        with self._changed:
            missed = self._missed
            if missed is None:
                return False
            self._changed.wait_for(lambda: self._closed or self._has(missed), seconds)
            return self._has(missed)

    def _has(self, hour_start: int) -> bool:
        return self._book.start == hour_start or (self._next is not None and self._next.start == hour_start)

    def _patience(self, hour_start: int) -> float:
        """How long to wait for the book of an hour now."""
        now = self._monotonic()
        if self._asked != hour_start:
            self._asked, self._wait_until = hour_start, now + self._patience_seconds
        return max(0.0, self._wait_until - now)

    # For who works them out

    def has(self, hour_start: int) -> bool:
        """Whether the book of an hour is there."""
        with self._changed:
            return self._has(hour_start)

    def put(self, book: BaselineTable) -> bool:
        """Put a book in force; whether somebody has had to go without it so far."""
        with self._changed:
            self._book, self._next = book, None
            self._changed.notify_all()
            return self._missed == book.start

    def renew(self, book: BaselineTable) -> bool:
        """Put a book in force, unless that of a later hour is by now; whether it is."""
        with self._changed:
            # Whatever was prepared knows less than this one.
            self._next = None
            if self._book.start > book.start:
                return False
            self._book = book
            self._changed.notify_all()
            return True

    def prepare(self, book: BaselineTable) -> None:
        """Keep a book ready for when its hour begins."""
        with self._changed:
            if self._book.start < book.start:
                self._next = book
                self._changed.notify_all()

    def close(self) -> None:
        """No book will come any more: nobody is to wait for one."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
