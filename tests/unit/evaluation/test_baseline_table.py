from exporter.detection.schedule import HourThresholds
from exporter.evaluation.baseline_table import UNKNOWN, BaselineTable, SeriesBaseline, decode_table, encode_table
from exporter.model.span import SeriesKey
from tests.support.samples import HOUR, KEY, NOON, thresholds

NEWER, OLDER = thresholds(0.1), thresholds(0.3)


def book(start: int, *, before: BaselineTable | None = None, newer: bool = True) -> BaselineTable:
    return BaselineTable(start, {KEY: SeriesBaseline(thresholds=NEWER if newer else OLDER)}, before)


def test_a_series_without_history_is_unknown() -> None:
    assert book(NOON).of(SeriesKey("checkout", "POST /pay")) is UNKNOWN
    assert book(NOON).schedule(SeriesKey("checkout", "POST /pay")) == []


def test_the_schedule_is_newest_first() -> None:
    older = book(NOON - HOUR, newer=False)
    assert book(NOON, before=older).schedule(KEY) == [HourThresholds(NOON, NEWER), HourThresholds(NOON - HOUR, OLDER)]


def test_the_schedule_ends_where_there_is_a_gap() -> None:
    gap = BaselineTable(NOON - HOUR, before=book(NOON - 2 * HOUR))
    assert book(NOON, before=gap).schedule(KEY) == [HourThresholds(NOON, NEWER)]
    assert BaselineTable(NOON, before=book(NOON - HOUR)).schedule(KEY) == []


def test_it_does_not_show_ten_thousand_series_in_a_message() -> None:
    assert repr(book(NOON)) == f"BaselineTable(start={NOON})"


def test_bytes_that_are_no_book_are_none() -> None:
    data = encode_table(BaselineTable(0), "basis")
    assert decode_table(data, "basis") == BaselineTable(0)
    assert decode_table(data, "another") is None
    assert decode_table(data[:-3], "basis") is None
    assert decode_table(b"", "basis") is None
