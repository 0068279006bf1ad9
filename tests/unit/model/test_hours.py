"""Hours of a series: grouping of windows, marks, damaged bytes, and swings."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from exporter.model.calendar import Calendar, DayType, HourClock, Slot
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import DamagedDigestError, encode_digest, encode_marks
from exporter.model.hours import NO_SWINGS, HourEvaluation, SeriesHour, SeriesHours, StoredWindow, hours_of

HOUR = 3600
MONDAY = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp())
CLOCK = HourClock(Calendar())
QUARANTINED = HourEvaluation(quarantined=True)


def stored(start: int, count: int, bucket: int = 0) -> StoredWindow:
    return StoredWindow(start, count, encode_digest(Digest({bucket: count})))


def test_windows_of_one_local_hour_make_one_hour() -> None:
    clock = HourClock(Calendar(ZoneInfo("Asia/Kolkata")))
    begin = MONDAY - HOUR // 2
    windows = [stored(begin + part * 600, part + 1, bucket=part) for part in (5, 0, 3)] + [stored(begin + HOUR, 0)]
    (merged,) = hours_of(windows, clock, {begin: QUARANTINED})
    assert merged.start == begin
    assert merged.slot == Slot(5, DayType.WEEKDAY)
    assert merged.count == 11
    assert merged.counts == {0: 1, 3: 4, 5: 6}
    assert merged.evaluation == QUARANTINED


def test_hour_repeated_by_dst_is_two_hours_of_one_slot() -> None:
    clock = HourClock(Calendar(ZoneInfo("Europe/Berlin")))
    begin = int(datetime(2026, 10, 25, 0, tzinfo=UTC).timestamp())
    first, second = hours_of([stored(begin, 1), stored(begin + HOUR, 1)], clock)
    assert first.slot == second.slot == Slot(2, DayType.WEEKEND)
    assert (first.day, second.start - first.start) == (second.day, HOUR)


def test_marks_yield_the_buckets_of_traces_by_end_time() -> None:
    hour = CLOCK.hour(MONDAY)
    digest = encode_digest(Digest({5: 2, 9: 1}))
    whole = StoredWindow(MONDAY, 3, digest, encode_marks({1: Digest({5: 2}), 14: Digest({9: 1})}))
    assert list(SeriesHour(hour, [whole]).marks()) == [(MONDAY + 300, [5, 5]), (MONDAY + 14 * 300, [9])]
    # A window that starts between two marks: its first mark is the next mark of the clock.
    sixth = stored(MONDAY + 360, 1, 5)._replace(marks=encode_marks({1: Digest({5: 1})}))
    assert list(SeriesHour(hour, [sixth]).marks()) == [(MONDAY + 900, [5])]
    assert list(SeriesHour(hour, [stored(MONDAY, 1)]).marks()) == []


def test_damaged_bytes_raise_on_first_use() -> None:
    damaged = SeriesHour(CLOCK.hour(MONDAY), [StoredWindow(MONDAY, 1, b"\xff", b"\xff")])
    with pytest.raises(DamagedDigestError):
        _ = damaged.counts
    with pytest.raises(DamagedDigestError):
        list(damaged.marks())


def test_swings_sum_over_hours_that_are_not_quarantined() -> None:
    def swinging(index: int, quarantined: bool) -> SeriesHour:
        start = MONDAY + index * HOUR
        return SeriesHour(
            CLOCK.hour(start), [stored(start, 1)], HourEvaluation(quarantined, (index, 1, 10 * index, 2, 0, 0))
        )

    history = SeriesHours([swinging(1, False), swinging(2, True), swinging(3, False)])
    end = MONDAY + 4 * HOUR
    assert history.swings(end) == (4, 2, 40, 4, 0, 0)
    assert history.swings(end - HOUR) == (1, 1, 10, 2, 0, 0)
    assert history.swings(end - HOUR + 1) == (4, 2, 40, 4, 0, 0)
    assert history.swings(MONDAY) == NO_SWINGS
    quarantined = history.at(MONDAY + 2 * HOUR)
    assert quarantined is not None
    assert history.swings(end, [quarantined]) == (6, 3, 60, 6, 0, 0)
    history.set_evaluation(quarantined, quarantined.evaluation._replace(quarantined=False))
    history.discard_before(MONDAY + 2 * HOUR)
    assert history.swings(end) == (5, 2, 50, 4, 0, 0)
    assert [member.start for member in history] == [MONDAY + 2 * HOUR, MONDAY + 3 * HOUR]
    assert len(history) == 2
    assert not history.quarantined
