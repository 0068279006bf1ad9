"""The baselines in force in one hour of the local clock: worked out once, then only read."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from exporter.core.baseline import Baseline
from exporter.core.detection.thresholds import Thresholds
from exporter.core.detection.verdict import HourThresholds, Schedule
from exporter.core.span import SeriesKey


@dataclass(frozen=True, slots=True)
class SeriesBaseline:
    """What is usual for one series in one hour.

    Attributes:
        last_seen: end of the latest stored hour with traffic, Unix seconds; 0 where none is stored.
        baseline: what is published; absent at level 5.
        outlier_threshold_seconds: a single trace slower than this is an outlier; absent at level 5.
        thresholds: what the shift test compares with; absent at level 5 and while the series is learning.
        epoch: since when it has behaved as it does, where a lasting change was accepted.
    """

    last_seen: float = 0.0
    baseline: Baseline | None = None
    outlier_threshold_seconds: float | None = None
    thresholds: Thresholds | None = None
    epoch: int | None = None


UNKNOWN = SeriesBaseline()
"""What is usual for a series of which nothing is stored."""


@dataclass(frozen=True)
class Book:
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
    before: "Book | None" = field(default=None, repr=False)
    known: bool = field(default=True, repr=False)
    judged: bool = field(default=True, repr=False)

    def of(self, key: SeriesKey) -> SeriesBaseline:
        """What is usual for a series."""
        return self.series.get(key, UNKNOWN)

    def schedule(self, key: SeriesKey) -> Schedule:
        """The thresholds for the current window of a series: this hour's, then earlier ones as far as there are any."""
        schedule = []
        book: Book | None = self
        while book is not None:
            thresholds = book.of(key).thresholds
            if thresholds is None:
                break
            schedule.append(HourThresholds(book.start, thresholds))
            book = book.before
        return schedule


NOT_KNOWN_YET = Book(0, known=False, judged=False)
"""The book of any hour as long as nobody has worked out what is usual."""


class _Page(NamedTuple):
    start: int
    series: list[tuple[SeriesKey, SeriesBaseline]]


class _Stored(NamedTuple):
    basis: str
    pages: list[_Page]


def encode_book(book: Book, basis: str) -> bytes:
    """A book as bytes, with the hours before it.

    Args:
        book: the book, made of a past that was judged.
        basis: what else it depends on besides the history: the settings, and what they mean to this version.
    """
    pages = []
    page: Book | None = book
    while page is not None:
        pages.append(_Page(page.start, list(page.series.items())))
        page = page.before
    # The lowest level: ten thousand series are much alike, and this is on the way of other work.
    return zlib.compress(msgspec.msgpack.encode(_Stored(basis, pages)), level=1)


def decode_book(data: bytes, basis: str) -> Book | None:
    """The book of some bytes; nothing where it rests on another basis, or where the bytes are none."""
    try:
        stored = msgspec.msgpack.decode(zlib.decompress(data), type=_Stored)
    except (zlib.error, msgspec.DecodeError):
        return None
    if stored.basis != basis:
        return None
    book: Book | None = None
    for page in reversed(stored.pages):
        book = Book(page.start, dict(page.series), before=book)
    return book
