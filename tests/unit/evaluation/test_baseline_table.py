from exporter.detection.verdict import HourThresholds
from exporter.evaluation.baseline_table import UNKNOWN, Book, SeriesBaseline, decode_book, encode_book
from exporter.model.span import SeriesKey
from tests.support.samples import HOUR, KEY, NOON, thresholds

NEWER, OLDER = thresholds(0.1), thresholds(0.3)


def book(start: int, *, before: Book | None = None, newer: bool = True) -> Book:
    return Book(start, {KEY: SeriesBaseline(thresholds=NEWER if newer else OLDER)}, before)


def test_a_series_without_history_is_unknown() -> None:
    assert book(NOON).of(SeriesKey("checkout", "POST /pay")) is UNKNOWN
    assert book(NOON).schedule(SeriesKey("checkout", "POST /pay")) == []


def test_the_schedule_is_newest_first() -> None:
    older = book(NOON - HOUR, newer=False)
    assert book(NOON, before=older).schedule(KEY) == [HourThresholds(NOON, NEWER), HourThresholds(NOON - HOUR, OLDER)]


def test_the_schedule_ends_where_there_is_a_gap() -> None:
    gap = Book(NOON - HOUR, before=book(NOON - 2 * HOUR))
    assert book(NOON, before=gap).schedule(KEY) == [HourThresholds(NOON, NEWER)]
    assert Book(NOON, before=book(NOON - HOUR)).schedule(KEY) == []


def test_it_does_not_show_ten_thousand_series_in_a_message() -> None:
    assert repr(book(NOON)) == f"Book(start={NOON})"


def test_bytes_that_are_no_book_are_none() -> None:
    data = encode_book(Book(0), "basis")
    assert decode_book(data, "basis") == Book(0)
    assert decode_book(data, "another") is None
    assert decode_book(data[:-3], "basis") is None
    assert decode_book(b"", "basis") is None
